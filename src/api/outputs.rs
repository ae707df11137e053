//! Output files: no authentication, their paths are the right to read them.

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::ApiState;
use super::problem::Problem;

/// `GET` and `HEAD /outputs/{folder}/{name}`
pub async fn get(
    State(state): State<ApiState>,
    Path((folder, name)): Path<(String, String)>,
    method: Method,
    request: HeaderMap,
) -> Result<Response, Problem> {
    let meta = state.blobs.head(&folder, &name).await?;
    let tag = meta.e_tag.as_deref().map(quoted);
    let known = request.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    let mut response = if known.zip(tag.as_deref()).is_some_and(|(known, tag)| matches_tag(known, tag)) {
        StatusCode::NOT_MODIFIED.into_response()
    } else if method == Method::HEAD {
        with_length(Response::new(Body::empty()), meta.size)
    } else {
        let found = state.blobs.get(&folder, &name).await?;
        with_length(Response::new(Body::from_stream(found.into_stream())), meta.size)
    };
    let headers = response.headers_mut();
    if let Some(tag) = tag.and_then(|tag| HeaderValue::from_str(&tag).ok()) {
        headers.insert(header::ETAG, tag);
    }
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("image/png"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=3600"));
    Ok(response)
}

fn with_length(mut response: Response, size: u64) -> Response {
    response.headers_mut().insert(header::CONTENT_LENGTH, size.into());
    response
}

fn quoted(tag: &str) -> String {
    format!("\"{}\"", tag.trim_matches('"'))
}

fn matches_tag(known: &str, tag: &str) -> bool {
    known.split(',').map(|k| k.trim().trim_start_matches("W/")).any(|k| k == tag || k == "*")
}
