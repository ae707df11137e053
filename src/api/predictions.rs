//! Looking at predictions and canceling them.

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, Query, State};
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use url::form_urlencoded;

use super::ApiState;
use super::problem::Problem;
use super::view::{Origin, PredictionView};
use super::wait::until_finished;
use crate::domain::PredictionSource;
use crate::store::{Cursor, ListFilter};

/// How long the answer to a cancel is held so that it can show the end.
const CANCEL_WAIT: Duration = Duration::from_secs(3);

/// `GET /predictions/{id}`
pub async fn get(
    State(state): State<ApiState>,
    Path(id): Path<String>,
    origin: Origin,
) -> Result<Json<PredictionView>, Problem> {
    let prediction = state.store.get(&id).await?.ok_or_else(Problem::not_found)?;
    Ok(Json(PredictionView::of(&state, prediction, &origin).await?))
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
    Ok(Json(PredictionView::of(&state, prediction, &origin).await?))
}

#[derive(Debug, Deserialize)]
pub struct ListQuery {
    cursor: Option<String>,
    created_after: Option<String>,
    created_before: Option<String>,
    source: Option<String>,
}

impl ListQuery {
    fn filter(&self) -> Result<ListFilter, Problem> {
        Ok(ListFilter {
            created_after: time("created_after", self.created_after.as_deref())?,
            created_before: time("created_before", self.created_before.as_deref())?,
            source: match self.source.as_deref() {
                None | Some("") => None,
                Some(name) => Some(PredictionSource::from_name(name).ok_or_else(|| {
                    Problem::bad_request("source: it must be web, or left out for predictions from everywhere")
                })?),
            },
        })
    }

    /// The address of another page of the same list.
    fn page(&self, origin: &Origin, cursor: Cursor) -> String {
        let mut query = form_urlencoded::Serializer::new(format!("cursor={cursor}"));
        let filters = [
            ("created_after", &self.created_after),
            ("created_before", &self.created_before),
            ("source", &self.source),
        ];
        for (name, value) in filters {
            if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
                query.append_pair(name, value);
            }
        }
        origin.url(&format!("/v1/predictions?{}", query.finish()))
    }
}

/// A time, in UTC if it does not say otherwise; a date alone is its midnight.
fn time(name: &str, text: Option<&str>) -> Result<Option<Timestamp>, Problem> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
    // Whoever does not encode a + sends a space.
    let text = text.replace(' ', "+");
    let in_utc = || text.parse::<DateTime>().ok()?.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp());
    match text.parse().ok().or_else(in_utc) {
        Some(time) => Ok(Some(time)),
        None => Err(Problem::bad_request(format!("{name}: it must be a time such as 2025-01-01T00:00:00Z"))),
    }
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
    let page = state.store.list(query.filter()?, cursor).await?;
    let url = |cursor: Cursor| query.page(&origin, cursor);
    Ok(Json(PageView {
        next: page.next.map(url),
        previous: page.previous.map(url),
        results: page.predictions.into_iter().map(|p| PredictionView::new(p, &origin, &state.tokens)).collect(),
    }))
}
