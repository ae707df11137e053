//! The built-in model in company: rows of different requests share UNet calls, and no picture shows it.

use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};

use candle_core::{DType, Device};
use stablehand::diffusion::model::{Model, PromptConditioning};
use stablehand::diffusion::sampler::Plan;
use stablehand::domain::{NoiseSource, Scheduler};
use stablehand::engine::{
    Engine, EngineHandle, EngineOptions, Event, Fault, Job, LatentShape, Network, PromptRequest, Row,
};
use stablehand::weights::Checkpoint;

/// Writes down the timesteps of each call's rows.
struct Watched {
    model: Model,
    calls: Arc<Mutex<Vec<Vec<f32>>>>,
}

impl Network for Watched {
    type Prompt = PromptConditioning;

    fn latent_shape(&self, width: usize, height: usize) -> Result<LatentShape, Fault> {
        self.model.latent_shape(width, height)
    }

    fn plan(
        &self,
        scheduler: Scheduler,
        overrides: &serde_json::Map<String, serde_json::Value>,
        steps: usize,
    ) -> Result<Plan, Fault> {
        Network::plan(&self.model, scheduler, overrides, steps)
    }

    fn encode(&mut self, request: &PromptRequest<'_>) -> Result<PromptConditioning, Fault> {
        Network::encode(&mut self.model, request)
    }

    fn denoise(&mut self, shape: LatentShape, rows: &[Row<'_, PromptConditioning>]) -> Result<Vec<Vec<f32>>, Fault> {
        self.calls.lock().unwrap().push(rows.iter().map(|row| row.timestep).collect());
        Network::denoise(&mut self.model, shape, rows)
    }

    fn decode(&mut self, shape: LatentShape, latents: &[f32]) -> Result<image::RgbImage, Fault> {
        Network::decode(&mut self.model, shape, latents)
    }

    fn row_bytes(&self, shape: LatentShape) -> u64 {
        self.model.row_bytes(shape)
    }

    fn decode_bytes(&self, shape: LatentShape) -> u64 {
        self.model.decode_bytes(shape)
    }

    fn prompt_bytes(&self, guidance_scale: f64) -> u64 {
        self.model.prompt_bytes(guidance_scale)
    }
}

fn start() -> (EngineHandle, Arc<Mutex<Vec<Vec<f32>>>>) {
    let model = Model::load(&Checkpoint::builtin(), &Device::Cpu, DType::F32).unwrap();
    let calls = Arc::new(Mutex::new(Vec::new()));
    (Engine::start(Watched { model, calls: calls.clone() }, EngineOptions::default()).unwrap(), calls)
}

fn job(id: &str, scheduler: Scheduler, steps: usize, guidance_scale: f64, num_outputs: usize) -> Job {
    Job {
        id: id.into(),
        prompt: format!("a {id} circle on a white background"),
        negative_prompt: (id == "red").then(|| "blue".into()),
        width: 128,
        height: 64,
        num_outputs,
        num_inference_steps: steps,
        guidance_scale,
        scheduler,
        seed: 40 + steps as u64,
        noise: NoiseSource::Cuda,
        scheduler_overrides: Default::default(),
    }
}

/// Different in everything that rows of a call may differ in.
fn jobs() -> Vec<Job> {
    vec![
        job("red", Scheduler::DpmSolverMultistep, 8, 7.5, 2),
        job("green", Scheduler::KEulerAncestral, 5, 3.5, 1),
        job("blue", Scheduler::Pndm, 6, 1.0, 1),
        job("yellow", Scheduler::Ddim, 3, 12.0, 1),
    ]
}

fn pictures(events: Receiver<Event>) -> Vec<image::RgbImage> {
    let mut pictures = Vec::new();
    for event in events {
        match event {
            Event::Picture { rgb, .. } => pictures.push(rgb),
            Event::Failed(failure) => panic!("{failure}: {:?}", failure.detail()),
            _ => {}
        }
    }
    pictures
}

fn submit(engine: &EngineHandle, job: Job) -> Receiver<Event> {
    let (sender, events) = channel();
    engine.submit(job, move |event| drop(sender.send(event))).unwrap();
    events
}

#[test]
fn a_picture_does_not_depend_on_its_company() {
    let (engine, calls) = start();
    let alone: Vec<_> = jobs().into_iter().map(|job| pictures(submit(&engine, job))).collect();
    assert!(calls.lock().unwrap().iter().all(|call| call.iter().all(|timestep| *timestep == call[0])));
    calls.lock().unwrap().clear();

    // The others join when the first has made its second step; they leave at their own times.
    let mut waiting: Vec<_> = jobs().into_iter().skip(1).collect();
    let mut others = Vec::new();
    let (sender, events) = channel();
    let (handed_over, received) = channel();
    let joiner = engine.clone();
    let join_at_step_two = move |event: Event| {
        if matches!(event, Event::Step { done: 2, .. }) {
            waiting.drain(..).for_each(|job| handed_over.send(submit(&joiner, job)).unwrap());
        }
        drop(sender.send(event));
    };
    engine.submit(jobs().remove(0), join_at_step_two).unwrap();
    let mut together = vec![pictures(events)];
    others.extend(received.iter());
    together.extend(others.into_iter().map(pictures));

    let calls = calls.lock().unwrap().clone();
    let widest = calls.iter().map(Vec::len).max().unwrap();
    assert_eq!(widest, 5, "two pictures and three others shared calls: {calls:?}");
    let mixed = calls.iter().filter(|call| call.iter().any(|timestep| *timestep != call[0])).count();
    assert!(mixed >= 4, "calls held rows of different timesteps: {calls:?}");
    for ((alone, together), job) in alone.iter().zip(&together).zip(jobs()) {
        assert_eq!(alone.len(), job.num_outputs);
        assert!(alone == together, "{} differs in company", job.id);
    }
}

#[test]
fn a_chunked_request_draws_the_same_pictures() {
    let job = || job("red", Scheduler::KEuler, 3, 7.5, 3);
    let (engine, calls) = start();
    let whole = pictures(submit(&engine, job()));
    assert!(calls.lock().unwrap().iter().all(|call| call.len() == 3));
    let model = Model::load(&Checkpoint::builtin(), &Device::Cpu, DType::F32).unwrap();
    let narrow = Engine::start(model, EngineOptions { max_rows: 2, ..EngineOptions::default() }).unwrap();
    assert!(pictures(submit(&narrow, job())) == whole);
}
