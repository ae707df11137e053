//! Who may use the API: whoever brings one of the configured keys, or anybody when there are none.
//!
//! Without keys the server listens to its own machine only, whose browsers may show pages of anyone: those pages are
//! kept out by their `Origin` header.

use std::net::{IpAddr, Ipv4Addr};

use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use super::ApiState;
use super::origin::{Origin, client_address};
use super::problem::Problem;

/// SHA-256 of the API keys; the keys themselves are not kept. Empty: anybody may use the API.
#[derive(Clone, Debug, Default)]
pub struct Keys(Vec<[u8; 32]>);

/// Who sent a request that was let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Caller {
    /// By the digest of the key.
    Key([u8; 32]),
    /// By address, when there are no keys.
    Peer(IpAddr),
}

impl Default for Caller {
    fn default() -> Self {
        Caller::Peer(Ipv4Addr::UNSPECIFIED.into())
    }
}

impl Keys {
    pub fn new<'a>(keys: impl IntoIterator<Item = &'a str>) -> Keys {
        Keys(keys.into_iter().map(digest).collect())
    }

    /// Whether anybody may use the API.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Looks for `Bearer KEY` or `Token KEY`, the scheme in any case, and returns the key's digest.
    fn check(&self, headers: &HeaderMap) -> Result<[u8; 32], Problem> {
        let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let key = given.and_then(|value| value.trim().split_once(' ')).and_then(|(scheme, key)| {
            let known = ["bearer", "token"].iter().any(|s| scheme.eq_ignore_ascii_case(s));
            known.then(|| key.trim())
        });
        let refusal = match key.map(digest) {
            None => "You did not pass an authentication token",
            Some(digest) if self.holds(&digest) => return Ok(digest),
            Some(_) => "You did not pass a valid authentication token",
        };
        Err(Problem::new(StatusCode::UNAUTHORIZED, "Unauthenticated", refusal))
    }

    /// Compares with every key to its end: the time tells nothing.
    fn holds(&self, digest: &[u8; 32]) -> bool {
        self.0.iter().fold(Choice::from(0), |found, key| found | key.ct_eq(digest)).into()
    }
}

fn digest(key: &str) -> [u8; 32] {
    Sha256::digest(key).into()
}

/// Lets a request through if its key is good, with a note who sent it.
pub async fn require(State(state): State<ApiState>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    match caller(&parts, &state) {
        Ok(caller) => {
            parts.extensions.insert(caller);
            next.run(Request::from_parts(parts, body)).await
        }
        Err(problem) => problem.into_response(),
    }
}

fn caller(parts: &Parts, state: &ApiState) -> Result<Caller, Problem> {
    if !state.keys.is_empty() {
        return state.keys.check(&parts.headers).map(Caller::Key);
    }
    match parts.headers.get(header::ORIGIN) {
        Some(page) if !is_local(page) && !is_own(page, parts, state) => {
            let detail = "Pages of other sites may use this server only when it has API keys (--api-key).";
            Err(Problem::new(StatusCode::FORBIDDEN, "Forbidden", detail))
        }
        _ => Ok(Caller::Peer(client_address(parts, state))),
    }
}

/// Whether this `Origin` is of a page on the machine itself.
pub fn is_local(origin: &HeaderValue) -> bool {
    let uri: Option<Uri> = origin.to_str().ok().and_then(|text| text.parse().ok());
    let Some(host) = uri.as_ref().and_then(Uri::host) else { return false };
    let address: Option<IpAddr> = host.trim_matches(['[', ']']).parse().ok();
    host == "localhost" || host.ends_with(".localhost") || address.is_some_and(|ip| ip.to_canonical().is_loopback())
}

/// Whether this `Origin` is of a page that we served.
fn is_own(origin: &HeaderValue, parts: &Parts, state: &ApiState) -> bool {
    let own = Origin::of(parts, state).ok();
    origin.to_str().is_ok_and(|page| own.is_some_and(|own| own.as_str().eq_ignore_ascii_case(page)))
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
    }

    #[test]
    fn pages_on_this_machine_are_known() {
        for page in ["http://localhost:3000", "http://app.localhost", "https://127.1.2.3", "http://[::1]:8000"] {
            assert!(is_local(&page.parse().unwrap()), "{page}");
        }
        for page in ["null", "https://evil.org", "http://localhost.evil.org", "http://10.0.0.1", "", "file://"] {
            assert!(!is_local(&page.parse().unwrap()), "{page}");
        }
    }
}
