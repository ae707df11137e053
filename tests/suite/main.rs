//! Integration tests by theme, linked once.
#![allow(clippy::unwrap_used)]

mod arrows;
mod store;
mod weights;
