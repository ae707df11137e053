//! What listeners are told: one reader of the store for each prediction that is watched, however many watch it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::wait::finished;
use crate::domain::Prediction;
use crate::live::{Live, Look};
use crate::store::{Store, StoreError};

/// How often the store is asked when no news comes, which may come from other processes or be lost.
const POLL: Duration = Duration::from_secs(1);

/// Between two looks at a prediction that runs.
const THROTTLE: Duration = Duration::from_millis(250);

/// A prediction as listeners see it.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    pub prediction: Prediction,
    /// Blob paths of its pictures: all at its end, before that the ones that are already stored.
    pub pictures: Vec<String>,
}

/// Hears of one prediction from now on. The sender goes when nothing more will come.
pub type Feed = watch::Receiver<Arc<Snapshot>>;

/// The predictions that are watched. Clones share them.
#[derive(Clone)]
pub struct Feeds {
    store: Arc<dyn Store>,
    live: Live,
    /// Feeds say a last word and end when this is cancelled.
    closing: CancellationToken,
    open: Arc<Mutex<HashMap<String, watch::Sender<Arc<Snapshot>>>>>,
}

impl Feeds {
    pub fn new(store: Arc<dyn Store>, live: Live, closing: CancellationToken) -> Feeds {
        Feeds { store, live, closing, open: Arc::default() }
    }

    /// What is seen of running predictions.
    pub fn live(&self) -> &Live {
        &self.live
    }

    /// A feed of a prediction; `None` for an id that there is not. A finished one has said all in its first snapshot.
    pub async fn of(&self, id: &str) -> Result<Option<Feed>, StoreError> {
        if let Some(sender) = self.lock().get(id) {
            return Ok(Some(sender.subscribe()));
        }
        let mut look = self.live.look(id, false);
        let Some(now) = self.read(id, &mut look).await? else { return Ok(None) };
        if now.prediction.status.is_terminal() {
            return Ok(Some(watch::channel(now).1));
        }
        let mut open = self.lock();
        if let Some(sender) = open.get(id) {
            return Ok(Some(sender.subscribe()));
        }
        let (sender, feed) = watch::channel(now);
        open.insert(id.to_string(), sender.clone());
        tokio::spawn(self.clone().follow(id.to_string(), sender, look));
        Ok(Some(feed))
    }

    async fn read(&self, id: &str, look: &mut Look) -> Result<Option<Arc<Snapshot>>, StoreError> {
        let Some(prediction) = self.store.get(id).await? else { return Ok(None) };
        let stored = look.view().pictures();
        let pictures = prediction.output.clone().unwrap_or(stored);
        Ok(Some(Arc::new(Snapshot { prediction, pictures })))
    }

    /// Publishes what changes until the end, or until nobody listens.
    async fn follow(self, id: String, sender: watch::Sender<Arc<Snapshot>>, mut look: Look) {
        let mut changes = self.store.changes();
        loop {
            let closing = self.closing.is_cancelled();
            let seen = look.view().row;
            let read_at = Instant::now();
            let now = match self.read(&id, &mut look).await {
                Ok(now) => now,
                Err(error) => {
                    tracing::error!("{id}: {error}");
                    Some(sender.borrow().clone())
                }
            };
            let Some(now) = now else { break };
            let ended = now.prediction.status.is_terminal();
            sender.send_if_modified(|known| {
                let modified = *known != now;
                *known = now;
                modified
            });
            if ended || closing {
                break;
            }
            let news = async {
                tokio::select! {
                    () = finished(&mut changes, &id) => return,
                    () = shown(&mut look, seen, &sender) => {}
                }
                // Ends are told at once, all else when it is due.
                let _ = timeout_at(read_at + THROTTLE, finished(&mut changes, &id)).await;
            };
            tokio::select! {
                _ = timeout(POLL, news) => {}
                () = self.closing.cancelled() => {}
                () = sender.closed() => {
                    let mut open = self.lock();
                    if sender.receiver_count() == 0 {
                        open.remove(&id);
                        return;
                    }
                }
            }
        }
        self.lock().remove(&id);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, watch::Sender<Arc<Snapshot>>>> {
        self.open.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Returns when the row changed after `seen`, or when there are other pictures than listeners know. Previews are
/// nothing to a feed.
async fn shown(look: &mut Look, seen: u64, sender: &watch::Sender<Arc<Snapshot>>) {
    loop {
        let view = look.view();
        if view.row != seen || view.pictures() != sender.borrow().pictures {
            return;
        }
        look.changed().await;
    }
}
