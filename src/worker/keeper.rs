//! What must happen to predictions although nobody asks: their deadlines pass, and their data is removed in the end.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::blobs::Blobs;
use crate::store::{Expired, Store, StoreError};

/// Between looks.
const TICK: Duration = Duration::from_millis(500);

/// Predictions whose data is removed in one transaction.
const BATCH: usize = 100;

/// Minds deadlines and retention.
pub struct Keeper {
    store: Arc<dyn Store>,
    blobs: Blobs,
    /// For how long the data of finished predictions is kept; `None`: for ever.
    retention: Option<Duration>,
}

impl Keeper {
    pub fn new(store: Arc<dyn Store>, blobs: Blobs, retention: Option<Duration>) -> Keeper {
        Keeper { store, blobs, retention }
    }

    /// Minds them until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = stop.cancelled() => return,
            }
            match self.store.expire().await {
                Ok(expired) if expired == Expired::default() => {}
                Ok(expired) => tracing::info!("deadlines passed: {expired:?}"),
                Err(error) => tracing::error!("deadlines: {error}"),
            }
            if let Some(retention) = self.retention
                && let Err(error) = self.remove_outlived(retention).await
            {
                tracing::error!("retention: {error}");
            }
        }
    }

    /// Files first: a row that still says so is found again if we die in between.
    async fn remove_outlived(&self, retention: Duration) -> Result<(), StoreError> {
        // A retention longer than there has been time keeps everything.
        let Ok(before) = Timestamp::now().checked_sub(retention) else { return Ok(()) };
        let outlived = self.store.outlived(before, BATCH).await?;
        let mut removed = Vec::with_capacity(outlived.len());
        for prediction in outlived {
            let mut gone = true;
            for path in &prediction.paths {
                if let Err(error) = self.blobs.delete(path).await {
                    tracing::error!("retention: prediction {}: {error}", prediction.id);
                    gone = false;
                }
            }
            if gone {
                removed.push(prediction.id);
            }
        }
        if removed.is_empty() { Ok(()) } else { self.store.remove_data(&removed).await }
    }
}
