//! Plain data and rules: predictions and their transitions, typed inputs and field errors, webhooks, uploads, model
//! manifests. Knows nothing of HTTP, SQL or tensors.

mod catalog;
mod id;
mod input;
mod manifest;
mod prediction;
mod scheduler;
mod size;
mod table;
mod upload;
mod webhook;

pub use catalog::{Catalog, Hardware, Resolved};
pub use id::{new_file_id, new_message_id, new_prediction_id};
pub use input::{FieldError, Input, json_type};
pub use manifest::{ManifestError, ModelManifest, Source, Version};
pub use prediction::{INTERRUPTED, Metrics, Prediction, PredictionSource, Status};
pub use scheduler::{NoiseSource, Scheduler};
pub use size::{Size, SizeWish};
pub use table::{Dimensions, Field, InputLimits, InputTable, Integers, Names, Numbers, Rule, Sizes, Text};
pub use upload::{Upload, file_id_of_url, is_file_id};
pub use webhook::{Webhook, WebhookEvent};
