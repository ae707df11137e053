//! The loop of the engine's thread: listen, `admit → step → retire`.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError};

use super::event::{Event, Events, Failure};
use super::job::Job;
use super::memory::{Memory, Verdict};
use super::network::{Fault, LatentShape, Network, Row};
use super::running::{End, Prepared, Running, guarded};
use super::schedule::{Batch, Key, Rota, chunks};
use super::{Command, EngineOptions};

/// Everything that the engine's thread owns.
pub struct Run<N: Network> {
    network: N,
    options: EngineOptions,
    commands: Receiver<Command>,
    /// Shared with the handles: jobs that are not admitted yet.
    waiting_count: Arc<AtomicUsize>,
    waiting: VecDeque<Prepared>,
    running: BTreeMap<Key, Running<N::Prompt>>,
    /// Jobs with steps left.
    rota: Rota,
    /// Jobs with pictures left to decode, in the order in which they were drawn.
    drawn: VecDeque<Key>,
    memory: Memory,
    /// Rows that a call of this shape may have since the device ran out of memory with more.
    learned_caps: HashMap<LatentShape, usize>,
    next_key: Key,
}

impl<N: Network> Run<N> {
    pub fn new(
        network: N,
        options: EngineOptions,
        commands: Receiver<Command>,
        waiting_count: Arc<AtomicUsize>,
    ) -> Self {
        Run {
            network,
            memory: Memory::new(options.memory_limit),
            options,
            commands,
            waiting_count,
            waiting: VecDeque::new(),
            running: BTreeMap::new(),
            rota: Rota::default(),
            drawn: VecDeque::new(),
            learned_caps: HashMap::new(),
            next_key: 0,
        }
    }

    /// Runs until a shutdown is asked for or every handle is gone. Jobs that are left hear that the engine has stopped
    /// as they are dropped.
    pub fn run(mut self) {
        while self.listen() {
            self.admit();
            self.step();
            self.retire();
        }
    }

    /// Takes what the handles said; waits for something when there is nothing to do. `false` ends the loop.
    fn listen(&mut self) -> bool {
        if self.running.is_empty() && self.waiting.is_empty() {
            let Ok(command) = self.commands.recv() else { return false };
            if !self.obey(command) {
                return false;
            }
        }
        loop {
            match self.commands.try_recv() {
                Ok(command) => {
                    if !self.obey(command) {
                        return false;
                    }
                }
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn obey(&mut self, command: Command) -> bool {
        match command {
            Command::Submit(job, events) => self.receive(*job, events),
            Command::Cancel(id) => self.cancel(&id),
            Command::Shutdown => return false,
        }
        true
    }

    /// Looks a job over and lets it wait, or refuses it.
    fn receive(&mut self, job: Job, events: Events) {
        match Prepared::new(&self.network, job, events) {
            Err((fault, events)) => {
                self.left_the_queue();
                fail_unstarted(events, fault);
            }
            Ok(prepared) if self.memory.verdict(prepared.need) == Verdict::Never => {
                self.left_the_queue();
                let (width, height) = (prepared.job.width, prepared.job.height);
                let need = (prepared.need.held + prepared.need.call).div_ceil(1 << 20);
                let limit = self.options.memory_limit.unwrap_or(0) >> 20;
                let text = format!(
                    "{width}x{height} needs about {need} MiB and the engine may use {limit} MiB: \
                     ask for a smaller width and height or fewer outputs"
                );
                fail_unstarted(prepared.events, Fault::Refused(text));
            }
            Ok(prepared) => self.waiting.push_back(prepared),
        }
    }

    fn left_the_queue(&self) {
        self.waiting_count.fetch_sub(1, Ordering::Relaxed);
    }

    fn cancel(&mut self, id: &str) {
        if let Some(at) = self.waiting.iter().position(|prepared| prepared.job.id == id) {
            if let Some(mut prepared) = self.waiting.remove(at) {
                self.left_the_queue();
                prepared.events.tell(Event::Canceled);
            }
        } else if let Some((&key, _)) = self.running.iter().find(|(_, running)| running.job.id == id) {
            self.end(key, End::Canceled);
        }
    }

    /// Starts waiting jobs, in their order, while there is room.
    fn admit(&mut self) {
        while self.running.len() < self.options.max_jobs.max(1) {
            let Some(next) = self.waiting.front() else { return };
            let (need, shape) = (next.need, next.shape);
            if self.memory.verdict(need) != Verdict::Admit {
                return;
            }
            let Some(prepared) = self.waiting.pop_front() else { return };
            self.left_the_queue();
            let rows = prepared.rows_each * prepared.job.num_outputs;
            match prepared.start(&mut self.network) {
                Err((fault, events)) => fail_unstarted(events, fault),
                Ok(running) => {
                    let key = self.next_key;
                    self.next_key += 1;
                    self.memory.hold(key, need);
                    if running.is_drawn() {
                        self.drawn.push_back(key);
                    } else {
                        self.rota.join(key, shape, rows);
                    }
                    self.running.insert(key, running);
                }
            }
        }
    }

    /// Rows that a call of this shape may have now.
    fn cap(&self, shape: LatentShape) -> usize {
        let learned = self.learned_caps.get(&shape).copied().unwrap_or(usize::MAX);
        let cap = self.options.max_rows.min(learned);
        self.memory.rows(self.network.row_bytes(shape), cap).max(1)
    }

    /// One network call, or several for a job that is larger than a call, and one evaluation for each job in it.
    fn step(&mut self) {
        let mut rota = std::mem::take(&mut self.rota);
        let batch = rota.next(|shape| self.cap(shape));
        self.rota = rota;
        let Some(batch) = batch else { return };
        match self.denoise(&batch) {
            Ok(outputs) => self.advance(&batch, outputs),
            Err(Fault::OutOfMemory(detail)) => self.shrink(&batch, detail),
            Err(fault) => {
                let failure = failure_of(fault);
                tracing::error!(failure = ?failure, jobs = batch.jobs.len(), "a network call failed");
                batch.jobs.iter().for_each(|key| self.end(*key, End::Failed(failure.clone())));
            }
        }
    }

    /// The model outputs of every picture of a batch, in the order of its jobs.
    fn denoise(&mut self, batch: &Batch) -> Result<Vec<Vec<f32>>, Fault> {
        let cap = self.cap(batch.shape);
        let mut rows: Vec<Row<'_, N::Prompt>> = Vec::new();
        let mut rows_each = 1;
        for running in batch.jobs.iter().filter_map(|key| self.running.get(key)) {
            rows_each = rows_each.max(self.network.rows_per_picture(running.job.guidance_scale));
            rows.extend(running.rows());
        }
        // Several jobs were chosen to fit; one alone may have to be cut.
        let sizes = if batch.jobs.len() > 1 { vec![rows.len()] } else { chunks(rows.len(), rows_each, cap) };
        let mut outputs = Vec::with_capacity(rows.len());
        let mut rest = rows.as_slice();
        for size in sizes {
            let (now, later) = rest.split_at(size);
            let network = &mut self.network;
            let more = guarded(|| network.denoise(batch.shape, now))?;
            check_outputs(&more, now.len(), batch.shape)?;
            outputs.extend(more);
            rest = later;
        }
        Ok(outputs)
    }

    fn advance(&mut self, batch: &Batch, outputs: Vec<Vec<f32>>) {
        let mut outputs = outputs.into_iter();
        for key in &batch.jobs {
            let Some(running) = self.running.get_mut(key) else { continue };
            let output: Vec<f32> = outputs.by_ref().take(running.job.num_outputs).flatten().collect();
            running.advance(&self.network, &output);
            if running.is_drawn() {
                self.rota.leave(*key);
                self.drawn.push_back(*key);
            }
        }
    }

    /// After running out of memory: smaller calls from now on, or the end for a job whose smallest call is too large.
    /// Nothing was advanced, so the jobs simply take their turns again.
    fn shrink(&mut self, batch: &Batch, detail: String) {
        let jobs = batch.jobs.iter().filter_map(|key| self.running.get(key));
        let sizes = jobs.map(|r| (r.job.num_outputs, self.network.rows_per_picture(r.job.guidance_scale)));
        let (pictures, rows) = sizes.fold((0, 0), |sum, (n, each)| (sum.0 + n, sum.1 + n * each));
        let tried = rows.min(self.cap(batch.shape));
        if pictures > 1 && tried > 1 {
            tracing::warn!(rows = tried, %detail, "out of memory: halving the rows of a call");
            self.learned_caps.insert(batch.shape, tried.div_ceil(2));
        } else {
            let failure = Failure::OutOfMemory { detail };
            batch.jobs.iter().for_each(|key| self.end(*key, End::Failed(failure.clone())));
        }
    }

    /// Decodes one picture of the job that was drawn first, so that steps and cancellations come between pictures.
    fn retire(&mut self) {
        let Some(&key) = self.drawn.front() else { return };
        let Some(running) = self.running.get_mut(&key) else { return };
        match running.decode_next(&mut self.network) {
            Ok(false) => {}
            Ok(true) => self.end(key, End::Finished),
            Err(fault) => {
                let failure = failure_of(fault);
                tracing::error!(failure = ?failure, "decoding a picture failed");
                self.end(key, End::Failed(failure));
            }
        }
    }

    fn end(&mut self, key: Key, end: End) {
        self.rota.leave(key);
        self.drawn.retain(|drawn| *drawn != key);
        self.memory.release(key);
        if let Some(running) = self.running.remove(&key) {
            running.end(end);
        }
        if self.running.is_empty() {
            self.learned_caps.clear();
        }
    }
}

fn check_outputs(outputs: &[Vec<f32>], rows: usize, shape: LatentShape) -> Result<(), Fault> {
    if outputs.len() == rows && outputs.iter().all(|output| output.len() == shape.count()) {
        Ok(())
    } else {
        Err(Fault::Failed(format!("the network gave {} outputs for {rows} rows of {shape:?}", outputs.len())))
    }
}

fn failure_of(fault: Fault) -> Failure {
    match fault {
        Fault::Refused(text) => Failure::Refused(text),
        Fault::OutOfMemory(detail) => Failure::OutOfMemory { detail },
        Fault::Failed(detail) => Failure::Network { detail },
    }
}

fn fail_unstarted(mut events: Events, fault: Fault) {
    let failure = failure_of(fault);
    if failure.detail().is_some() {
        tracing::error!(failure = ?failure, "a job could not be started");
    }
    events.tell(Event::Failed(failure));
}
