//! The engine with a network that only writes down what it is asked: who shares calls, who waits, who is told what.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use stablehand::diffusion::noise::NoiseStream;
use stablehand::diffusion::sampler::{Evaluation, Linear, Plan};
use stablehand::domain::{NoiseSource, Scheduler};
use stablehand::engine::{
    Disposition, Engine, EngineHandle, EngineOptions, Event, Failure, Fault, Job, LatentShape, Network, PromptRequest,
    Row, SubmitError,
};

const ROW_BYTES: u64 = 1 << 20;

/// One denoise call: its shape, the prompts of its rows and the samples that they brought.
#[derive(Debug, Clone)]
struct Call {
    shape: LatentShape,
    prompts: Vec<String>,
    samples: Vec<Vec<f32>>,
    unet_rows: usize,
}

type Trouble = Box<dyn FnMut(&Call) -> Option<Fault> + Send>;

struct Prompt {
    text: String,
    rows: usize,
}

/// Waits for a permit before each call when it has a gate.
struct Fake {
    log: Arc<Mutex<Vec<Call>>>,
    gate: Option<(Receiver<()>, Sender<()>)>,
    trouble: Trouble,
}

impl Network for Fake {
    type Prompt = Prompt;

    fn latent_shape(&self, width: usize, height: usize) -> Result<LatentShape, Fault> {
        if !width.is_multiple_of(8) || !height.is_multiple_of(8) {
            return Err(Fault::Refused("width and height must be multiples of 8".into()));
        }
        Ok(LatentShape { channels: 4, height: height / 8, width: width / 8 })
    }

    fn plan(&self, _: Scheduler, _: &serde_json::Map<String, serde_json::Value>, steps: usize) -> Result<Plan, Fault> {
        let update = Linear { sample: 0.5, output: 0.1, slots: vec![], noise: 0.01 };
        let evaluation = |step: usize| Evaluation {
            timestep: step as f32,
            input_scale: 1.0,
            clean: (1.0, 0.0),
            keep: vec![],
            update: update.clone(),
            draws_noise: true,
            advances: true,
        };
        Ok(Plan { init_noise_sigma: 1.0, slots: 0, evaluations: (0..steps).map(evaluation).collect() })
    }

    fn encode(&mut self, request: &PromptRequest<'_>) -> Result<Prompt, Fault> {
        if request.prompt == "unencodable" {
            return Err(Fault::Failed("no such words".into()));
        }
        Ok(Prompt { text: request.prompt.into(), rows: self.rows_per_picture(request.guidance_scale) })
    }

    fn denoise(&mut self, shape: LatentShape, rows: &[Row<'_, Prompt>]) -> Result<Vec<Vec<f32>>, Fault> {
        let call = Call {
            shape,
            prompts: rows.iter().map(|row| row.prompt.text.clone()).collect(),
            samples: rows.iter().map(|row| row.sample.to_vec()).collect(),
            unet_rows: rows.iter().map(|row| row.prompt.rows).sum(),
        };
        self.log.lock().unwrap().push(call.clone());
        if let Some((permits, entered)) = &self.gate {
            let _ = entered.send(());
            let _ = permits.recv_timeout(Duration::from_secs(10));
        }
        if let Some(fault) = (self.trouble)(&call) {
            return Err(fault);
        }
        let weight = |row: &Row<'_, Prompt>| row.timestep + row.prompt.text.len() as f32;
        Ok(rows.iter().map(|row| row.sample.iter().map(|x| x * weight(row)).collect()).collect())
    }

    fn decode(&mut self, shape: LatentShape, latents: &[f32]) -> Result<image::RgbImage, Fault> {
        let mean = latents.iter().sum::<f32>() / latents.len() as f32;
        let bytes = (mean * 1e6) as i64;
        let colour = [bytes as u8, (bytes >> 8) as u8, (bytes >> 16) as u8];
        Ok(image::RgbImage::from_pixel(8 * shape.width as u32, 8 * shape.height as u32, image::Rgb(colour)))
    }

    fn row_bytes(&self, _: LatentShape) -> u64 {
        ROW_BYTES
    }

    fn decode_bytes(&self, _: LatentShape) -> u64 {
        ROW_BYTES
    }

    fn prompt_bytes(&self, _: f64) -> u64 {
        0
    }
}

/// An engine over a fake, and the strings to pull.
struct Stage {
    engine: EngineHandle,
    log: Arc<Mutex<Vec<Call>>>,
    permits: Sender<()>,
    entered: Receiver<()>,
}

impl Stage {
    fn new(options: EngineOptions, gated: bool, trouble: Trouble) -> Stage {
        let log = Arc::new(Mutex::new(Vec::new()));
        let ((permits, gate), (announce, entered)) = (channel(), channel());
        let gate = gated.then_some((gate, announce));
        let engine = Engine::start(Fake { log: log.clone(), gate, trouble }, options).unwrap();
        Stage { engine, log, permits, entered }
    }

    fn gated(options: EngineOptions) -> Stage {
        Stage::new(options, true, Box::new(|_| None))
    }

    fn free(options: EngineOptions) -> Stage {
        Stage::new(options, false, Box::new(|_| None))
    }

    fn submit(&self, job: Job) -> Receiver<Event> {
        let (sender, events) = channel();
        self.engine.submit(job, move |event| drop(sender.send(event))).unwrap();
        events
    }

    /// Waits until a call has begun.
    fn wait_for_call(&self) {
        self.entered.recv_timeout(Duration::from_secs(10)).unwrap();
    }

    /// Lets the call that waits go on, and `n - 1` further ones, and returns when the next has begun.
    fn let_calls_pass(&self, n: usize) {
        for _ in 0..n {
            self.permits.send(()).unwrap();
            self.wait_for_call();
        }
    }

    /// Lets everything go on from now.
    fn open_gate(&self) {
        for _ in 0..10_000 {
            self.permits.send(()).unwrap();
        }
    }

    fn calls(&self) -> Vec<Call> {
        self.log.lock().unwrap().clone()
    }
}

fn job(id: &str, size: (usize, usize), steps: usize, guidance_scale: f64) -> Job {
    Job {
        id: id.into(),
        prompt: id.into(),
        negative_prompt: None,
        width: size.0,
        height: size.1,
        num_outputs: 1,
        num_inference_steps: steps,
        guidance_scale,
        scheduler: Scheduler::KEuler,
        seed: id.len() as u64,
        noise: NoiseSource::Cuda,
        scheduler_overrides: Default::default(),
    }
}

const SMALL: (usize, usize) = (64, 64);
const WIDE: (usize, usize) = (128, 64);

fn options(max_rows: usize) -> EngineOptions {
    EngineOptions { max_rows, ..Default::default() }
}

/// All events up to the last.
fn story(events: &Receiver<Event>) -> Vec<Event> {
    let mut story = Vec::new();
    loop {
        story.push(events.recv_timeout(Duration::from_secs(20)).expect("the job's story breaks off"));
        if story.last().unwrap().is_last() {
            return story;
        }
    }
}

fn pictures(story: &[Event]) -> Vec<image::RgbImage> {
    let picture = |event: &Event| match event {
        Event::Picture { rgb, .. } => Some(rgb.clone()),
        _ => None,
    };
    story.iter().filter_map(picture).collect()
}

fn failure(story: &[Event]) -> Failure {
    match story.last() {
        Some(Event::Failed(failure)) => failure.clone(),
        other => panic!("expected a failure, got {other:?}"),
    }
}

#[test]
fn rows_of_different_requests_share_calls_and_join_and_leave_midway() {
    let stage = Stage::gated(options(16));
    let first = stage.submit(job("first", SMALL, 6, 7.5));
    stage.wait_for_call();
    let second = stage.submit(job("second", SMALL, 2, 1.0));
    let third = stage.submit(job("third", SMALL, 4, 3.0));
    stage.open_gate();
    for events in [&first, &second, &third] {
        assert!(matches!(story(events).last(), Some(Event::Finished { .. })));
    }
    let shared: Vec<Vec<String>> = stage.calls().into_iter().map(|call| call.prompts).collect();
    assert_eq!(
        shared,
        [
            vec!["first"],
            vec!["first", "second", "third"],
            vec!["first", "second", "third"],
            vec!["first", "third"],
            vec!["first", "third"],
            vec!["first"],
        ]
    );
    assert_eq!(stage.calls()[1].unet_rows, 5, "guided rows are two");
}

#[test]
fn a_job_hears_its_story_in_order() {
    let stage = Stage::free(options(16));
    let story = story(&stage.submit(Job { num_outputs: 2, ..job("a", SMALL, 3, 7.5) }));
    let words: Vec<String> = story
        .iter()
        .map(|event| match event {
            Event::Started => "started".into(),
            Event::Step { done, total, .. } => format!("{done}/{total}"),
            Event::Picture { index, rgb } => format!("picture {index} {}x{}", rgb.width(), rgb.height()),
            Event::Finished { .. } => "finished".into(),
            other => format!("{other:?}"),
        })
        .collect();
    assert_eq!(words, ["started", "1/3", "2/3", "3/3", "picture 0 64x64", "picture 1 64x64", "finished"]);
}

#[test]
fn company_does_not_change_a_picture() {
    let wanted = |stage: &Stage| stage.submit(Job { num_outputs: 2, ..job("wanted", SMALL, 9, 7.5) });
    let alone = pictures(&story(&wanted(&Stage::free(options(16)))));
    let stage = Stage::gated(options(5));
    let others = [stage.submit(job("x", SMALL, 30, 1.0)), stage.submit(job("yy", WIDE, 20, 2.0))];
    stage.wait_for_call();
    let events = wanted(&stage);
    let late = stage.submit(job("zzz", SMALL, 3, 1.0));
    stage.open_gate();
    assert_eq!(pictures(&story(&events)), alone);
    assert!(stage.calls().iter().any(|call| call.prompts.iter().any(|p| p == "wanted") && call.prompts.len() > 2));
    others.iter().chain([&late]).for_each(|events| assert!(story(events).len() > 3));
}

#[test]
fn a_short_job_is_not_starved_by_long_ones() {
    let stage = Stage::gated(options(4));
    let long: Vec<_> = (0..5).map(|i| stage.submit(job(&format!("long-{i}"), SMALL, 50, 7.5))).collect();
    let wide: Vec<_> = (0..3).map(|i| stage.submit(job(&format!("wide-{i}"), WIDE, 50, 7.5))).collect();
    stage.wait_for_call();
    stage.let_calls_pass(10);
    let before = stage.calls().len();
    let short = stage.submit(job("short", SMALL, 4, 7.5));
    stage.open_gate();
    assert!(matches!(story(&short).last(), Some(Event::Finished { .. })));
    let calls = stage.calls();
    let last = calls.iter().rposition(|call| call.prompts.contains(&"short".to_string())).unwrap();
    // Six jobs of this shape, two in a call: three calls a round, and as many of the other shape between them.
    assert!(last + 1 - before <= 4 * 3 * 2, "it took {} calls", last + 1 - before);
    assert!(calls.iter().all(|call| call.unet_rows <= 4));
    long.iter().chain(&wide).for_each(|events| assert!(matches!(story(events).last(), Some(Event::Finished { .. }))));
    let shapes: Vec<_> = stage.calls().iter().map(|call| call.shape.width).skip(1).take(100).collect();
    assert!(shapes.windows(2).all(|pair| pair[0] != pair[1]), "shapes take turns: {shapes:?}");
}

#[test]
fn a_cancelled_job_takes_part_in_no_further_call() {
    let stage = Stage::gated(options(16));
    let (a, b) = (stage.submit(job("a", SMALL, 50, 7.5)), stage.submit(job("b", SMALL, 8, 7.5)));
    stage.wait_for_call();
    stage.let_calls_pass(3);
    stage.engine.cancel("a");
    stage.engine.cancel("nobody");
    let before = stage.calls().len();
    stage.open_gate();
    assert!(matches!(story(&a).last(), Some(Event::Canceled)));
    assert!(matches!(story(&b).last(), Some(Event::Finished { .. })));
    let calls = stage.calls();
    assert!(calls.len() > before);
    assert!(calls[before..].iter().all(|call| call.prompts == ["b"]));
}

#[test]
fn a_waiting_job_is_cancelled_at_once() {
    let stage = Stage::gated(EngineOptions { max_jobs: 1, ..options(16) });
    let first = stage.submit(job("first", SMALL, 3, 1.0));
    stage.wait_for_call();
    let second = stage.submit(job("second", SMALL, 3, 1.0));
    stage.let_calls_pass(1);
    assert_eq!(stage.engine.waiting(), 1);
    stage.engine.cancel("second");
    stage.let_calls_pass(1);
    assert!(matches!(story(&second)[..], [Event::Canceled]));
    assert_eq!(stage.engine.waiting(), 0);
    stage.open_gate();
    assert!(matches!(story(&first).last(), Some(Event::Finished { .. })));
}

#[test]
fn memory_admission_respects_its_limit() {
    let limit = 5 * ROW_BYTES;
    let stage = Stage::gated(EngineOptions { memory_limit: Some(limit), ..options(16) });
    // Latents of 4×8×8 take 1 KiB, held three times by each of two pictures.
    let held = 3 * 2 * 4 * 8 * 8 * 4;
    let events: Vec<_> =
        (0..6).map(|i| stage.submit(Job { num_outputs: 2, ..job(&format!("job-{i}"), SMALL, 5, 7.5) })).collect();
    let large = stage.submit(Job { num_outputs: 10, ..job("large", SMALL, 2, 7.5) });
    stage.open_gate();
    events.iter().chain([&large]).for_each(|e| assert!(matches!(story(e).last(), Some(Event::Finished { .. }))));
    for call in stage.calls() {
        let jobs = call.prompts.iter().collect::<std::collections::HashSet<_>>().len() as u64;
        assert!(call.unet_rows as u64 * ROW_BYTES + jobs * held <= limit, "{} rows", call.unet_rows);
    }
    let large_calls = stage.calls().into_iter().filter(|call| call.prompts[0] == "large").collect::<Vec<_>>();
    assert_eq!(large_calls.len(), 10, "five calls of two guided pictures for each of two steps");
    assert!(large_calls.iter().all(|call| call.prompts.len() == 2));
}

#[test]
fn a_job_larger_than_the_limit_alone_is_refused_and_others_run() {
    let stage = Stage::free(EngineOptions { memory_limit: Some(2 * ROW_BYTES), ..options(16) });
    let refused = story(&stage.submit(job("large", SMALL, 2, 7.5)));
    let Failure::Refused(text) = failure(&refused) else { panic!("{refused:?}") };
    assert!(text.contains("64x64") && text.contains("2 MiB"), "{text}");
    assert!(matches!(story(&stage.submit(job("a", SMALL, 2, 1.0))).last(), Some(Event::Finished { .. })));
}

#[test]
fn what_cannot_be_drawn_is_refused_with_what_would_be_right() {
    let stage = Stage::free(options(16));
    for (job, says) in [
        (job("a", (60, 64), 2, 7.5), "multiples of 8"),
        (Job { num_outputs: 0, ..job("b", SMALL, 2, 7.5) }, "at least 1"),
        (job("c", SMALL, 2, f64::NAN), "finite"),
    ] {
        let Failure::Refused(text) = failure(&story(&stage.submit(job))) else { panic!() };
        assert!(text.contains(says), "{text}");
    }
    let unencodable = failure(&story(&stage.submit(job("unencodable", SMALL, 2, 7.5))));
    assert_eq!(unencodable.detail(), Some("no such words"));
    assert_eq!(stage.engine.waiting(), 0);
}

#[test]
fn a_panic_fails_only_the_jobs_of_its_batch() {
    let trouble = |call: &Call| {
        assert!(!call.prompts.iter().any(|p| p == "bad"), "a bad prompt");
        None
    };
    let stage = Stage::new(options(16), true, Box::new(trouble));
    let bad = stage.submit(job("bad", SMALL, 2, 1.0));
    let beside = stage.submit(job("beside", WIDE, 2, 1.0));
    stage.wait_for_call();
    stage.open_gate();
    let failure = failure(&story(&bad));
    assert_eq!(failure.disposition(), Disposition::Final);
    assert!(failure.detail().unwrap().contains("a bad prompt"));
    assert!(matches!(story(&beside).last(), Some(Event::Finished { .. })));
    let after = story(&stage.submit(job("after", SMALL, 2, 1.0)));
    assert!(matches!(after.last(), Some(Event::Finished { .. })));
}

#[test]
fn out_of_memory_makes_calls_smaller_and_nobody_fails() {
    let trouble = |call: &Call| (call.unet_rows > 3).then(|| Fault::OutOfMemory("the device is full".into()));
    let stage = Stage::new(options(16), true, Box::new(trouble));
    let events: Vec<_> = (0..4).map(|i| stage.submit(job(&format!("job-{i}"), SMALL, 4, 7.5))).collect();
    let many = stage.submit(Job { num_outputs: 3, ..job("many", SMALL, 4, 7.5) });
    stage.wait_for_call();
    stage.open_gate();
    for events in events.iter().chain([&many]) {
        let story = story(events);
        assert!(matches!(story.last(), Some(Event::Finished { .. })));
        assert_eq!(story.iter().filter(|event| matches!(event, Event::Step { .. })).count(), 4);
    }
    let failed = stage.calls().iter().filter(|call| call.unet_rows > 3).count();
    assert!((1..=4).contains(&failed), "{failed} calls ran out of memory");
}

#[test]
fn out_of_memory_with_one_picture_fails_it() {
    let stage = Stage::new(options(16), false, Box::new(|_| Some(Fault::OutOfMemory("full".into()))));
    let failure = failure(&story(&stage.submit(Job { num_outputs: 4, ..job("a", SMALL, 4, 7.5) })));
    assert_eq!(failure, Failure::OutOfMemory { detail: "full".into() });
}

#[test]
fn the_outputs_of_a_request_are_one_draw_and_later_draws_follow_it() {
    let stage = Stage::free(options(16));
    story(&stage.submit(Job { num_outputs: 4, seed: 7, ..job("four", SMALL, 2, 1.0) }));
    let calls = stage.calls();
    let mut stream = NoiseStream::new(NoiseSource::Cuda, 7);
    let first = stream.draw(4 * 4 * 8 * 8);
    assert_eq!(calls[0].samples.concat(), first);
    // The fake's first step: 0.5·x + 0.1·(output = x·4) + 0.01·noise, the prompt's length being 4 and the timestep 0.
    let second = stream.draw(first.len());
    for ((x, noise), got) in first.iter().zip(&second).zip(calls[1].samples.concat()) {
        assert!((0.9 * x + 0.01 * noise - got).abs() < 1e-5);
    }
}

#[test]
fn a_shutdown_tells_everyone_and_later_jobs_are_turned_away() {
    let stage = Stage::gated(EngineOptions { max_jobs: 1, ..options(16) });
    let running = stage.submit(job("running", SMALL, 50, 1.0));
    let waiting = stage.submit(job("waiting", SMALL, 50, 1.0));
    stage.wait_for_call();
    stage.open_gate();
    stage.engine.shutdown();
    for events in [running, waiting] {
        let failure = failure(&story(&events));
        assert_eq!((failure.clone(), failure.disposition()), (Failure::Stopped, Disposition::Requeue));
    }
    assert_eq!(stage.engine.submit(job("late", SMALL, 1, 1.0), |_| panic!("not heard")), Err(SubmitError::Stopped));
}

#[test]
fn a_job_is_cancelled_between_its_pictures() {
    let stage = Stage::free(options(16));
    let engine = stage.engine.clone();
    let (sender, events) = channel();
    let job = Job { num_outputs: 8, ..job("many", SMALL, 1, 1.0) };
    let cancel_after_first = move |event: Event| {
        if matches!(event, Event::Picture { .. }) {
            engine.cancel("many");
        }
        drop(sender.send(event));
    };
    stage.engine.submit(job, cancel_after_first).unwrap();
    let story = story(&events);
    assert!(matches!(story.last(), Some(Event::Canceled)));
    assert_eq!(pictures(&story).len(), 1);
}
