//! Errors as `application/problem+json`, in Replicate's words.

use std::any::Any;

use axum::Json;
use axum::extract::Request;
use axum::http::{HeaderValue, Response as HttpResponse, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::blobs::BlobError;
use crate::domain::FieldError;
use crate::store::StoreError;

/// Seconds after which a full queue may have room.
const RETRY_AFTER: u32 = 10;

/// Refusals that may not last.
const PASSING: [StatusCode; 3] = [StatusCode::REQUEST_TIMEOUT, StatusCode::CONFLICT, StatusCode::TOO_MANY_REQUESTS];

/// An error answer. As a response it is also among the extensions, for whoever must say it in other words.
#[derive(Debug, Clone, Serialize)]
pub struct Problem {
    title: &'static str,
    detail: String,
    status: u16,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    invalid_fields: Vec<FieldError>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after: Option<u32>,
}

impl Problem {
    pub fn new(status: StatusCode, title: &'static str, detail: impl Into<String>) -> Problem {
        let detail = detail.into();
        Problem { title, detail, status: status.as_u16(), invalid_fields: Vec::new(), retry_after: None }
    }

    pub fn not_found() -> Problem {
        Problem::new(StatusCode::NOT_FOUND, "Not found", "The requested resource could not be found.")
    }

    pub fn method_not_allowed() -> Problem {
        Problem::new(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed", "This resource does not take that method.")
    }

    pub fn bad_request(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::BAD_REQUEST, "Bad request", detail)
    }

    pub fn unknown_version() -> Problem {
        Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "Invalid version or not permitted",
            "The specified version does not exist (or perhaps you don't have permission to use it?)",
        )
    }

    /// More requests than the caller's quota; the next one may come after so many seconds.
    pub fn throttled(seconds: u32) -> Problem {
        let detail = format!("Request was throttled. Your rate limit resets in ~{seconds}s.");
        let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, "Too many requests", detail);
        Problem { retry_after: Some(seconds), ..problem }
    }

    pub fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// Seconds after which to try again.
    pub fn retry_after(&self) -> Option<u32> {
        self.retry_after
    }

    /// All mistakes of a request at once.
    pub fn invalid(fields: Vec<FieldError>) -> Problem {
        let line = |e: &FieldError| match e.field.as_str() {
            "" => format!("- {}\n", e.description),
            field => format!("- {field}: {}\n", e.description),
        };
        let detail: String = fields.iter().map(line).collect();
        let problem = Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "Input validation failed", detail);
        Problem { invalid_fields: fields, ..problem }
    }

    /// The cause goes to the log, not to the client.
    pub fn internal(cause: impl std::fmt::Display) -> Problem {
        tracing::error!("{cause}");
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "Internal server error", "Something went wrong on the server.")
    }

    /// The answer for a handler that panicked.
    pub fn of_panic(panic: Box<dyn Any + Send + 'static>) -> HttpResponse<axum::body::Body> {
        let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        Problem::internal(format!("a request handler panicked: {}", text.unwrap_or("no message"))).into_response()
    }
}

/// Turns the refusals of axum's extractors, which are plain text, into problems.
pub async fn explain_refusals(request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    let status = response.status();
    let kind = response.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    if !(status.is_client_error() || status.is_server_error()) || kind.is_some_and(|k| !k.starts_with(b"text/plain")) {
        return response;
    }
    match status {
        StatusCode::PAYLOAD_TOO_LARGE => Problem::new(status, "Payload too large", "The request body is too large."),
        StatusCode::INTERNAL_SERVER_ERROR => Problem::internal("a handler failed without a problem"),
        _ => Problem::new(status, "Bad request", "The request cannot be understood."),
    }
    .into_response()
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::QueueFull { queued, .. } => {
                // Retry code in the wild looks for "resets in ~Ns".
                let detail = format!(
                    "Request was throttled. {queued} predictions are waiting, which is the limit; it resets in \
                     ~{RETRY_AFTER}s."
                );
                Problem { detail, ..Problem::throttled(RETRY_AFTER) }
            }
            other => Problem::internal(other),
        }
    }
}

impl From<BlobError> for Problem {
    fn from(error: BlobError) -> Self {
        match error {
            BlobError::NotFound(_) => Problem::not_found(),
            other => Problem::internal(other),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = self.status();
        let retry_after = self.retry_after;
        let mut response = (status, Json(&self)).into_response();
        response.extensions_mut().insert(self);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = retry_after {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if status.is_client_error() && !PASSING.contains(&status) {
            // Some clients send anything again unless they are told not to.
            headers.insert("x-should-retry", HeaderValue::from_static("false"));
        }
        if status == StatusCode::PAYLOAD_TOO_LARGE {
            // The rest of the body is not read: the client must not send its next request behind it.
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_are_listed_as_replicate_does() {
        let wrong = FieldError {
            kind: "number_lte",
            field: "input.num_outputs".to_string(),
            description: "Must be less than or equal to 4".to_string(),
        };
        let problem = Problem::invalid(vec![FieldError::required("", "version"), wrong]);
        assert_eq!(
            serde_json::to_value(&problem).ok(),
            Some(serde_json::json!({
                "title": "Input validation failed",
                "detail": "- version is required\n- input.num_outputs: Must be less than or equal to 4\n",
                "status": 422,
                "invalid_fields": [
                    {"type": "required", "field": "", "description": "version is required"},
                    {"type": "number_lte", "field": "input.num_outputs",
                     "description": "Must be less than or equal to 4"},
                ],
            }))
        );
    }
}
