//! Step-level batching: one thread per device, `admit → step → retire`.
//!
//! Owns the running jobs, the order in which they take turns and the memory they may use. Does no I/O, never awaits,
//! draws from no global generator and touches no tensor: the network behind the [`Network`] trait does that.

mod event;
mod job;
mod network;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;

pub use event::{Disposition, Event, Failure};
pub use job::Job;
pub use network::{Fault, LatentShape, Network, PromptRequest, Row};

/// How an engine shares its device.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// Rows of one UNet call; a guided picture is two rows.
    pub max_rows: usize,
    /// Requests that take turns at the same time; further ones wait in the order of their coming.
    pub max_jobs: usize,
    /// Bytes that running requests and one network call may use together, weights not counted. `None`: no limit.
    pub memory_limit: Option<u64>,
}

impl Default for EngineOptions {
    fn default() -> Self {
        EngineOptions { max_rows: 16, max_jobs: 64, memory_limit: None }
    }
}

/// Why a job could not be handed over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// The engine's thread has ended.
    #[error("the engine has stopped")]
    Stopped,
}

/// Where a job's events go. Called on the engine's thread: it must not block.
pub type EventSink = Box<dyn FnMut(Event) + Send>;

/// What a handle says to the engine's thread.
enum Command {
    Submit(Box<Job>, EventSink),
    Cancel(String),
    Shutdown,
}

/// The way to a running engine. Clones speak to the same thread.
#[derive(Clone)]
pub struct EngineHandle {
    commands: Sender<Command>,
    waiting: Arc<AtomicUsize>,
    thread: Arc<std::sync::Mutex<Option<JoinHandle<()>>>>,
}

impl EngineHandle {
    /// Hands over a job. Its events come in the order `Started`, `Step`…, `Picture`…, then exactly one of `Finished`,
    /// `Failed` and `Canceled`; a job that never started has only the last.
    pub fn submit(&self, job: Job, events: impl FnMut(Event) + Send + 'static) -> Result<(), SubmitError> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        self.commands.send(Command::Submit(Box::new(job), Box::new(events))).map_err(|_| SubmitError::Stopped)
    }

    /// Ends the job of this id before its next step, with `Canceled`. An unknown id is ignored.
    pub fn cancel(&self, id: &str) {
        // A stopped engine has no job left to cancel.
        let _ = self.commands.send(Command::Cancel(id.to_string()));
    }

    /// Jobs handed over that have not been admitted yet: claim more work while this is zero.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Ends every job with [`Failure::Stopped`], after the network call in progress, and waits for the thread.
    /// To drain, wait for the jobs' last events first.
    pub fn shutdown(&self) {
        let _ = self.commands.send(Command::Shutdown);
        let thread = self.thread.lock().unwrap_or_else(|e| e.into_inner()).take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}
