//! Integration tests by theme, linked once.
#![allow(clippy::unwrap_used)]

mod api;
mod arrows;
mod batching;
mod engine;
mod full_size;
mod generate;
mod golden;
mod hub;
mod images;
mod listeners;
mod noise;
mod ops;
mod previews;
mod restart;
mod samplers;
mod stage;
mod store;
mod streams;
mod text_encoder;
mod tokenizer;
mod unet;
mod vae;
mod weights;
