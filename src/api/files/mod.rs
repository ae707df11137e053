//! The files API: uploading, listing, looking at, deleting and downloading files that are to be inputs.

mod form;
mod parts;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::ApiState;
use super::origin::Origin;
use super::problem::Problem;
use super::stored;
use crate::domain::Upload;
use crate::store::Cursor;
use crate::uploads::{Signed, UploadError, Uploads};
use form::Form;

/// The JSON of a file.
#[derive(Debug, Serialize)]
pub struct FileView {
    id: String,
    name: String,
    content_type: String,
    size: u64,
    etag: String,
    checksums: Checksums,
    metadata: Map<String, Value>,
    created_at: String,
    expires_at: String,
    urls: Urls,
}

#[derive(Debug, Serialize)]
struct Checksums {
    sha256: String,
    md5: String,
}

#[derive(Debug, Serialize)]
struct Urls {
    get: String,
    /// The bytes, for whoever has the URL.
    download: String,
}

impl FileView {
    fn new(file: Upload, uploads: &Uploads, origin: &Origin) -> FileView {
        let get = origin.url(&format!("/v1/files/{}", file.id));
        let Signed { owner, expiry, signature } = uploads.sign(&file);
        // What of base64 has another meaning in a query.
        let signature = signature.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
        FileView {
            urls: Urls { download: format!("{get}/download?owner={owner}&expiry={expiry}&signature={signature}"), get },
            id: file.id,
            name: file.name,
            content_type: file.content_type,
            size: file.size,
            etag: file.md5.clone(),
            checksums: Checksums { sha256: file.sha256, md5: file.md5 },
            metadata: file.metadata,
            created_at: file.created_at.to_string(),
            expires_at: file.expires_at.to_string(),
        }
    }
}

#[derive(Debug, Deserialize)]
pub struct ListQuery {
    cursor: Option<String>,
}

#[derive(Debug, Serialize)]
pub struct PageView {
    next: Option<String>,
    previous: Option<String>,
    results: Vec<FileView>,
}

/// `POST /files`
pub async fn create(
    State(state): State<ApiState>,
    origin: Origin,
    form: Form,
) -> Result<(StatusCode, Json<FileView>), Problem> {
    let (content, description) = form.read(&state.uploads).await?;
    let file = state.uploads.keep(content, description).await?;
    Ok((StatusCode::CREATED, Json(FileView::new(file, &state.uploads, &origin))))
}

/// `GET /files`
pub async fn list(
    State(state): State<ApiState>,
    Query(query): Query<ListQuery>,
    origin: Origin,
) -> Result<Json<PageView>, Problem> {
    let cursor: Option<Cursor> = match query.cursor.as_deref() {
        None | Some("") => None,
        Some(text) => Some(text.parse().map_err(|e| Problem::bad_request(format!("Invalid cursor: {e}")))?),
    };
    let page = state.uploads.list(cursor).await?;
    let url = |cursor: Cursor| origin.url(&format!("/v1/files?cursor={cursor}"));
    Ok(Json(PageView {
        next: page.next.map(url),
        previous: page.previous.map(url),
        results: page.files.into_iter().map(|file| FileView::new(file, &state.uploads, &origin)).collect(),
    }))
}

/// `GET /files/{id}`
pub async fn get(
    State(state): State<ApiState>,
    Path(id): Path<String>,
    origin: Origin,
) -> Result<Json<FileView>, Problem> {
    let file = state.uploads.get(&id).await?.ok_or_else(not_found)?;
    Ok(Json(FileView::new(file, &state.uploads, &origin)))
}

/// `DELETE /files/{id}`
pub async fn delete(State(state): State<ApiState>, Path(id): Path<String>) -> Result<StatusCode, Problem> {
    match state.uploads.delete(&id).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(not_found()),
    }
}

/// `GET` and `HEAD /files/{id}/download`: the signature is the right to read it.
pub async fn download(
    State(state): State<ApiState>,
    Path(id): Path<String>,
    signed: Result<Query<Signed>, QueryRejection>,
    method: Method,
    request: HeaderMap,
) -> Result<Response, Problem> {
    let Query(signed) = signed.map_err(|error| Problem::bad_request(error.body_text()))?;
    let file = state.uploads.signed(&id, &signed).await?.ok_or_else(not_found)?;
    // Never the type that the client said: a page of its making must not run on our origin.
    let content_type = HeaderValue::from_static("application/octet-stream");
    let (blobs, place) = (state.uploads.blobs(), state.uploads.place(&file));
    let mut response = stored::answer(blobs, place, content_type, &method, &request).await?;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_DISPOSITION, HeaderValue::from_static("attachment"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private"));
    Ok(response)
}

fn not_found() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "Not found", "File not found")
}

fn too_large() -> Problem {
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "Payload too large", "Files must be less than 100MB in size")
}

impl From<UploadError> for Problem {
    fn from(error: UploadError) -> Self {
        match error {
            UploadError::TooLarge => too_large(),
            UploadError::Store(error) => error.into(),
            UploadError::Blob(error) => error.into(),
            UploadError::Random(error) => Problem::internal(error),
        }
    }
}
