//! One running job: its latents, the values its sampler remembers, and where it is in its plan.

use std::time::{Duration, Instant};

use super::event::{Event, Events, Failure};
use super::job::Job;
use super::memory::Need;
use super::network::{Fault, LatentShape, Network, PromptRequest, Row};
use crate::diffusion::noise::NoiseStream;
use crate::diffusion::sampler::{Evaluation, Plan};

/// Between two previews of a job.
const PREVIEW_INTERVAL: Duration = Duration::from_millis(250);

/// A job that takes part in network calls. All its pictures are at the same evaluation.
pub struct Running<P> {
    pub job: Job,
    pub shape: LatentShape,
    prompt: P,
    plan: Plan,
    /// `[num_outputs, C, H, W]`
    latents: Vec<f32>,
    /// What the next call sees: the latents times the plan's input scale.
    scaled: Vec<f32>,
    slots: Vec<Vec<f32>>,
    noise: NoiseStream,
    evaluation: usize,
    steps_done: usize,
    pictures_done: usize,
    started: Instant,
    previewed: Option<Instant>,
    events: Events,
}

/// What is known of a job before anything is computed for it.
pub struct Prepared {
    pub job: Job,
    pub events: Events,
    pub shape: LatentShape,
    pub plan: Plan,
    pub rows_each: usize,
    pub need: Need,
}

impl Prepared {
    /// Checks a job against the model and reckons what it needs.
    pub fn new<N: Network>(network: &N, job: Job, events: Events) -> Result<Self, (Fault, Events)> {
        let refuse = |text: &str| Err(Fault::Refused(text.to_string()));
        let looked_up = match () {
            _ if job.num_outputs == 0 => refuse("num_outputs must be at least 1"),
            _ if !job.guidance_scale.is_finite() => refuse("guidance_scale must be a finite number"),
            _ => network.latent_shape(job.width, job.height).and_then(|shape| {
                let plan = network.plan(job.scheduler, &job.scheduler_overrides, job.num_inference_steps)?;
                Ok((shape, plan))
            }),
        };
        let (shape, plan) = match looked_up {
            Ok(found) => found,
            Err(fault) => return Err((fault, events)),
        };
        let rows_each = network.rows_per_picture(job.guidance_scale);
        let latents = (shape.count() * job.num_outputs * size_of::<f32>()) as u64;
        let need = Need {
            held: network.prompt_bytes(job.guidance_scale) + latents * (plan.slots as u64 + 3),
            call: (network.row_bytes(shape) * rows_each as u64).max(network.decode_bytes(shape)),
        };
        Ok(Prepared { job, events, shape, plan, rows_each, need })
    }

    /// Encodes the prompt and draws the first noise: one draw for all pictures of the request.
    pub fn start<N: Network>(mut self, network: &mut N) -> Result<Running<N::Prompt>, (Fault, Events)> {
        let request = PromptRequest {
            prompt: &self.job.prompt,
            negative_prompt: self.job.negative_prompt.as_deref(),
            guidance_scale: self.job.guidance_scale,
            width: self.job.width,
            height: self.job.height,
        };
        let prompt = match guarded(|| network.encode(&request)) {
            Ok(prompt) => prompt,
            Err(fault) => return Err((fault, self.events)),
        };
        let mut noise = NoiseStream::new(self.job.noise, self.job.seed);
        let mut latents = noise.draw(self.shape.count() * self.job.num_outputs);
        let sigma = self.plan.init_noise_sigma as f32;
        latents.iter_mut().for_each(|x| *x *= sigma);
        self.events.tell(Event::Started);
        let mut running = Running {
            scaled: vec![0.0; latents.len()],
            slots: self.plan.new_slots(latents.len()),
            job: self.job,
            shape: self.shape,
            prompt,
            plan: self.plan,
            latents,
            noise,
            evaluation: 0,
            steps_done: 0,
            pictures_done: 0,
            started: Instant::now(),
            previewed: None,
            events: self.events,
        };
        running.scale();
        Ok(running)
    }
}

impl<P> Running<P> {
    fn next_evaluation(&self) -> Option<&Evaluation> {
        self.plan.evaluations.get(self.evaluation)
    }

    /// Whether all evaluations are done and only pictures are missing.
    pub fn is_drawn(&self) -> bool {
        self.next_evaluation().is_none()
    }

    /// Prepares what the next call sees.
    fn scale(&mut self) {
        let Some(evaluation) = self.plan.evaluations.get(self.evaluation) else { return };
        let scale = evaluation.input_scale as f32;
        for (scaled, x) in self.scaled.iter_mut().zip(&self.latents) {
            *scaled = x * scale;
        }
    }

    /// This job's rows of the next call: one for each picture.
    pub fn rows(&self) -> impl Iterator<Item = Row<'_, P>> {
        let timestep = self.next_evaluation().map_or(0.0, |evaluation| evaluation.timestep);
        self.scaled.chunks_exact(self.shape.count()).map(move |sample| Row { sample, timestep, prompt: &self.prompt })
    }

    /// Carries out the evaluation with the model's outputs `[num_outputs, C, H, W]`. The network is asked for previews
    /// only; they see what the model takes the finished latents to be and change nothing.
    pub fn advance<N: Network>(&mut self, network: &N, output: &[f32]) {
        let Some(evaluation) = self.plan.evaluations.get(self.evaluation) else { return };
        let clean = self.preview_is_due(evaluation).then(|| evaluation.predict_clean(&self.scaled, output));
        let noise = evaluation.draws_noise.then(|| self.noise.draw(self.latents.len()));
        evaluation.apply(&mut self.latents, output, &mut self.slots, noise.as_deref());
        let advances = evaluation.advances;
        self.evaluation += 1;
        self.scale();
        if advances {
            self.steps_done += 1;
            let total = self.job.num_inference_steps;
            self.events.tell(Event::Step { done: self.steps_done, total, elapsed: self.started.elapsed() });
        }
        if let Some(clean) = clean {
            self.preview(network, &clean);
        }
    }

    fn preview_is_due(&self, evaluation: &Evaluation) -> bool {
        let rested = self.previewed.is_none_or(|last| last.elapsed() >= PREVIEW_INTERVAL);
        evaluation.advances && rested && self.events.watched()
    }

    fn preview<N: Network>(&mut self, network: &N, clean: &[f32]) {
        self.previewed = Some(Instant::now());
        let each = clean.chunks_exact(self.shape.count());
        let pictures = guarded(|| Ok(each.map(|latents| network.preview(self.shape, latents)).collect()));
        if let Ok(Some(pictures)) = pictures {
            let (done, total) = (self.steps_done, self.job.num_inference_steps);
            self.events.tell(Event::Preview { done, total, pictures });
        }
    }

    /// Decodes the next picture; `true` when it was the last.
    pub fn decode_next<N: Network>(&mut self, network: &mut N) -> Result<bool, Fault> {
        let count = self.shape.count();
        let index = self.pictures_done;
        let latents = &self.latents[index * count..(index + 1) * count];
        let rgb = guarded(|| network.decode(self.shape, latents))?;
        self.events.tell(Event::Picture { index, rgb });
        self.pictures_done += 1;
        Ok(self.pictures_done == self.job.num_outputs)
    }

    /// Says the last word.
    pub fn end(mut self, end: End) {
        let event = match end {
            End::Finished => Event::Finished { elapsed: self.started.elapsed() },
            End::Failed(failure) => Event::Failed(failure),
            End::Canceled => Event::Canceled,
        };
        self.events.tell(event);
    }
}

/// How a running job ends.
pub enum End {
    Finished,
    Failed(Failure),
    Canceled,
}

/// Turns a panic of the network into a fault.
pub fn guarded<T>(call: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(call)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
        Err(Fault::Failed(format!("panicked: {text}")))
    })
}
