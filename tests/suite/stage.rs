//! A whole server in this process, over a network that draws plain squares as slowly as a test wants.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use stablehand::cli::serve::{Ground, Serving};
use stablehand::config::{Config, ServeArgs};
use stablehand::diffusion::sampler::{Evaluation, Linear, Plan};
use stablehand::domain::{Catalog, Scheduler};
use stablehand::engine::{Engine, EngineOptions, Fault, LatentShape, Network, PromptRequest, Row};
use stablehand::weights::manifests;

pub const VERSION: &str = "ac732df83cea7fff18b8472768c88ad041fa750ff7682a21affe81863cbe77e4";

/// Takes its time for each call; prompts may ask for trouble.
struct Squares {
    pause: Duration,
}

impl Network for Squares {
    type Prompt = String;

    fn latent_shape(&self, width: usize, height: usize) -> Result<LatentShape, Fault> {
        Ok(LatentShape { channels: 4, height: height / 8, width: width / 8 })
    }

    fn plan(&self, _: Scheduler, _: &serde_json::Map<String, Value>, steps: usize) -> Result<Plan, Fault> {
        let update = Linear { sample: 0.5, output: 0.1, slots: vec![], noise: 0.0 };
        let evaluation = |step: usize| Evaluation {
            timestep: step as f32,
            input_scale: 1.0,
            clean: (1.0, 0.0),
            keep: vec![],
            update: update.clone(),
            draws_noise: false,
            advances: true,
        };
        Ok(Plan { init_noise_sigma: 1.0, slots: 0, evaluations: (0..steps).map(evaluation).collect() })
    }

    fn encode(&mut self, request: &PromptRequest<'_>) -> Result<String, Fault> {
        match request.prompt {
            "refuse" => Err(Fault::Refused("no such picture".into())),
            prompt => Ok(prompt.into()),
        }
    }

    fn denoise(&mut self, _: LatentShape, rows: &[Row<'_, String>]) -> Result<Vec<Vec<f32>>, Fault> {
        std::thread::sleep(self.pause);
        match rows.iter().any(|row| row.prompt == "panic") {
            true => panic!("asked to"),
            false => Ok(rows.iter().map(|row| row.sample.to_vec()).collect()),
        }
    }

    fn decode(&mut self, shape: LatentShape, latents: &[f32]) -> Result<image::RgbImage, Fault> {
        let bits = latents[0].to_bits().to_le_bytes();
        let colour = image::Rgb([bits[1], bits[2], bits[3]]);
        Ok(image::RgbImage::from_pixel(8 * shape.width as u32, 8 * shape.height as u32, colour))
    }

    fn preview(&self, shape: LatentShape, latents: &[f32]) -> Option<image::RgbImage> {
        let colour = image::Rgb([(latents[0].abs() * 100.0) as u8; 3]);
        Some(image::RgbImage::from_pixel(shape.width as u32, shape.height as u32, colour))
    }

    fn row_bytes(&self, _: LatentShape) -> u64 {
        1
    }

    fn decode_bytes(&self, _: LatentShape) -> u64 {
        1
    }

    fn prompt_bytes(&self, _: f64) -> u64 {
        1
    }
}

/// A running server and a client for it.
pub struct Stage {
    pub url: String,
    pub client: reqwest::Client,
    serving: Serving,
}

/// How a test wants its server.
pub struct Setting {
    pub args: ServeArgs,
    pub pause: Duration,
    pub engine: EngineOptions,
}

impl Default for Setting {
    fn default() -> Self {
        Setting { args: ServeArgs::default(), pause: Duration::from_millis(1), engine: EngineOptions::default() }
    }
}

impl Stage {
    /// Serves from this data folder.
    pub async fn start(folder: &std::path::Path, setting: Setting) -> Stage {
        let mut args = setting.args;
        args.listen.get_or_insert_with(|| "127.0.0.1:0".to_string());
        args.data_dir = Some(PathBuf::from(folder).display().to_string());
        let config: Config = args.resolve().unwrap();
        let known = manifests::known().unwrap();
        let catalog = Catalog::new(known[0].clone(), &known);
        let ground = Ground::take(&config).await.unwrap();
        let engine = Engine::start(Squares { pause: setting.pause }, setting.engine).unwrap();
        let serving = ground.serve(&config, catalog, engine, 4).await.unwrap();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        Stage { url: format!("http://127.0.0.1:{}", serving.address.port()), client, serving }
    }

    pub async fn stop(self) {
        self.serving.stop().await.unwrap();
    }

    pub fn get(&self, path: &str) -> reqwest::RequestBuilder {
        self.client.get(format!("{}{path}", self.url))
    }

    pub fn post(&self, path: &str, body: &Value) -> reqwest::RequestBuilder {
        self.client.post(format!("{}{path}", self.url)).json(body)
    }

    /// Creates a prediction and returns it.
    pub async fn create(&self, input: Value) -> Value {
        let answer = self.post("/v1/predictions", &request(input)).send().await.unwrap();
        assert_eq!(answer.status(), 201, "{}", answer.text().await.unwrap());
        answer.json().await.unwrap()
    }

    pub async fn prediction(&self, id: &Value) -> Value {
        let answer = self.get(&format!("/v1/predictions/{}", id.as_str().unwrap())).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.json().await.unwrap()
    }

    /// Looks until the prediction is as wished.
    pub async fn until(&self, id: &Value, wished: impl Fn(&Value) -> bool) -> Value {
        for _ in 0..3000 {
            let prediction = self.prediction(id).await;
            if wished(&prediction) {
                return prediction;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("waited in vain: {}", self.prediction(id).await);
    }

    pub async fn until_finished(&self, id: &Value) -> Value {
        self.until(id, |p| !["starting", "processing"].contains(&p["status"].as_str().unwrap())).await
    }
}

/// The body of a create call.
pub fn request(input: Value) -> Value {
    json!({"version": format!("stability-ai/stable-diffusion:{VERSION}"), "input": input})
}

/// One server-sent event.
#[derive(Debug, Clone, PartialEq)]
pub struct Sent {
    pub name: String,
    pub id: Option<String>,
    pub data: String,
}

impl Sent {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap()
    }
}

/// Reads an event stream as strictly as the pickiest client: LF only, `name: value`, one event per blank line.
pub struct Events {
    answer: reqwest::Response,
    text: String,
    pub comments: usize,
}

impl Events {
    pub async fn open(request: reqwest::RequestBuilder) -> Events {
        let answer = request.header("accept", "text/event-stream").send().await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        assert_eq!(answer.headers()["access-control-allow-origin"], "*");
        Events { answer, text: String::new(), comments: 0 }
    }

    /// The next event, or `None` at an end that was no accident.
    pub async fn next(&mut self) -> Option<Sent> {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let (block, rest) = (block.to_string(), rest.to_string());
                self.text = rest;
                match parse(&block) {
                    Some(sent) => return Some(sent),
                    None => self.comments += 1,
                }
                continue;
            }
            let chunk = tokio::time::timeout(Duration::from_secs(60), self.answer.chunk()).await.unwrap().unwrap();
            match chunk {
                Some(bytes) => self.text.push_str(std::str::from_utf8(&bytes).unwrap()),
                None => {
                    assert_eq!(self.text, "", "the stream ended within an event");
                    return None;
                }
            }
        }
    }

    pub async fn rest(&mut self) -> Vec<Sent> {
        let mut all = Vec::new();
        while let Some(sent) = self.next().await {
            all.push(sent);
        }
        all
    }
}

/// `None` for a block of comments.
fn parse(block: &str) -> Option<Sent> {
    assert!(!block.contains('\r'), "{block:?}");
    let field = |name: &str| {
        let values: Vec<&str> = block.lines().filter_map(|line| line.strip_prefix(&format!("{name}: "))).collect();
        (!values.is_empty()).then(|| values.join("\n"))
    };
    let name = field("event")?;
    Some(Sent { name, id: field("id"), data: field("data").unwrap_or_default() })
}
