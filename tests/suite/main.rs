//! Integration tests by theme, linked once.
#![allow(clippy::unwrap_used)]

mod arrows;
mod engine;
mod store;
mod weights;
