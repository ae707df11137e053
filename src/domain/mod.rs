//! Plain data and rules: predictions and their transitions, typed inputs and field errors, model manifests.
//! Knows nothing of HTTP, SQL or tensors.

mod scheduler;

pub use scheduler::{NoiseSource, Scheduler};
