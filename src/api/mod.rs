//! The HTTP surface (axum): routes, auth, problem+json, `Prefer: wait`, event streams. Never touches a tensor.
//!
//! Owns what clients see. Writes rows and reads them; who works on them is none of its business. Webhooks, file uploads
//! and model descriptions are not served yet.

mod auth;
mod create;
mod feed;
mod images;
mod outputs;
mod path;
mod predictions;
mod previews;
mod problem;
mod server;
mod sse;
mod stream;
mod token;
mod view;
mod wait;

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::http::uri::PathAndQuery;
use axum::http::{HeaderMap, Uri};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;

pub use auth::Keys;
pub use feed::Feeds;
pub use images::with_openai_models;
pub use path::normalise;
pub use server::{Limits, Server};
pub use token::{Purpose, Tokens};

use crate::blobs::Blobs;
use crate::domain::Catalog;
use crate::store::Store;
use problem::Problem;
use view::Origin;

/// Bytes that a request body may have: room for pictures as data URIs.
const BODY_LIMIT: usize = 20 * 1024 * 1024;

/// What the handlers work with.
#[derive(Clone)]
pub struct ApiState {
    pub store: Arc<dyn Store>,
    pub blobs: Blobs,
    pub catalog: Arc<Catalog>,
    pub keys: Keys,
    /// What listeners are told.
    pub feeds: Feeds,
    pub tokens: Tokens,
    /// The origin of the URLs in answers; without it, the one that the client used.
    pub public_url: Option<String>,
    /// Predictions that may wait.
    pub queue_limit: u64,
    /// Held answers are given at once when this is cancelled.
    pub closing: CancellationToken,
}

/// All routes, by their normalised paths.
pub fn router(state: ApiState) -> Router {
    let private = Router::new()
        .route("/predictions", get(predictions::list).post(create::by_version))
        .route("/predictions/{id}", get(predictions::get))
        .route("/predictions/{id}/cancel", post(predictions::cancel))
        .route("/predictions/{id}/previews", get(previews::by_id))
        .route("/models/{owner}/{name}/predictions", post(create::by_model))
        .route("/p/{id}", get(predictions::get))
        .route("/images/generations", post(images::generate))
        .route_layer(from_fn_with_state(state.clone(), auth::require));
    let public = Router::new()
        .route("/", get(index))
        .route("/health-check", get(health_check))
        .route("/outputs/{folder}/{name}", get(outputs::get))
        .route("/files/{name}", get(file_or_stream))
        .route("/previews/{token}", get(previews::by_token));
    private
        .merge(public)
        .fallback(async || Problem::not_found())
        .method_not_allowed_fallback(async || Problem::method_not_allowed())
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .layer(from_fn(problem::explain_refusals))
        .layer(CatchPanicLayer::custom(Problem::of_panic))
        .layer(from_fn(images::answer_in_openai_words))
        .with_state(state)
}

/// The request with its path normalised.
fn with_normal_path(mut request: Request) -> Request {
    let path = normalise(request.uri().path());
    let target = match request.uri().query() {
        Some(query) => format!("{path}?{query}"),
        None => path,
    };
    // Taking slashes and segments out of a valid path leaves a valid path; if not, the route is simply not found.
    if let Ok(target) = PathAndQuery::try_from(target) {
        let mut parts = request.uri().clone().into_parts();
        parts.path_and_query = Some(target);
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
    }
    request
}

/// `GET /files/{name}`: a prediction's stream, for whoever knows its token. There are no files yet.
async fn file_or_stream(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    origin: Origin,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    match state.tokens.prediction(Purpose::Stream, &name) {
        Some(id) => stream::get(&state, id, origin, &headers).await,
        None => Err(Problem::not_found()),
    }
}

async fn index(State(state): State<ApiState>) -> Json<Value> {
    let served = state.catalog.served();
    Json(json!({
        "name": "stablehand",
        "version": env!("CARGO_PKG_VERSION"),
        "model": served.name,
        "stands_in_for": served.stands_in_for,
    }))
}

async fn health_check(State(state): State<ApiState>) -> Result<Json<Value>, Response> {
    use axum::http::StatusCode;
    use axum::response::IntoResponse;
    match state.store.count_queued().await {
        Ok(queued) => Ok(Json(json!({"status": "READY", "queued": queued}))),
        Err(error) => {
            tracing::error!("health check: {error}");
            Err((StatusCode::SERVICE_UNAVAILABLE, Json(json!({"status": "UNHEALTHY"}))).into_response())
        }
    }
}
