//! CLIP: tokenizer and text encoder.
