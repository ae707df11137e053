//! A running prediction to look at: its state and rough pictures of what is being drawn, as server-sent events.
//!
//! `prediction` has the prediction's JSON, at once and whenever it changes; `preview` has `step`, `total` and an `image` as
//! data URI. Slow clients miss what is old. The stream ends with the prediction. Previews are made only while somebody
//! listens here, and are never stored.

use axum::extract::{Path, State};
use axum::response::Response;
use bytes::Bytes;

use super::ApiState;
use super::feed::Feed;
use super::problem::Problem;
use super::sse::{self, Script, event, shared_event};
use super::token::{Purpose, Tokens};
use super::view::{Origin, PredictionView};
use crate::live::Look;

/// `GET /predictions/{id}/previews`
pub async fn by_id(State(state): State<ApiState>, Path(id): Path<String>, origin: Origin) -> Result<Response, Problem> {
    watch(&state, &id, origin).await
}

/// `GET /previews/{token}`, for pages that have no key.
pub async fn by_token(
    State(state): State<ApiState>,
    Path(token): Path<String>,
    origin: Origin,
) -> Result<Response, Problem> {
    let id = state.tokens.prediction(Purpose::Previews, &token).ok_or_else(Problem::not_found)?;
    watch(&state, id, origin).await
}

async fn watch(state: &ApiState, id: &str, origin: Origin) -> Result<Response, Problem> {
    let feed = state.feeds.of(id).await?.ok_or_else(Problem::not_found)?;
    let look = state.feeds.live().look(id, true);
    Ok(sse::answer(Watching { feed, look, origin, tokens: state.tokens.clone(), seen: 0, begun: false, ended: false }))
}

/// Writes one client's stream.
struct Watching {
    feed: Feed,
    look: Look,
    origin: Origin,
    tokens: Tokens,
    /// How many previews there were when the last one was sent.
    seen: u64,
    begun: bool,
    ended: bool,
}

impl Script for Watching {
    async fn next(&mut self) -> Option<Vec<Bytes>> {
        if self.ended {
            return None;
        }
        if !std::mem::replace(&mut self.begun, true) {
            let mut events = self.state();
            events.extend(self.preview());
            return Some(events);
        }
        tokio::select! {
            changed = self.feed.changed() => changed.is_ok().then(|| self.state()),
            () = self.look.changed() => Some(self.preview()),
        }
    }
}

impl Watching {
    fn state(&mut self) -> Vec<Bytes> {
        let prediction = self.feed.borrow_and_update().prediction.clone();
        self.ended = prediction.status.is_terminal();
        let view = PredictionView::new(prediction, &self.origin, &self.tokens);
        serde_json::to_string(&view).map(|json| event("prediction", None, &json)).into_iter().collect()
    }

    /// The latest preview, unless it was sent.
    fn preview(&mut self) -> Vec<Bytes> {
        let view = self.look.view();
        match view.preview {
            Some(json) if view.previews != self.seen => {
                self.seen = view.previews;
                shared_event("preview", json).into()
            }
            _ => Vec::new(),
        }
    }
}
