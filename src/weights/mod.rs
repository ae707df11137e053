//! Model manifests to files (hub download, local directory, built in) to tensors.
//!
//! Owns the checkpoint's layout (diffusers directories), the reading of safetensors and the names that tensors had
//! in older releases. Does not know what a UNet is, reads no environment variable and never unpickles anything.

mod builtin;
mod checkpoint;
mod error;
pub mod hub;
pub mod manifests;
mod names;
mod resolve;
mod tensor_file;
mod tensors;

pub use checkpoint::Checkpoint;
pub use error::WeightsError;
pub use resolve::{Resolved, find, resolve};
