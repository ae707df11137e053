//! Who may use the API: whoever brings one of the configured keys, or anybody when there are none.

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};

use super::ApiState;
use super::problem::Problem;

/// SHA-256 of the API keys; the keys themselves are not kept. Empty: anybody may use the API.
#[derive(Clone, Debug, Default)]
pub struct Keys(Vec<[u8; 32]>);

impl Keys {
    pub fn new<'a>(keys: impl IntoIterator<Item = &'a str>) -> Keys {
        Keys(keys.into_iter().map(|key| Sha256::digest(key).into()).collect())
    }

    /// Looks for `Bearer KEY` or `Token KEY`, the scheme in any case.
    fn check(&self, headers: &HeaderMap) -> Result<(), Problem> {
        if self.0.is_empty() {
            return Ok(());
        }
        let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let key = given.and_then(|value| value.trim().split_once(' ')).and_then(|(scheme, key)| {
            let known = ["bearer", "token"].iter().any(|s| scheme.eq_ignore_ascii_case(s));
            known.then(|| key.trim())
        });
        let refusal = match key {
            None => "You did not pass an authentication token",
            // Comparing digests tells an attacker nothing about the keys.
            Some(key) if self.0.contains(&Sha256::digest(key).into()) => return Ok(()),
            Some(_) => "You did not pass a valid authentication token",
        };
        Err(Problem::new(StatusCode::UNAUTHORIZED, "Unauthenticated", refusal))
    }
}

/// Lets a request through if its key is good.
pub async fn require(State(state): State<ApiState>, request: Request, next: Next) -> Response {
    match state.keys.check(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn allowed(keys: &Keys, value: Option<&str>) -> bool {
        let mut headers = HeaderMap::new();
        if let Some(value) = value {
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
        }
        keys.check(&headers).is_ok()
    }

    #[test]
    fn both_schemes_and_no_others() {
        let keys = Keys::new(["one", "two"]);
        for good in ["Bearer one", "Token two", "bearer two", "TOKEN  one "] {
            assert!(allowed(&keys, Some(good)), "{good}");
        }
        for bad in [None, Some(""), Some("one"), Some("Basic one"), Some("Bearer three"), Some("Bearer ")] {
            assert!(!allowed(&keys, bad), "{bad:?}");
        }
        assert!(allowed(&Keys::default(), None) && allowed(&Keys::default(), Some("Bearer any")));
    }
}
