//! Integration tests by theme, linked once.
#![allow(clippy::unwrap_used)]

mod arrows;
mod engine;
mod golden;
mod noise;
mod store;
mod unet;
mod vae;
mod text_encoder;
mod tokenizer;
mod weights;
