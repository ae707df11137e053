//! Looking at predictions and canceling them.

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, Query, State};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::ApiState;
use super::problem::Problem;
use super::view::{Origin, PredictionView};
use super::wait::until_finished;
use crate::store::Cursor;

/// How long the answer to a cancel is held so that it can show the end.
const CANCEL_WAIT: Duration = Duration::from_secs(3);

/// `GET /predictions/{id}`
pub async fn get(
    State(state): State<ApiState>,
    Path(id): Path<String>,
    origin: Origin,
) -> Result<Json<PredictionView>, Problem> {
    let prediction = state.store.get(&id).await?.ok_or_else(Problem::not_found)?;
    Ok(Json(PredictionView::new(prediction, &origin, &state.tokens)))
}

/// `POST /predictions/{id}/cancel`
pub async fn cancel(
    State(state): State<ApiState>,
    Path(id): Path<String>,
    origin: Origin,
) -> Result<Json<PredictionView>, Problem> {
    let changes = state.store.changes();
    let prediction = state.store.request_cancel(&id).await?.ok_or_else(Problem::not_found)?;
    let prediction = until_finished(&state, prediction, changes, Instant::now() + CANCEL_WAIT).await?;
    Ok(Json(PredictionView::new(prediction, &origin, &state.tokens)))
}

#[derive(Debug, Deserialize)]
pub struct ListQuery {
    cursor: Option<String>,
}

#[derive(Debug, Serialize)]
pub struct PageView {
    next: Option<String>,
    previous: Option<String>,
    results: Vec<PredictionView>,
}

/// `GET /predictions`
pub async fn list(
    State(state): State<ApiState>,
    Query(query): Query<ListQuery>,
    origin: Origin,
) -> Result<Json<PageView>, Problem> {
    let cursor: Option<Cursor> = match query.cursor.as_deref() {
        None | Some("") => None,
        Some(text) => Some(text.parse().map_err(|e| Problem::bad_request(format!("Invalid cursor: {e}")))?),
    };
    let page = state.store.list(cursor).await?;
    let url = |cursor: Cursor| origin.url(&format!("/v1/predictions?cursor={cursor}"));
    Ok(Json(PageView {
        next: page.next.map(url),
        previous: page.previous.map(url),
        results: page.predictions.into_iter().map(|p| PredictionView::new(p, &origin, &state.tokens)).collect(),
    }))
}
