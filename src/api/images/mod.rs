//! OpenAI's Images API on the same queue: `POST /images/generations`, which waits for its pictures.
//!
//! Owns the translation between the two vocabularies, errors included. A client that goes away takes its predictions with
//! it.

mod format;
mod refusal;
mod request;

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::sync::broadcast;
use tokio::time::Instant;

use super::ApiState;
use super::create::{RawBody, random_seed};
use super::problem::Problem;
use super::view::Origin;
use super::wait::until_finished;
use crate::blobs::BlobError;
use crate::domain::{Prediction, Resolved, Status, new_prediction_id};
use crate::store::{Change, NewPrediction, Store};
use refusal::Refusal;
pub use refusal::answer_in_openai_words;
use request::{Asked, Batch};

/// Nobody waits longer than this for pictures.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3600);

/// `POST /images/generations`
pub async fn generate(
    State(state): State<ApiState>,
    origin: Origin,
    RawBody(body): RawBody,
) -> Result<Json<Value>, Refusal> {
    let asked = Asked::parse(&body)?;
    let resolved = resolve(&state, asked.model.as_deref())?;
    let batches = asked.batches(resolved.table)?;
    let size = batches.first().map(|batch| format!("{}x{}", batch.parsed.width, batch.parsed.height));
    let created = jiff::Timestamp::now().as_second();

    let mut abandoned = Abandoned { store: state.store.clone(), ids: Vec::new() };
    let mut running = Vec::new();
    for batch in batches {
        let changes = state.store.changes();
        let prediction = insert(&state, &origin, &resolved, batch).await?;
        abandoned.ids.push(prediction.id.clone());
        running.push((prediction, changes));
    }
    let mut data = Vec::new();
    for (prediction, changes) in running {
        for path in pictures(&state, prediction, changes).await? {
            data.push(match asked.links {
                true => json!({"url": origin.output(&path)}),
                false => json!({"b64_json": encoded(&state, &path, asked.format).await?}),
            });
        }
    }
    abandoned.ids.clear();
    Ok(Json(json!({
        "created": created,
        "data": data,
        "output_format": asked.format.name(),
        "size": size,
        "quality": asked.quality,
    })))
}

/// The model of that name, short names included; the served one without a name.
fn resolve<'a>(state: &'a ApiState, model: Option<&str>) -> Result<Resolved<'a>, Refusal> {
    let served = state.catalog.served();
    let name = match model {
        None | Some("") => &served.name,
        Some(name) if served.aliases.iter().any(|alias| alias.eq_ignore_ascii_case(name)) => &served.name,
        Some(name) => name,
    };
    state.catalog.resolve(name).ok_or_else(|| Refusal::unknown_model(name))
}

async fn insert(
    state: &ApiState,
    origin: &Origin,
    resolved: &Resolved<'_>,
    batch: Batch,
) -> Result<Prediction, Refusal> {
    let new = NewPrediction {
        id: new_prediction_id(),
        model: resolved.model.to_string(),
        version: resolved.version.to_string(),
        input: batch.input,
        seed: match batch.parsed.seed {
            Some(seed) => seed,
            None => random_seed()?,
        },
        origin: origin.as_str().to_string(),
        ..NewPrediction::default()
    };
    Ok(state.store.insert(new, state.queue_limit).await?)
}

/// Waits for a prediction and takes its pictures' blob paths.
async fn pictures(
    state: &ApiState,
    prediction: Prediction,
    changes: broadcast::Receiver<Change>,
) -> Result<Vec<String>, Refusal> {
    let ended = until_finished(state, prediction, changes, Instant::now() + LONGEST_WAIT).await?;
    match ended.status {
        Status::Succeeded => Ok(ended.output.unwrap_or_default()),
        Status::Failed => Err(Refusal::failed(ended.error.unwrap_or_default())),
        Status::Canceled | Status::Aborted => Err(Refusal::failed("The request was canceled.")),
        Status::Starting | Status::Processing => Err(Refusal::closing()),
    }
}

/// A stored picture in base64.
async fn encoded(state: &ApiState, path: &str, format: format::Format) -> Result<String, Refusal> {
    let (folder, name) = path.split_once('/').unwrap_or((path, ""));
    let png = state.blobs.get(folder, name).await?.bytes().await.map_err(BlobError::from)?;
    let work = tokio::task::spawn_blocking(move || format.convert(&png).map(|bytes| STANDARD.encode(bytes)));
    Ok(work.await.map_err(Problem::internal)?.map_err(Problem::internal)?)
}

/// Predictions that nobody waits for once this is dropped: they are canceled.
struct Abandoned {
    store: Arc<dyn Store>,
    ids: Vec<String>,
}

impl Drop for Abandoned {
    fn drop(&mut self) {
        let (store, ids) = (self.store.clone(), std::mem::take(&mut self.ids));
        let runtime = tokio::runtime::Handle::try_current();
        if let (false, Ok(runtime)) = (ids.is_empty(), runtime) {
            runtime.spawn(async move {
                for id in ids {
                    if let Err(error) = store.request_cancel(&id).await {
                        tracing::error!("{id}: not canceled: {error}");
                    }
                }
            });
        }
    }
}

/// A page of models in Replicate's shape with OpenAI's beside it: `object: "list"` and `data`.
pub fn with_openai_models(mut page: Value) -> Value {
    let models = page.get("results").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let text = |model: &Value, name: &str| model.get(name).and_then(Value::as_str).unwrap_or_default().to_string();
    let data: Vec<Value> = models
        .iter()
        .map(|model| {
            let (owner, name) = (text(model, "owner"), text(model, "name"));
            let version = model.get("latest_version").unwrap_or(&Value::Null);
            let created = [text(model, "created_at"), text(version, "created_at")];
            let created = created.iter().find_map(|time| time.parse::<jiff::Timestamp>().ok());
            let created = created.map_or(0, jiff::Timestamp::as_second);
            json!({"id": format!("{owner}/{name}"), "object": "model", "created": created, "owned_by": owner})
        })
        .collect();
    page["object"] = "list".into();
    page["data"] = data.into();
    page
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_page_of_models_has_both_shapes() {
        let page = json!({"next": null, "previous": null, "results": [
            {"owner": "a", "name": "b", "latest_version": {"created_at": "2022-11-24T03:01:47Z"}},
            {"owner": "c", "name": "d", "created_at": "1970-01-01T00:00:09Z", "latest_version": null},
            {"owner": "e", "name": "f"},
        ]});
        let both = with_openai_models(page.clone());
        assert_eq!((&both["object"], &both["results"]), (&json!("list"), &page["results"]));
        let model = |id: &str, created: i64, owner: &str| json!({"id": id, "object": "model", "created": created, "owned_by": owner});
        assert_eq!(both["data"], json!([model("a/b", 1669258907, "a"), model("c/d", 9, "c"), model("e/f", 0, "e")]));
        assert_eq!(with_openai_models(json!({}))["data"], json!([]));
    }
}
