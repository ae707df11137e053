//! Waiting for a prediction to end: woken by the store's news, which may be lost, so it polls too.

use std::time::Duration;

use tokio::sync::broadcast;
use tokio::time::{Instant, timeout_at};

use super::ApiState;
use super::problem::Problem;
use crate::domain::Prediction;
use crate::store::Change;

/// How often the store is asked when no news comes.
const POLL: Duration = Duration::from_secs(1);

/// The prediction as it is when it ends, or at the deadline, or when the server closes. `changes` is from before
/// `prediction` was read.
pub async fn until_finished(
    state: &ApiState,
    mut prediction: Prediction,
    mut changes: broadcast::Receiver<Change>,
    deadline: Instant,
) -> Result<Prediction, Problem> {
    while !prediction.status.is_terminal() && Instant::now() < deadline && !state.closing.is_cancelled() {
        let pause = deadline.min(Instant::now() + POLL);
        tokio::select! {
            _ = timeout_at(pause, finished(&mut changes, &prediction.id)) => {}
            _ = state.closing.cancelled() => {}
        }
        let Some(now) = state.store.get(&prediction.id).await? else { break };
        prediction = now;
    }
    Ok(prediction)
}

/// Returns at the news that this prediction ended, or that news was lost.
pub async fn finished(changes: &mut broadcast::Receiver<Change>, id: &str) {
    loop {
        match changes.recv().await {
            Ok(Change::Finished(ended)) if ended == id => return,
            Ok(_) => {}
            Err(broadcast::error::RecvError::Lagged(_)) => return,
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}
