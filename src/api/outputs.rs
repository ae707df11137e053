//! Output files: no authentication, their paths are the right to read them.

use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::ApiState;
use super::problem::Problem;
use super::stored;
use crate::blobs::{BlobError, Blobs};

/// Of all outputs, whatever their names say.
const CONTENT_TYPE: &str = "image/png";

/// `GET` and `HEAD /outputs/{folder}/{name}`
pub async fn get(
    State(state): State<ApiState>,
    Path((folder, name)): Path<(String, String)>,
    method: Method,
    request: HeaderMap,
) -> Result<Response, Problem> {
    let content_type = HeaderValue::from_static(CONTENT_TYPE);
    let mut response = stored::answer(&state.blobs, (&folder, &name), content_type, &method, &request).await?;
    if !response.status().is_client_error() {
        let lasting = HeaderValue::from_static("public, max-age=3600");
        response.headers_mut().insert(header::CACHE_CONTROL, lasting);
    }
    Ok(response)
}

/// The output that is kept at this path as a data URI; `None` if it is no longer there.
pub async fn data_uri(blobs: &Blobs, path: &str) -> Result<Option<String>, Problem> {
    let Some((folder, name)) = path.split_once('/') else { return Ok(None) };
    let bytes = match blobs.get(folder, name).await {
        Ok(found) => found.bytes().await.map_err(Problem::internal)?,
        Err(BlobError::NotFound(_)) => return Ok(None),
        Err(other) => return Err(other.into()),
    };
    Ok(Some(format!("data:{CONTENT_TYPE};base64,{}", STANDARD.encode(&bytes))))
}
