//! What a job hears of itself.

use std::time::Duration;

/// Where a job's events go. Called on the engine's thread: it must not block.
pub type EventSink = Box<dyn FnMut(Event) + Send>;

/// Whether somebody looks at a job's previews. Asked on the engine's thread after each step.
pub type Watched = Box<dyn Fn() -> bool + Send>;

/// A job's way to be heard. Whatever happens, exactly one last event goes out: dropped early, it says that the engine
/// has stopped.
pub(super) struct Events {
    sink: Option<EventSink>,
    watched: Watched,
}

impl Events {
    pub fn new(sink: EventSink, watched: Watched) -> Self {
        Events { sink: Some(sink), watched }
    }

    /// Whether previews are wanted now.
    pub fn watched(&self) -> bool {
        (self.watched)()
    }

    pub fn tell(&mut self, event: Event) {
        let last = event.is_last();
        if let Some(sink) = &mut self.sink {
            sink(event);
        }
        if last {
            self.silence();
        }
    }

    /// Says nothing more.
    pub fn silence(&mut self) {
        self.sink = None;
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.tell(Event::Failed(Failure::Stopped));
    }
}

/// News of one job.
#[derive(Debug, Clone)]
pub enum Event {
    /// The prompt is encoded and the first step is due.
    Started,
    /// The progress bar moved: `done` of `total` steps, `elapsed` since `Started`.
    Step {
        done: usize,
        total: usize,
        elapsed: Duration,
    },
    /// What the pictures will roughly be, a few pixels each, after `done` of `total` steps. Only for jobs that are
    /// watched, and not after every step.
    Preview {
        done: usize,
        total: usize,
        pictures: Vec<image::RgbImage>,
    },
    /// Output `index` of `num_outputs`, in order.
    Picture {
        index: usize,
        rgb: image::RgbImage,
    },
    /// All pictures were sent.
    Finished {
        elapsed: Duration,
    },
    Failed(Failure),
    Canceled,
}

impl Event {
    /// Whether no further event of this job follows.
    pub fn is_last(&self) -> bool {
        matches!(self, Event::Finished { .. } | Event::Failed(_) | Event::Canceled)
    }
}

/// Why a job ended without pictures. The text is fit for the user; `Network` carries more for the operator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// This model or device cannot do what was asked; the text says what would be right.
    #[error("{0}")]
    Refused(String),
    /// The device ran out of memory even for the smallest piece of the job.
    #[error("out of memory: fewer outputs or a smaller width and height may fit")]
    OutOfMemory { detail: String },
    /// The network failed or panicked.
    #[error("the model failed while drawing the picture")]
    Network { detail: String },
    /// The engine was shut down before the job ended.
    #[error("the server was stopped before the picture was finished")]
    Stopped,
}

/// What to do with a job that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// It would fail again: tell the user.
    Final,
    /// Nothing was wrong with it: let it run again elsewhere or later.
    Requeue,
}

impl Failure {
    pub fn disposition(&self) -> Disposition {
        match self {
            Failure::Stopped => Disposition::Requeue,
            Failure::Refused(_) | Failure::OutOfMemory { .. } | Failure::Network { .. } => Disposition::Final,
        }
    }

    /// What the operator needs beside the user's text.
    pub fn detail(&self) -> Option<&str> {
        match self {
            Failure::OutOfMemory { detail } | Failure::Network { detail } => Some(detail),
            Failure::Refused(_) | Failure::Stopped => None,
        }
    }
}
