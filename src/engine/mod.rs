//! Step-level batching: one thread per device, `admit → step → retire`.
//!
//! Owns the running jobs, the order in which they take turns and the memory they may use. Does no I/O, never awaits,
//! draws from no global generator and touches no tensor: the network behind the [`Network`] trait does that.

mod event;
mod job;
mod memory;
mod model;
mod network;
mod run;
mod running;
mod schedule;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use event::Events;
pub use event::{Disposition, Event, EventSink, Failure, Watched};
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

/// What a handle says to the engine's thread.
enum Command {
    Submit(Box<Job>, Events),
    Cancel(String),
    Shutdown,
}

/// Starts engines.
pub struct Engine;

impl Engine {
    /// Starts a thread that owns this network, and gives the way to it.
    pub fn start<N: Network>(network: N, options: EngineOptions) -> std::io::Result<EngineHandle> {
        let (sender, commands) = channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        let run = run::Run::new(network, options, commands, waiting.clone());
        let thread = std::thread::Builder::new().name("engine".to_string()).spawn(move || run.run())?;
        Ok(EngineHandle { commands: sender, waiting, thread: Arc::new(Mutex::new(Some(thread))) })
    }
}

/// The way to a running engine. Clones speak to the same thread.
#[derive(Clone)]
pub struct EngineHandle {
    commands: Sender<Command>,
    waiting: Arc<AtomicUsize>,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl EngineHandle {
    /// Hands over a job. Its events come in the order `Started`, `Step`…, `Picture`…, then exactly one of `Finished`,
    /// `Failed` and `Canceled`; a job that never started has only the last.
    pub fn submit(&self, job: Job, events: impl FnMut(Event) + Send + 'static) -> Result<(), SubmitError> {
        self.submit_watched(job, || false, events)
    }

    /// The same, with a `Preview` now and then among the steps while `watched` says that somebody wants them.
    pub fn submit_watched(
        &self,
        job: Job,
        watched: impl Fn() -> bool + Send + 'static,
        events: impl FnMut(Event) + Send + 'static,
    ) -> Result<(), SubmitError> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let events = Events::new(Box::new(events), Box::new(watched));
        self.commands.send(Command::Submit(Box::new(job), events)).map_err(|refused| {
            if let Command::Submit(_, mut events) = refused.0 {
                events.silence();
            }
            SubmitError::Stopped
        })
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
