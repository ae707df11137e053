//! From a claimed prediction to a job of the engine, and what is known of it while it runs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use crate::blobs::{BlobError, Blobs};
use crate::domain::{Catalog, Input, Source};
use crate::engine::Job;
use crate::live::Show;
use crate::store::{Claimed, Lease, Outcome};

use super::tqdm;

/// tqdm's own least time between two lines.
const BAR_INTERVAL: Duration = Duration::from_millis(100);

/// How a job is to leave this worker.
#[derive(Debug, Clone, PartialEq)]
pub enum Settlement {
    /// With a result.
    Finish(Outcome),
    /// Back to the queue.
    Release,
}

/// A prediction that this worker holds.
#[derive(Debug)]
pub struct Running {
    pub lease: Lease,
    pub begun: Instant,
    /// Log text that the store does not have yet.
    pub logs: String,
    /// Where its pictures go.
    pub folder: String,
    /// Blob paths of the pictures that are durable, by index.
    pub paths: Vec<Option<String>>,
    /// The engine has sent all pictures.
    pub drawn: bool,
    /// Set once it is to leave.
    pub settlement: Option<Settlement>,
    /// Where it can be seen while it runs.
    pub show: Show,
    /// Held by the one preview that is being encoded: those that come meanwhile are dropped.
    pub encoder: Arc<Semaphore>,
    last_line: Option<Duration>,
}

impl Running {
    pub fn new(claimed: &Claimed, num_outputs: usize, show: Show) -> Result<Running, BlobError> {
        Ok(Running {
            lease: claimed.lease.clone(),
            begun: Instant::now(),
            logs: String::new(),
            folder: Blobs::new_folder()?,
            paths: vec![None; num_outputs],
            drawn: false,
            settlement: None,
            show,
            encoder: Arc::new(Semaphore::new(1)),
            last_line: None,
        })
    }

    /// Adds a line of the progress bar, not more often than tqdm does.
    pub fn progress(&mut self, done: usize, total: usize, elapsed: Duration) {
        let due = self.last_line.is_none_or(|last| elapsed >= last + BAR_INTERVAL);
        if due || done >= total {
            self.last_line = Some(elapsed);
            self.logs.push_str(&tqdm::line(done, total, elapsed));
            self.logs.push('\n');
        }
    }

    /// Records a durable picture.
    pub fn stored(&mut self, index: usize, path: String) {
        if let Some(slot) = self.paths.get_mut(index) {
            self.show.stored(index, path.clone());
            *slot = Some(path);
        }
        self.settle_if_complete();
    }

    /// All pictures are drawn; some may still be on their way to the storage.
    pub fn all_drawn(&mut self) {
        self.drawn = true;
        self.settle_if_complete();
    }

    /// The first settlement stands.
    pub fn settle(&mut self, settlement: Settlement) {
        self.settlement.get_or_insert(settlement);
    }

    fn settle_if_complete(&mut self) {
        if !self.drawn {
            return;
        }
        if let Some(paths) = self.paths.iter().cloned().collect::<Option<Vec<String>>>() {
            self.settle(Settlement::Finish(Outcome::Succeeded(paths)));
        }
    }
}

/// What a claimed prediction asks of the engine, with the first lines of its log.
#[derive(Debug)]
pub struct Prepared {
    pub job: Job,
    pub logs: String,
}

/// Reads a claimed prediction; `Err` is the text that it fails with.
pub fn prepare(catalog: &Catalog, claimed: &Claimed) -> Result<Prepared, String> {
    let prediction = &claimed.prediction;
    let reference = format!("{}:{}", prediction.model, prediction.version);
    let resolved = catalog.resolve(&reference).ok_or_else(|| format!("this server no longer serves {reference}"))?;
    let input = Input::parse(resolved.table, &prediction.input).map_err(|errors| {
        let lines: Vec<String> = errors.iter().map(|e| format!("{}: {}", e.field, e.description)).collect();
        format!("the input is not valid for {reference}: {}", lines.join("; "))
    })?;
    if let Some(refusal) = input.refusal(resolved.table) {
        return Err(refusal);
    }
    let mut logs = String::new();
    if claimed.interruptions > 0 {
        logs.push_str("stablehand: the server was interrupted; starting again\n");
    }
    if resolved.stands_in {
        logs.push_str(&stand_in_line(catalog, resolved.model));
    }
    logs.push_str(&format!("Using seed: {}\n", prediction.seed));
    let job = Job {
        id: job_id(&claimed.lease),
        prompt: input.prompt,
        negative_prompt: input.negative_prompt,
        width: input.width as usize,
        height: input.height as usize,
        num_outputs: input.num_outputs as usize,
        num_inference_steps: input.num_inference_steps as usize,
        guidance_scale: input.guidance_scale,
        scheduler: input.scheduler,
        seed: prediction.seed,
        noise: input.noise,
        scheduler_overrides: catalog.served().overrides(input.scheduler),
    };
    Ok(Prepared { job, logs })
}

/// The engine's name for a lease: a later attempt of the same prediction is another job.
pub fn job_id(lease: &Lease) -> String {
    format!("{}#{}", lease.id, lease.attempt)
}

fn stand_in_line(catalog: &Catalog, asked: &str) -> String {
    let served = catalog.served();
    match served.source {
        Source::Builtin => format!(
            "stablehand: built-in model {} stands in for {asked}: {}\n",
            served.name,
            served.description.trim_end_matches('.')
        ),
        _ => format!("stablehand: model {} stands in for {asked}\n", served.name),
    }
}
