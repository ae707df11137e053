//! Errors in OpenAI's shape, for every answer below `/images/`.

use axum::Json;
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::api::problem::Problem;

/// Why there are no pictures.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    status: StatusCode,
    message: String,
    kind: &'static str,
    /// The parameter that is to blame.
    param: Option<String>,
    code: Option<&'static str>,
    /// The same request would fail again: clients that know the header do not repeat it.
    is_final: bool,
    /// Seconds.
    retry_after: Option<u32>,
}

impl Refusal {
    /// The request is wrong.
    pub fn invalid(param: &str, code: &'static str, message: impl Into<String>) -> Refusal {
        let mut refusal = Refusal::of(StatusCode::BAD_REQUEST, message.into());
        (refusal.param, refusal.code) = (Some(param.to_string()), Some(code));
        refusal
    }

    pub fn unknown_model(model: &str) -> Refusal {
        let message = format!("The model '{model}' does not exist on this server.");
        let mut refusal = Refusal::of(StatusCode::NOT_FOUND, message);
        (refusal.param, refusal.code) = (Some("model".to_string()), Some("model_not_found"));
        refusal
    }

    /// The prediction came to no good end.
    pub fn failed(message: impl Into<String>) -> Refusal {
        Refusal { is_final: true, ..Refusal::of(StatusCode::INTERNAL_SERVER_ERROR, message.into()) }
    }

    pub fn closing() -> Refusal {
        Refusal::of(StatusCode::SERVICE_UNAVAILABLE, "The server is being stopped; please retry.".to_string())
    }

    /// With the kind and code that belong to a status.
    fn of(status: StatusCode, message: String) -> Refusal {
        let (kind, code) = match status {
            StatusCode::UNAUTHORIZED => ("invalid_request_error", Some("invalid_api_key")),
            StatusCode::TOO_MANY_REQUESTS => ("requests", Some("rate_limit_exceeded")),
            status if status.is_server_error() => ("server_error", Some("server_error")),
            _ => ("invalid_request_error", None),
        };
        Refusal { status, message, kind, param: None, code, is_final: false, retry_after: None }
    }
}

impl<T: Into<Problem>> From<T> for Refusal {
    fn from(error: T) -> Refusal {
        let problem: Problem = error.into();
        let status = match problem.status() {
            StatusCode::UNPROCESSABLE_ENTITY => StatusCode::BAD_REQUEST,
            status => status,
        };
        let refusal = Refusal::of(status, problem.detail().trim_end().to_string());
        Refusal { retry_after: problem.retry_after(), ..refusal }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let Refusal { status, message, kind, param, code, is_final, retry_after } = self;
        let error = json!({"message": message, "type": kind, "param": param, "code": code});
        let mut response = (status, Json(json!({"error": error}))).into_response();
        if let Some(seconds) = retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        if is_final {
            response.headers_mut().insert("x-should-retry", HeaderValue::from_static("false"));
        }
        response
    }
}

/// Says problems below `/images/` as OpenAI would, whoever found them.
pub async fn answer_in_openai_words(request: Request, next: Next) -> Response {
    let openai = request.uri().path().starts_with("/images/");
    let mut response = next.run(request).await;
    let problem = response.extensions_mut().remove::<Problem>().filter(|_| openai);
    let Some(problem) = problem else { return response };
    let mut answer = Refusal::from(problem).into_response();
    for (name, value) in response.headers() {
        if name != header::CONTENT_TYPE && name != header::CONTENT_LENGTH {
            answer.headers_mut().insert(name.clone(), value.clone());
        }
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_keep_their_meaning() {
        let said = |problem: Problem| {
            let refusal = Refusal::from(problem);
            (refusal.status.as_u16(), refusal.kind, refusal.code)
        };
        let problem = |status| Problem::new(status, "title", "detail\n");
        assert_eq!(said(problem(StatusCode::UNAUTHORIZED)), (401, "invalid_request_error", Some("invalid_api_key")));
        assert_eq!(said(problem(StatusCode::TOO_MANY_REQUESTS)), (429, "requests", Some("rate_limit_exceeded")));
        assert_eq!(said(problem(StatusCode::UNPROCESSABLE_ENTITY)), (400, "invalid_request_error", None));
        assert_eq!(said(Problem::not_found()), (404, "invalid_request_error", None));
        assert_eq!(said(Problem::internal("x")), (500, "server_error", Some("server_error")));
        assert_eq!(Refusal::from(problem(StatusCode::BAD_REQUEST)).message, "detail");
    }
}
