//! Previews of the built-in model: like the picture, and without a trace in it.

use std::sync::mpsc::channel;

use candle_core::{DType, Device};
use image::RgbImage;
use image::imageops::{FilterType, resize};
use stablehand::diffusion::model::Model;
use stablehand::domain::{NoiseSource, Scheduler};
use stablehand::engine::{Engine, EngineOptions, Event, Job};
use stablehand::weights::Checkpoint;

fn job() -> Job {
    Job {
        id: "watched".into(),
        prompt: "a red circle on a white background".into(),
        negative_prompt: None,
        width: 128,
        height: 192,
        num_outputs: 2,
        num_inference_steps: 30,
        guidance_scale: 5.0,
        scheduler: Scheduler::KEuler,
        seed: 3,
        noise: NoiseSource::Cuda,
        scheduler_overrides: serde_json::Map::new(),
    }
}

/// The previews, each a list of pictures, and the pictures themselves.
fn draw(watched: bool) -> (Vec<Vec<RgbImage>>, Vec<RgbImage>) {
    let mut model = Model::load(&Checkpoint::builtin(), &Device::Cpu, DType::F32).unwrap();
    model.learn_previews().unwrap();
    let engine = Engine::start(model, EngineOptions::default()).unwrap();
    let (sender, events) = channel();
    engine.submit_watched(job(), move || watched, move |event| drop(sender.send(event))).unwrap();
    let (mut previews, mut finished) = (Vec::new(), Vec::new());
    for event in events {
        match event {
            Event::Preview { done, total, pictures } => {
                assert!((1..=30).contains(&done) && total == 30);
                previews.push(pictures);
            }
            Event::Picture { rgb, .. } => finished.push(rgb),
            Event::Failed(failure) => panic!("{failure:?}"),
            _ => {}
        }
    }
    engine.shutdown();
    (previews, finished)
}

/// Mean difference of two pictures of one size, in levels.
fn difference(a: &RgbImage, b: &RgbImage) -> f64 {
    assert_eq!(a.dimensions(), b.dimensions());
    let sum: u64 = a.as_raw().iter().zip(b.as_raw()).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
    sum as f64 / a.as_raw().len() as f64
}

#[test]
fn previews_look_like_the_picture_and_leave_it_alone() {
    let (none, unwatched) = draw(false);
    let (previews, watched) = draw(true);
    assert!(none.is_empty() && !previews.is_empty());
    assert!(unwatched == watched, "a picture shows that somebody watched");
    let small: Vec<RgbImage> = watched.iter().map(|picture| resize(picture, 16, 24, FilterType::Triangle)).collect();
    let last = previews.last().unwrap();
    assert_eq!(last.len(), 2);
    for (preview, picture) in last.iter().zip(&small) {
        let grey = RgbImage::from_pixel(16, 24, image::Rgb([128; 3]));
        let (off, plain) = (difference(preview, picture), difference(&grey, picture));
        assert!(off < 0.5 * plain, "mean difference {off}, that of plain grey is {plain}");
    }
}
