//! Integration tests by theme, linked once.
#![allow(clippy::unwrap_used)]

mod access;
mod api;
mod arrows;
mod batching;
mod browser;
mod clients;
mod engine;
mod files;
mod full_size;
mod generate;
mod golden;
mod hub;
mod images;
mod listeners;
mod models;
mod noise;
mod openapi;
mod ops;
mod outbox;
mod outputs;
mod previews;
mod receiver;
mod restart;
mod samplers;
mod stage;
mod store;
mod streams;
mod text_encoder;
mod tokenizer;
mod tools;
mod unet;
mod vae;
mod webhooks;
mod weights;
