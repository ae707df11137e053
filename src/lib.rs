//! Stablehand: a self-hosted inference server for Stable Diffusion that speaks Replicate's predictions API.
//!
//! The rooms and who may know whom are described in `docs/ARCHITECTURE.md`; `tests/suite/arrows.rs` keeps it true.

pub mod api;
pub mod blobs;
pub mod cli;
pub mod config;
pub mod diffusion;
pub mod domain;
pub mod engine;
pub mod fetch;
pub mod live;
pub mod ops;
pub mod store;
pub mod uploads;
pub mod web;
pub mod webhooks;
pub mod weights;
pub mod worker;
