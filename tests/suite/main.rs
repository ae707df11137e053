//! Integration tests by theme, linked once.
#![allow(clippy::unwrap_used)]

mod api;
mod arrows;
mod engine;
mod golden;
mod noise;
mod stage;
mod samplers;
mod store;
mod tokenizer;
mod unet;
mod vae;
mod text_encoder;
mod tokenizer;
mod weights;
