//! Fast kernels behind candle, each with a plain-candle fallback and a test against it.
