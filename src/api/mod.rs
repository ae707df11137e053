//! The HTTP surface (axum): routes, auth, problem+json. Never touches a tensor.
