//! The HTTP surface (axum): routes, auth, problem+json, `Prefer: wait`, event streams. Never touches a tensor.
//!
//! Owns what clients see, the bodies of webhooks included. Writes rows and reads them; who works on them, and who sends
//! webhooks, is none of its business.

mod auth;
mod cancel_after;
mod cors;
mod create;
mod feed;
mod files;
mod images;
mod models;
mod openapi;
mod origin;
mod outputs;
mod path;
mod predictions;
mod previews;
mod problem;
mod rate_limit;
mod server;
mod sse;
mod stored;
mod stream;
mod token;
mod view;
mod wait;
mod webhooks;

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::Uri;
use axum::http::uri::PathAndQuery;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Json, Router};
use ipnet::IpNet;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;

pub use auth::Keys;
pub use feed::Feeds;
pub use origin::OutputUrls;
pub use path::normalise;
pub use rate_limit::RateLimits;
pub use server::{Limits, Server};
pub use token::{Purpose, Tokens};
pub use webhooks::webhook_body;

use crate::blobs::Blobs;
use crate::domain::Catalog;
use crate::fetch::Fetcher;
use crate::store::Store;
use crate::uploads::Uploads;
use problem::Problem;

/// Bytes that a request body may have: room for pictures as data URIs.
const BODY_LIMIT: usize = 20 * 1024 * 1024;

/// What the handlers work with.
#[derive(Clone)]
pub struct ApiState {
    pub store: Arc<dyn Store>,
    pub blobs: Blobs,
    pub catalog: Arc<Catalog>,
    pub uploads: Uploads,
    pub keys: Keys,
    /// Says which addresses could not be reached; nothing is fetched here.
    pub fetcher: Fetcher,
    /// For receivers of webhooks, who check signatures.
    pub webhook_secret: String,
    pub rate_limits: RateLimits,
    /// What listeners are told.
    pub feeds: Feeds,
    pub tokens: Tokens,
    /// The origin of the URLs in answers; without it, the one that the client used.
    pub public_url: Option<String>,
    /// Peers that may say which origin that was.
    pub trusted_proxies: Vec<IpNet>,
    pub output_urls: OutputUrls,
    /// Predictions that may wait.
    pub queue_limit: u64,
    /// Held answers are given at once when this is cancelled.
    pub closing: CancellationToken,
}

/// All routes, by their normalised paths; `pages` are those for people, which need no key.
///
/// CORS lies around the answers to methods that a path does not take, for browsers ask with `OPTIONS`.
pub fn router(state: ApiState, pages: Router<ApiState>) -> Router {
    let private = Router::new()
        .route("/predictions", get(predictions::list).post(create::by_version))
        .route("/predictions/{id}", get(predictions::get))
        .route("/predictions/{id}/cancel", post(predictions::cancel))
        .route("/predictions/{id}/previews", get(previews::by_id))
        .route("/models/{owner}/{name}/predictions", post(create::by_model))
        .route("/webhooks/default/secret", get(webhooks::secret))
        .route("/files", get(files::list).post(files::create))
        .route("/files/{id}", get(files::get).delete(files::delete))
        .route("/images/generations", post(images::generate))
        .merge(models::routes())
        .route_layer(from_fn_with_state(state.clone(), rate_limit::meter))
        .route_layer(from_fn_with_state(state.clone(), auth::require))
        .method_not_allowed_fallback(async || Problem::method_not_allowed())
        .layer(cors::private(&state.keys));
    let public = Router::new()
        .route("/health-check", get(health_check))
        .route("/outputs/{folder}/{name}", get(outputs::get))
        .route("/files/{id}/download", get(files::download))
        .route("/streams/{token}", get(stream::get))
        .route("/previews/{token}", get(previews::by_token))
        .route("/openapi.json", get(openapi::document))
        .route("/docs", get(openapi::page::reference))
        .method_not_allowed_fallback(async || Problem::method_not_allowed())
        .layer(cors::public());
    private
        .merge(public)
        .merge(pages)
        .fallback(async || Problem::not_found())
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

/// What this server is, for `GET /`.
pub fn about(catalog: &Catalog) -> Value {
    let served = catalog.served();
    json!({
        "name": "stablehand",
        "version": env!("CARGO_PKG_VERSION"),
        "model": served.name,
        "stands_in_for": served.stands_in_for,
    })
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
