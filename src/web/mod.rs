//! The pages: the playground at `/` and one prediction at `/p/{id}`.
//!
//! Owns HTML, style and scripts, which are part of the binary and need no build step and nothing from elsewhere. The
//! pages hold no data: their scripts ask the API, with the key that the person gave, as any other client does.

use axum::Router;
use axum::extract::Path;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::Value;
use sha2::{Digest, Sha256};

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// Scripts, styles and calls from here only; pictures also from where outputs are (`--output-urls`, `--public-url`).
const POLICY: &str = "default-src 'self'; img-src 'self' data: http: https:; style-src 'self' 'unsafe-inline'; \
                      base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

const PLAYGROUND: &str = include_str!("assets/index.html");
const PREDICTION: &str = include_str!("assets/prediction.html");

/// Name, type and text of what the pages load from `/assets/`.
const ASSETS: [(&str, &str, &str); 7] = [
    ("style.css", "text/css; charset=utf-8", include_str!("assets/style.css")),
    ("api.js", SCRIPT, include_str!("assets/api.js")),
    ("form.js", SCRIPT, include_str!("assets/form.js")),
    ("playground.js", SCRIPT, include_str!("assets/playground.js")),
    ("prediction.js", SCRIPT, include_str!("assets/prediction.js")),
    ("snippets.js", SCRIPT, include_str!("assets/snippets.js")),
    ("view.js", SCRIPT, include_str!("assets/view.js")),
];

/// The routes of the pages. `about` is what `/` says to clients that do not ask for HTML.
pub fn routes<S: Clone + Send + Sync + 'static>(about: Value) -> Router<S> {
    let root = async move |headers: HeaderMap| match wants_html(&headers) {
        true => page(&headers, HTML, PLAYGROUND),
        false => axum::Json(about.clone()).into_response(),
    };
    Router::new()
        .route("/", get(root))
        .route("/p/{id}", get(async |headers: HeaderMap| page(&headers, HTML, PREDICTION)))
        .route("/assets/{name}", get(asset))
}

async fn asset(Path(name): Path<String>, headers: HeaderMap) -> Response {
    match ASSETS.iter().find(|(known, ..)| *known == name) {
        Some((_, kind, text)) => page(&headers, kind, text),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

fn wants_html(headers: &HeaderMap) -> bool {
    let accepts = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepts.flat_map(|value| value.split(',')).any(|kind| kind.trim().starts_with("text/html"))
}

/// A file of the binary, which browsers keep and ask after: a new binary is seen at once.
fn page(headers: &HeaderMap, kind: &'static str, text: &'static str) -> Response {
    let tag = format!("\"{:x}\"", Sha256::digest(text));
    let known = headers.get(header::IF_NONE_MATCH).is_some_and(|value| value.as_bytes() == tag.as_bytes());
    let mut response = match known {
        true => StatusCode::NOT_MODIFIED.into_response(),
        false => text.into_response(),
    };
    let fixed: [(HeaderName, &'static str); 6] = [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "no-cache"),
        (header::VARY, "accept"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
    ];
    for (name, value) in fixed {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn pages_load_only_what_is_served() {
        let names: Vec<&str> = ASSETS.iter().map(|(name, ..)| *name).collect();
        for text in [PLAYGROUND, PREDICTION] {
            for part in text.split("/assets/").skip(1) {
                let name = part.split('"').next().unwrap();
                assert!(names.contains(&name), "{name}");
            }
        }
        for (asset, _, text) in ASSETS {
            for part in text.split("from \"./").skip(1) {
                let name = part.split('"').next().unwrap();
                assert!(names.contains(&name), "{asset} imports {name}");
            }
        }
    }

    #[test]
    fn curl_gets_json_and_browsers_a_page() {
        let mut headers = HeaderMap::new();
        assert!(!wants_html(&headers));
        headers.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
        assert!(!wants_html(&headers));
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/xhtml+xml,text/html;q=0.9,*/*;q=0.8"));
        assert!(wants_html(&headers));
    }

    #[test]
    fn an_unchanged_page_is_not_sent_again() {
        let first = page(&HeaderMap::new(), HTML, PLAYGROUND);
        let mut again = HeaderMap::new();
        again.insert(header::IF_NONE_MATCH, first.headers()[header::ETAG].clone());
        assert_eq!(page(&again, HTML, PLAYGROUND).status(), StatusCode::NOT_MODIFIED);
        assert_eq!(page(&again, HTML, PREDICTION).status(), StatusCode::OK);
    }
}
