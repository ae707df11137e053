//! Claim, admit, renew, settle: carries predictions from the store through the engine, one worker per device.
//!
//! One task makes every write of this worker, so a prediction's logs and its end cannot overtake each other. Pictures
//! are encoded on the blocking pool and are durable before the row that points to them. [`Keeper`] minds deadlines and
//! retention. Knows nothing of HTTP.

mod job;
mod keeper;
mod png;
mod preview;
mod tqdm;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::blobs::Blobs;
use crate::domain::Catalog;
use crate::engine::{Disposition, EngineHandle, Event};
use crate::live::Live;
use crate::store::{Change, Claimed, Lease, Outcome, Renewal, Store, StoreError};
use job::{Running, Settlement, job_id, prepare};

pub use keeper::Keeper;
pub use png::encode as encode_png;
pub use tqdm::line as progress_line;

/// How a worker deals with its leases.
#[derive(Debug, Clone)]
pub struct WorkerOptions {
    /// Who holds the leases; unique among the workers of a store.
    pub name: String,
    /// A lease without renewal ends after this.
    pub term: Duration,
    /// Between renewals, which also notice cancels and lost leases.
    pub renew_every: Duration,
    /// Between writes of progress, and between looks at the queue when no news comes.
    pub tick: Duration,
    /// Predictions claimed at once.
    pub batch: usize,
    /// For running jobs to end after the worker was told to stop.
    pub drain: Duration,
    /// For a prediction to run; `None`: as long as it takes.
    pub run_limit: Option<Duration>,
}

impl Default for WorkerOptions {
    fn default() -> Self {
        WorkerOptions {
            name: format!("worker-{}", crate::domain::new_prediction_id()),
            term: Duration::from_secs(30),
            renew_every: Duration::from_secs(5),
            tick: Duration::from_millis(400),
            batch: 4,
            drain: Duration::from_secs(30),
            run_limit: None,
        }
    }
}

/// Why a worker ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    #[error("the engine has stopped")]
    EngineStopped,
}

/// News for the worker's one task.
enum Message {
    Engine(String, Event),
    /// A picture is durable, or why it is not.
    Stored(String, usize, Result<String, String>),
}

/// Carries predictions through one engine.
pub struct Worker {
    store: Arc<dyn Store>,
    blobs: Blobs,
    catalog: Arc<Catalog>,
    engine: EngineHandle,
    live: Live,
    options: WorkerOptions,
    jobs: HashMap<String, Running>,
    sender: UnboundedSender<Message>,
    messages: Option<UnboundedReceiver<Message>>,
    renewed: Instant,
    /// The queue may hold something to claim.
    hungry: bool,
}

impl Worker {
    pub fn new(
        store: Arc<dyn Store>,
        blobs: Blobs,
        catalog: Arc<Catalog>,
        engine: EngineHandle,
        live: Live,
        options: WorkerOptions,
    ) -> Worker {
        let (sender, messages) = unbounded_channel();
        Worker {
            store,
            blobs,
            catalog,
            engine,
            live,
            options,
            jobs: HashMap::new(),
            sender,
            messages: Some(messages),
            renewed: Instant::now(),
            hungry: true,
        }
    }

    /// Works until `stop`, then lets running jobs end for the drain time and gives the rest back to the queue.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), WorkerError> {
        let Some(mut messages) = self.messages.take() else { return Ok(()) };
        let mut changes = self.store.changes();
        let mut tick = interval(self.options.tick);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut drain_until = None;
        loop {
            let stopping = drain_until.is_some();
            tokio::select! {
                Some(message) = messages.recv() => self.hear(message),
                change = changes.recv() => match change {
                    Ok(Change::CancelRequested(id)) => self.cancel(&id),
                    Ok(Change::Queued) => self.hungry = true,
                    Ok(Change::Finished(_) | Change::Outbox) => {}
                    // News was lost: a renewal tells what is to be canceled.
                    Err(RecvError::Lagged(_)) => self.renew().await,
                    Err(RecvError::Closed) => tokio::time::sleep(self.options.tick).await,
                },
                _ = tick.tick() => {
                    self.hungry = true;
                    self.upkeep().await;
                }
                () = stop.cancelled(), if !stopping => drain_until = Some(Instant::now() + self.options.drain),
                () = sleep_until(drain_until), if stopping => {
                    drain_until = Some(Instant::now() + Duration::from_secs(3600));
                    self.stop_engine();
                }
            }
            while let Ok(message) = messages.try_recv() {
                self.hear(message);
            }
            self.settle().await;
            if !stop.is_cancelled() {
                self.claim().await?;
            } else if self.jobs.is_empty() {
                return Ok(());
            }
        }
    }

    fn hear(&mut self, message: Message) {
        match message {
            Message::Engine(job, event) => self.hear_engine(&job, event),
            Message::Stored(job, index, result) => {
                let Some(running) = self.jobs.get_mut(&job) else { return };
                match result {
                    Ok(path) => running.stored(index, path),
                    Err(problem) => {
                        tracing::error!("{job}: picture {index}: {problem}");
                        let text = "the picture could not be stored on the server".to_string();
                        running.settle(Settlement::Finish(Outcome::Failed(text)));
                        self.engine.cancel(&job);
                    }
                }
            }
        }
    }

    fn hear_engine(&mut self, job: &str, event: Event) {
        // A job whose lease is lost is gone from the table: nobody wants to hear of it.
        let Some(running) = self.jobs.get_mut(job) else { return };
        match event {
            // Admitted: there may be room for another one.
            Event::Started => self.hungry = true,
            Event::Step { done, total, elapsed } => running.progress(done, total, elapsed),
            Event::Preview { done, total, pictures } => {
                if let Ok(turn) = running.encoder.clone().try_acquire_owned() {
                    let show = running.show.clone();
                    tokio::task::spawn_blocking(move || {
                        if let Some(json) = preview::encode(done, total, &pictures) {
                            show.preview(json);
                        }
                        drop(turn);
                    });
                }
            }
            Event::Picture { index, rgb } => {
                let (folder, name) = (running.folder.clone(), format!("out-{index}.png"));
                let (blobs, sender, job) = (self.blobs.clone(), self.sender.clone(), job.to_string());
                tokio::spawn(async move {
                    let stored = store_picture(&blobs, &folder, &name, rgb).await;
                    // The worker is gone only when nobody waits for the picture.
                    let _ = sender.send(Message::Stored(job, index, stored));
                });
            }
            Event::Finished { .. } => running.all_drawn(),
            Event::Canceled => running.settle(Settlement::Finish(Outcome::Canceled)),
            Event::Failed(failure) => {
                if let Some(detail) = failure.detail() {
                    tracing::error!("{job}: {failure}: {detail}");
                }
                running.settle(match failure.disposition() {
                    Disposition::Final => Settlement::Finish(Outcome::Failed(failure.to_string())),
                    Disposition::Requeue => Settlement::Release,
                });
            }
        }
    }

    /// Takes work from the queue as long as the engine has admitted all that it was given.
    async fn claim(&mut self) -> Result<(), WorkerError> {
        while self.hungry && self.engine.waiting() == 0 {
            let claimed = match self.store.claim(self.options.batch, &self.options.name, self.options.term).await {
                Ok(claimed) => claimed,
                Err(error) => {
                    tracing::error!("claim: {error}");
                    return Ok(());
                }
            };
            self.hungry = !claimed.is_empty();
            for claimed in &claimed {
                self.admit(claimed)?;
            }
            self.settle().await;
        }
        Ok(())
    }

    fn admit(&mut self, claimed: &Claimed) -> Result<(), WorkerError> {
        let id = job_id(&claimed.lease);
        let prepared = prepare(&self.catalog, claimed);
        let num_outputs = prepared.as_ref().map_or(0, |p| p.job.num_outputs);
        let show = self.live.show(&claimed.prediction.id);
        let mut running = match Running::new(claimed, num_outputs, show.clone()) {
            Ok(running) => running,
            Err(error) => {
                tracing::error!("{id}: {error}");
                return Ok(());
            }
        };
        match prepared {
            Err(refusal) => running.settle(Settlement::Finish(Outcome::Failed(refusal))),
            Ok(prepared) => {
                running.logs = prepared.logs;
                running.progress(0, prepared.job.num_inference_steps, Duration::ZERO);
                let (sender, job) = (self.sender.clone(), id.clone());
                let watched = move || show.is_watched();
                let submitted = self.engine.submit_watched(prepared.job, watched, move |event| {
                    let _ = sender.send(Message::Engine(job.clone(), event));
                });
                if submitted.is_err() {
                    return Err(WorkerError::EngineStopped);
                }
            }
        }
        self.jobs.insert(id, running);
        Ok(())
    }

    fn cancel(&self, prediction: &str) {
        let ours = self.jobs.iter().filter(|(_, running)| running.lease.id == prediction);
        for (job, _) in ours {
            self.engine.cancel(job);
        }
    }

    /// Progress, renewals, and what other workers left behind.
    async fn upkeep(&mut self) {
        self.end_overlong();
        self.write_logs().await;
        if self.renewed.elapsed() >= self.options.renew_every {
            // Renewing first: after a long sleep of the machine our own leases look expired too.
            self.renew().await;
            match self.store.recover(false).await {
                Ok(recovered) if recovered == Default::default() => {}
                Ok(recovered) => tracing::warn!("took over predictions of a dead worker: {recovered:?}"),
                Err(error) => tracing::error!("recover: {error}"),
            }
        }
    }

    /// Fails predictions that have run for longer than they may.
    fn end_overlong(&mut self) {
        let Some(limit) = self.options.run_limit else { return };
        let overlong = |running: &Running| running.settlement.is_none() && running.begun.elapsed() >= limit;
        for (job, running) in self.jobs.iter_mut().filter(|(_, running)| overlong(running)) {
            let text = format!("the prediction ran for longer than {} s, which is the limit", limit.as_secs_f64());
            running.settle(Settlement::Finish(Outcome::Failed(text)));
            self.engine.cancel(job);
        }
    }

    async fn write_logs(&mut self) {
        let unsettled = self.jobs.values_mut().filter(|r| r.settlement.is_none() && !r.logs.is_empty());
        let entries: Vec<(Lease, String)> = unsettled.map(|r| (r.lease.clone(), std::mem::take(&mut r.logs))).collect();
        if entries.is_empty() {
            return;
        }
        let written = self.store.append_logs(&entries).await;
        for (lease, text) in entries {
            let Some(running) = self.jobs.get_mut(&job_id(&lease)) else { continue };
            match &written {
                Ok(()) => running.show.row_changed(),
                Err(_) => running.logs.insert_str(0, &text),
            }
        }
        if let Err(error) = written {
            tracing::error!("logs: {error}");
        }
    }

    async fn renew(&mut self) {
        self.renewed = Instant::now();
        let (jobs, leases): (Vec<String>, Vec<Lease>) =
            self.jobs.iter().map(|(job, running)| (job.clone(), running.lease.clone())).unzip();
        if leases.is_empty() {
            return;
        }
        match self.store.renew(&leases, self.options.term).await {
            Err(error) => tracing::error!("renew: {error}"),
            Ok(renewals) => {
                for (job, renewal) in jobs.iter().zip(renewals) {
                    match renewal {
                        Renewal::Held => {}
                        Renewal::CancelRequested => self.engine.cancel(job),
                        Renewal::Lost => {
                            tracing::warn!("{job}: the lease was lost");
                            self.engine.cancel(job);
                            self.jobs.remove(job);
                        }
                    }
                }
            }
        }
    }

    /// Writes the ends of jobs. What the store does not take now is tried again at the next turn.
    async fn settle(&mut self) {
        let due: Vec<String> =
            self.jobs.iter().filter(|(_, r)| r.settlement.is_some()).map(|(job, _)| job.clone()).collect();
        for job in due {
            let Some(running) = self.jobs.get(&job) else { continue };
            let Some(settlement) = &running.settlement else { continue };
            match settle_one(&*self.store, running, settlement).await {
                Ok(ours) => {
                    if !ours {
                        tracing::warn!("{job}: the lease was lost before its end");
                    }
                    self.jobs.remove(&job);
                }
                Err(error) => tracing::error!("{job}: end not written: {error}"),
            }
        }
    }

    /// Ends what the engine still works on; its last events settle the jobs.
    fn stop_engine(&self) {
        let engine = self.engine.clone();
        tokio::task::spawn_blocking(move || engine.shutdown());
    }
}

async fn settle_one(store: &dyn Store, running: &Running, settlement: &Settlement) -> Result<bool, StoreError> {
    match settlement {
        Settlement::Finish(outcome) => store.finish(&running.lease, outcome.clone(), &running.logs).await,
        Settlement::Release => {
            if !running.logs.is_empty() {
                store.append_logs(&[(running.lease.clone(), running.logs.clone())]).await?;
            }
            store.release(&running.lease).await
        }
    }
}

async fn store_picture(blobs: &Blobs, folder: &str, name: &str, rgb: image::RgbImage) -> Result<String, String> {
    let png = tokio::task::spawn_blocking(move || png::encode(&rgb)).await;
    let bytes = png.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
    blobs.put(folder, name, Bytes::from(bytes)).await.map_err(|e| e.to_string())
}

async fn sleep_until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
