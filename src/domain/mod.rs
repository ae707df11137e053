//! Plain data and rules: predictions and their transitions, typed inputs and field errors, model manifests.
//! Knows nothing of HTTP, SQL or tensors.

mod catalog;
mod id;
mod input;
mod manifest;
mod prediction;
mod scheduler;
mod size;
mod table;

pub use catalog::{Catalog, Hardware, Resolved};
pub use id::new_prediction_id;
pub use input::{FieldError, Input, json_type};
pub use manifest::{ManifestError, ModelManifest, Source, Version};
pub use prediction::{INTERRUPTED, Metrics, Prediction, Status};
pub use scheduler::{NoiseSource, Scheduler};
pub use size::{Size, SizeWish};
pub use table::{Dimensions, Field, InputLimits, InputTable, Integers, Names, Numbers, Rule, Sizes, Text};
