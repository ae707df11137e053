//! Which web pages of other origins may use the API, as browsers ask before they let them.

use std::time::Duration;

use axum::http::Method;
use tower_http::cors::{AllowHeaders, AllowMethods, AllowOrigin, CorsLayer, ExposeHeaders};

use super::auth::{Keys, is_local};

/// How long browsers may remember the answer.
const MAX_AGE: Duration = Duration::from_secs(7200);

/// For what keys protect: a page that has a key is as good as any client. Without keys only pages of this machine may
/// come, or every site that its user visits could see the predictions.
pub fn private(keys: &Keys) -> CorsLayer {
    let origins = match keys.is_empty() {
        false => AllowOrigin::any(),
        true => AllowOrigin::predicate(|origin, _| is_local(origin)),
    };
    layer().allow_origin(origins).allow_methods(AllowMethods::mirror_request())
}

/// For what is open to everyone who knows its address.
pub fn public() -> CorsLayer {
    layer().allow_origin(AllowOrigin::any()).allow_methods([Method::GET, Method::HEAD])
}

fn layer() -> CorsLayer {
    CorsLayer::new().allow_headers(AllowHeaders::mirror_request()).expose_headers(ExposeHeaders::any()).max_age(MAX_AGE)
}
