//! OpenAI's Images API as its clients speak it.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use image::ImageFormat;
use serde_json::{Value, json};
use stablehand::config::ServeArgs;
use stablehand::engine::EngineOptions;

use crate::stage::{Setting, Stage, request};

const PATH: &str = "/v1/images/generations";

async fn stage(setting: Setting) -> (tempfile::TempDir, Stage) {
    let folder = tempfile::tempdir().unwrap();
    let stage = Stage::start(folder.path(), setting).await;
    (folder, stage)
}

/// A request that is drawn quickly.
fn ask(more: Value) -> Value {
    let mut body = json!({"prompt": "a square", "size": "64x128", "num_inference_steps": 3});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

async fn generate(stage: &Stage, body: &Value) -> Value {
    let answer = stage.post(PATH, body).header("authorization", "Bearer any").send().await.unwrap();
    assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
    answer.json().await.unwrap()
}

/// Checks the shape of an error; status, type, parameter and code of it.
async fn error(answer: reqwest::Response) -> (u16, String, Value, Value) {
    let status = answer.status().as_u16();
    assert_eq!(answer.headers()["content-type"], "application/json");
    let body: Value = answer.json().await.unwrap();
    let error = &body["error"];
    let keys: Vec<&str> = error.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!((body.as_object().unwrap().len(), keys), (1, vec!["code", "message", "param", "type"]));
    assert!(!error["message"].as_str().unwrap().is_empty());
    (status, error["type"].as_str().unwrap().to_string(), error["param"].clone(), error["code"].clone())
}

async fn predictions(stage: &Stage) -> Vec<Value> {
    let page: Value = stage.get("/v1/predictions").send().await.unwrap().json().await.unwrap();
    page["results"].as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pictures_come_in_the_answer_or_behind_urls() {
    let (_folder, stage) = stage(Setting::default()).await;
    let answer = generate(&stage, &ask(json!({"n": 6, "seed": 5, "model": "stablehand/shapes"}))).await;
    assert!(answer["created"].as_i64().unwrap() > 1_700_000_000);
    assert_eq!((&answer["size"], &answer["output_format"]), (&json!("64x128"), &json!("png")));
    let data = answer["data"].as_array().unwrap();
    assert_eq!(data.len(), 6);
    for item in data {
        let png = STANDARD.decode(item["b64_json"].as_str().unwrap()).unwrap();
        let picture = image::load_from_memory_with_format(&png, ImageFormat::Png).unwrap();
        assert_eq!((picture.width(), picture.height()), (64, 128));
    }
    let made = predictions(&stage).await;
    let seeds: Vec<_> = made.iter().map(|p| (p["input"]["seed"].clone(), p["input"]["num_outputs"].clone())).collect();
    assert_eq!(seeds, [(json!(6), json!(3)), (json!(5), json!(3))]);
    assert_eq!(made[0]["model"], "stablehand/shapes");

    let links = generate(&stage, &ask(json!({"response_format": "url", "model": "builtin", "quality": "hd"}))).await;
    let url = links["data"][0]["url"].as_str().unwrap();
    assert!(url.starts_with(&format!("{}/outputs/", stage.url)) && url.ends_with("/out-0.png"));
    assert_eq!(stage.client.get(url).send().await.unwrap().status(), 200);

    for (name, format) in [("jpeg", ImageFormat::Jpeg), ("webp", ImageFormat::WebP)] {
        let answer = generate(&stage, &ask(json!({"output_format": name, "output_compression": 80}))).await;
        let bytes = STANDARD.decode(answer["data"][0]["b64_json"].as_str().unwrap()).unwrap();
        assert_eq!(image::guess_format(&bytes).unwrap(), format);
        assert_eq!(answer["output_format"], name);
    }
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_error_has_openais_shape() {
    let (_folder, stage) = stage(Setting::default()).await;
    let post = async |body: Value| error(stage.post(PATH, &body).send().await.unwrap()).await;
    let invalid = |param: &str, code: &str| (400, "invalid_request_error".to_string(), json!(param), json!(code));
    assert_eq!(post(json!({})).await, invalid("prompt", "missing_required_parameter"));
    assert_eq!(post(ask(json!({"size": "1536x1024"}))).await, invalid("size", "invalid_value"));
    assert_eq!(post(ask(json!({"n": "two"}))).await, invalid("n", "invalid_type"));
    let (status, _, param, code) = post(ask(json!({"model": "dall-e-3"}))).await;
    assert_eq!((status, param, code), (404, json!("model"), json!("model_not_found")));
    let garbage = stage.client.post(format!("{}{PATH}", stage.url)).body("{").send().await.unwrap();
    assert_eq!(error(garbage).await, invalid("body", "invalid_json"));
    let large = stage.client.post(format!("{}{PATH}", stage.url)).body(vec![b' '; 21 << 20]).send().await.unwrap();
    assert_eq!(error(large).await.0, 413);
    let deleted = stage.client.delete(format!("{}{PATH}", stage.url)).send().await.unwrap();
    assert!(deleted.headers()["allow"].to_str().unwrap().contains("POST"));
    assert_eq!(error(deleted).await.0, 405);
    assert_eq!(error(stage.post("/v1/images/edits", &json!({})).send().await.unwrap()).await.0, 404);
    let elsewhere = stage.get("/v1/nowhere").send().await.unwrap();
    assert_eq!(elsewhere.headers()["content-type"], "application/problem+json");

    let failed = stage.post(PATH, &ask(json!({"prompt": "refuse"}))).send().await.unwrap();
    assert_eq!(failed.headers()["x-should-retry"], "false");
    let text = failed.text().await.unwrap();
    assert!(text.contains("no such picture") && text.contains("server_error"), "{text}");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_and_limits_speak_openai_too() {
    let args = ServeArgs {
        api_key: vec!["sesame".to_string()],
        queue_limit: Some("1".to_string()),
        drain_seconds: Some("0".to_string()),
        ..ServeArgs::default()
    };
    let engine = EngineOptions { max_jobs: 1, ..EngineOptions::default() };
    let (_folder, stage) = stage(Setting { args, engine, pause: Duration::from_millis(200) }).await;
    let (status, kind, _, code) = error(stage.post(PATH, &ask(json!({}))).send().await.unwrap()).await;
    assert_eq!((status, kind.as_str(), code), (401, "invalid_request_error", json!("invalid_api_key")));
    let mut last = 201;
    for _ in 0..20 {
        let long = request(json!({"width": 64, "height": 64}));
        let answer =
            stage.post("/v1/predictions", &long).header("authorization", "Bearer sesame").send().await.unwrap();
        last = answer.status().as_u16();
    }
    assert_eq!(last, 429);
    let full = stage.post(PATH, &ask(json!({}))).header("authorization", "Bearer sesame").send().await.unwrap();
    assert_eq!(full.headers()["retry-after"], "10");
    let (status, kind, _, code) = error(full).await;
    assert_eq!((status, kind.as_str(), code), (429, "requests", json!("rate_limit_exceeded")));
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_goes_away_takes_its_pictures_with_it() {
    let (_folder, stage) = stage(Setting { pause: Duration::from_millis(30), ..Setting::default() }).await;
    let asked = stage.post(PATH, &ask(json!({"n": 6, "num_inference_steps": 500}))).send();
    assert!(tokio::time::timeout(Duration::from_millis(500), asked).await.is_err());
    let made = predictions(&stage).await;
    assert_eq!(made.len(), 2);
    for prediction in made {
        assert_eq!(stage.until_finished(&prediction["id"]).await["status"], "canceled");
    }
    stage.stop().await;
}
