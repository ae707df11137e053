//! The HTTP surface through a real socket.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use stablehand::config::ServeArgs;
use stablehand::engine::EngineOptions;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::stage::{Setting, Stage, VERSION, request};

fn small() -> Value {
    json!({"prompt": "a square", "width": 64, "height": 64, "num_inference_steps": 3, "seed": 7})
}

fn slow(millis: u64) -> Setting {
    Setting { pause: Duration::from_millis(millis), ..Setting::default() }
}

async fn stage(setting: Setting) -> (tempfile::TempDir, Stage) {
    let folder = tempfile::tempdir().unwrap();
    let stage = Stage::start(folder.path(), setting).await;
    (folder, stage)
}

async fn problem(answer: reqwest::Response) -> (u16, Value) {
    let status = answer.status().as_u16();
    assert_eq!(answer.headers()["content-type"], "application/problem+json");
    let body: Value = answer.json().await.unwrap();
    assert_eq!(body["status"], status);
    assert!(body["detail"].is_string() && body["title"].is_string());
    (status, body)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_way_of_a_prediction() {
    let (_folder, stage) = stage(Setting::default()).await;
    let input = json!({"prompt": "a square", "width": 64.0, "height": 128, "num_outputs": 3, "num_inference_steps": 4,
        "seed": 7, "size": "ignored"});
    let answer = stage.post("/v1/predictions", &request(input.clone())).send().await.unwrap();
    assert_eq!(answer.status(), 201);
    let location = answer.headers()["location"].to_str().unwrap().to_string();
    let created: Value = answer.json().await.unwrap();

    let keys: Vec<&String> = created.as_object().unwrap().keys().collect();
    let expected =
        "created_at data_removed error id input logs model output status urls version".split(' ').collect::<Vec<_>>();
    assert_eq!(keys, expected);
    assert_eq!(
        (&created["status"], &created["logs"], &created["output"]),
        (&json!("starting"), &json!(""), &Value::Null)
    );
    assert_eq!((&created["model"], &created["version"]), (&json!("stability-ai/stable-diffusion"), &json!(VERSION)));
    assert_eq!((&created["input"], &created["error"], &created["data_removed"]), (&input, &Value::Null, &json!(false)));
    let id = created["id"].as_str().unwrap();
    assert!(id.len() == 26 && id.chars().all(|c| c.is_ascii_digit() || c.is_ascii_lowercase()));
    let get = format!("{}/v1/predictions/{id}", stage.url);
    let stream = created["urls"]["stream"].as_str().unwrap();
    assert!(stream.starts_with(&format!("{}/v1/files/stream-{id}-", stage.url)), "{stream}");
    assert_eq!(
        created["urls"],
        json!({"get": get, "cancel": format!("{get}/cancel"), "stream": stream, "web": format!("{}/p/{id}", stage.url)})
    );
    assert_eq!(location, get);
    assert!(created["created_at"].as_str().unwrap().ends_with('Z'));

    let done = stage.until_finished(&created["id"]).await;
    assert_eq!((&done["status"], &done["error"], &done["source"]), (&json!("succeeded"), &Value::Null, &json!("api")));
    for time in ["created_at", "started_at", "completed_at"] {
        done[time].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    }
    let (predict, total) = (done["metrics"]["predict_time"].as_f64(), done["metrics"]["total_time"].as_f64());
    assert!(predict.unwrap() > 0.0 && predict <= total);
    let logs: Vec<&str> = done["logs"].as_str().unwrap().lines().collect();
    assert!(
        logs[0]
            .starts_with("stablehand: built-in model stablehand/shapes stands in for stability-ai/stable-diffusion: ")
    );
    assert_eq!(logs[1], "Using seed: 7");
    assert_eq!(logs[2], "  0%|          | 0/4 [00:00<?, ?it/s]");
    assert!(logs.last().unwrap().starts_with("100%|██████████| 4/4 [00:00<00:00, "), "{logs:?}");
    assert!(done["logs"].as_str().unwrap().ends_with("it/s]\n"));

    let outputs = done["output"].as_array().unwrap();
    assert_eq!(outputs.len(), 3);
    for (index, output) in outputs.iter().enumerate() {
        let url = output.as_str().unwrap();
        assert!(url.starts_with(&format!("{}/outputs/", stage.url)) && url.ends_with(&format!("/out-{index}.png")));
        check_file(&stage, url).await;
    }
    stage.stop().await;
}

async fn check_file(stage: &Stage, url: &str) {
    let answer = stage.client.get(url).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let headers = answer.headers().clone();
    assert_eq!(headers["content-type"], "image/png");
    assert_eq!(headers["x-content-type-options"], "nosniff");
    assert_eq!(headers["access-control-allow-origin"], "*");
    assert_eq!(headers["cache-control"], "public, max-age=3600");
    let bytes = answer.bytes().await.unwrap();
    assert_eq!(headers["content-length"], bytes.len().to_string());
    let picture = image::load_from_memory_with_format(&bytes, image::ImageFormat::Png).unwrap();
    assert_eq!((picture.width(), picture.height()), (64, 128));

    let head = stage.client.head(url).send().await.unwrap();
    assert_eq!((head.status().as_u16(), &head.headers()["content-length"]), (200, &headers["content-length"]));
    let known = stage.client.get(url).header("if-none-match", &headers["etag"]).send().await.unwrap();
    assert_eq!(known.status(), 304);
    let other = url.replace("out-", "in-");
    assert_eq!(problem(stage.client.get(other).send().await.unwrap()).await.0, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_base_url_and_every_form_of_a_version() {
    let (_folder, stage) = stage(Setting::default()).await;
    for base in ["", "/v1", "/v1/v1", "/replicate", "/replicate/v1", "//replicate/v1/v1/"] {
        let answer = stage.post(&format!("{base}/predictions"), &request(small())).send().await.unwrap();
        assert_eq!(answer.status(), 201, "{base}");
        let id = answer.json::<Value>().await.unwrap()["id"].as_str().unwrap().to_string();
        assert_eq!(stage.get(&format!("{base}/predictions/{id}")).send().await.unwrap().status(), 200, "{base}");
        assert_eq!(stage.get(&format!("{base}/predictions?cursor=")).send().await.unwrap().status(), 200, "{base}");
    }
    for version in [VERSION, "stability-ai/stable-diffusion", "stablehand/shapes"] {
        let body = json!({"version": version, "input": small()});
        assert_eq!(stage.post("/v1/predictions", &body).send().await.unwrap().status(), 201, "{version}");
    }
    for model in ["stability-ai/stable-diffusion", "stablehand/shapes"] {
        let answer =
            stage.post(&format!("/v1/models/{model}/predictions"), &json!({"input": small()})).send().await.unwrap();
        assert_eq!(answer.status(), 201, "{model}");
        let created: Value = answer.json().await.unwrap();
        assert_eq!(created["model"], model);
        let done = stage.until_finished(&created["id"]).await;
        let stands_in = done["logs"].as_str().unwrap().contains("stands in for");
        assert_eq!(stands_in, model == "stability-ai/stable-diffusion");
    }
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mistakes_are_problems() {
    let (_folder, stage) = stage(Setting::default()).await;
    let post = async |body: Value| problem(stage.post("/v1/predictions", &body).send().await.unwrap()).await;

    let (status, body) = post(request(json!({"num_outputs": 9, "scheduler": "none"}))).await;
    assert_eq!((status, &body["title"]), (422, &json!("Input validation failed")));
    assert_eq!(body["invalid_fields"][0]["type"], "number_lte");
    assert_eq!(body["invalid_fields"][0]["field"], "input.num_outputs");
    assert_eq!(body["invalid_fields"][1]["type"], "enum");
    assert!(
        body["detail"]
            .as_str()
            .unwrap()
            .starts_with("- input.num_outputs: Must be less than or equal to 4\n- input.sch")
    );

    let (status, body) = post(json!({"model": "x"})).await;
    assert_eq!(status, 422);
    let detail = "- version is required\n- input is required\n- Additional property model is not allowed\n";
    assert_eq!(body["detail"], detail);
    for version in ["", "nobody/nothing", "stability-ai/stable-diffusion:0000", "0000", "a/b/c"] {
        let (status, body) = post(json!({"version": version, "input": {}})).await;
        assert_eq!((status, &body["title"]), (422, &json!("Invalid version or not permitted")), "{version}");
    }

    let raw = async |body: Vec<u8>| {
        let request = stage.client.post(format!("{}/v1/predictions", stage.url)).body(body);
        problem(request.send().await.unwrap()).await.0
    };
    assert_eq!(raw(b"{".to_vec()).await, 400);
    assert_eq!(raw(vec![0xff, 0xfe]).await, 400);
    assert_eq!(raw("[".repeat(100_000).into_bytes()).await, 400);
    assert_eq!(raw(vec![b' '; 21 * 1024 * 1024]).await, 413);

    let get = async |path: &str| problem(stage.get(path).send().await.unwrap()).await;
    for path in ["/v1/predictions/nobody", "/nowhere", "/v1/v1/v1/predictions", "/outputs/a/b", "/outputs/..%2f/x"] {
        let (status, body) = get(path).await;
        assert_eq!((status, &body["detail"]), (404, &json!("The requested resource could not be found.")), "{path}");
    }
    assert_eq!(get("/v1/predictions?cursor=x").await.0, 400);
    assert_eq!(get("/v1/predictions/%ff").await.0, 400);
    let deleted = stage.client.delete(format!("{}/v1/predictions", stage.url)).send().await.unwrap();
    assert!(deleted.headers()["allow"].to_str().unwrap().contains("POST"));
    assert_eq!(problem(deleted).await.0, 405);
    assert_eq!(problem(stage.post("/v1/predictions/nobody/cancel", &json!({})).send().await.unwrap()).await.0, 404);
    let unknown = stage.post("/v1/models/a/b/predictions", &json!({"input": {}})).send().await.unwrap();
    assert_eq!(problem(unknown).await.0, 404);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_are_told() {
    let (_folder, stage) = stage(Setting::default()).await;
    let fail = async |input: Value| {
        let created = stage.create(input).await;
        let failed = stage.until_finished(&created["id"]).await;
        assert_eq!((&failed["status"], &failed["output"]), (&json!("failed"), &Value::Null));
        assert!(failed["completed_at"].is_string() && failed["metrics"]["total_time"].is_number());
        failed["error"].as_str().unwrap().to_string()
    };
    let too_large = fail(json!({"width": 1024, "height": 1024})).await;
    assert!(too_large.starts_with("Maximum size is 1024x768 or 768x1024 pixels"), "{too_large}");
    assert_eq!(fail(json!({"prompt": "refuse", "width": 64, "height": 64})).await, "no such picture");
    let panicked = fail(json!({"prompt": "panic", "width": 64, "height": 64})).await;
    assert_eq!(panicked, "the model failed while drawing the picture");
    let next = stage.create(small()).await;
    assert_eq!(stage.until_finished(&next["id"]).await["status"], "succeeded", "the server goes on");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_preference_to_wait_is_kept() {
    let (_folder, stage) = stage(slow(10)).await;
    let wait = async |prefer: &str, steps: u32| {
        let mut input = small();
        input["num_inference_steps"] = json!(steps);
        let start = Instant::now();
        let answer = stage.post("/v1/predictions", &request(input)).header("prefer", prefer).send().await.unwrap();
        let applied = answer.headers().get("preference-applied").map(|v| v.to_str().unwrap().to_string());
        (answer.status().as_u16(), applied, answer.json::<Value>().await.unwrap(), start.elapsed())
    };
    let (status, applied, body, _) = wait("wait=30", 3).await;
    assert_eq!((status, applied.as_deref(), &body["status"]), (201, Some("wait=30"), &json!("succeeded")));
    assert_eq!(body["output"].as_array().unwrap().len(), 1);

    let (status, applied, body, took) = wait("wait=1", 500).await;
    assert_eq!((status, applied.as_deref()), (202, Some("wait=1")));
    assert_eq!((&body["status"], &body["output"], body.get("started_at")), (&json!("starting"), &Value::Null, None));
    assert!((0.9..3.0).contains(&took.as_secs_f64()), "{took:?}");
    assert_eq!(stage.prediction(&body["id"]).await["status"], "processing");

    let (status, applied, body, _) = wait("respond-async", 3).await;
    assert_eq!((status, applied, &body["status"]), (201, None, &json!("starting")));
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancel_ends_a_running_one_within_a_step_and_a_queued_one_at_once() {
    let one_job = EngineOptions { max_jobs: 1, ..EngineOptions::default() };
    let (_folder, stage) = stage(Setting { engine: one_job, ..slow(50) }).await;
    let mut long = small();
    long["num_inference_steps"] = json!(500);
    let mut all = Vec::new();
    for _ in 0..8 {
        all.push(stage.create(long.clone()).await["id"].clone());
    }
    stage.until(&all[0], |p| p["status"] == "processing" && p["logs"].as_str().unwrap().contains("/500")).await;
    let cancel = async |id: &Value| {
        let start = Instant::now();
        let path = format!("/v1/predictions/{}/cancel", id.as_str().unwrap());
        let answer = stage.client.post(format!("{}{path}", stage.url)).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        let body: Value = answer.json().await.unwrap();
        assert_eq!(
            (&body["status"], &body["output"], &body["error"]),
            (&json!("canceled"), &Value::Null, &Value::Null)
        );
        assert!(body["completed_at"].is_string());
        (start.elapsed(), body)
    };
    let (took, last) = cancel(&all[7]).await;
    assert!(took < Duration::from_secs(1) && last.get("started_at").is_none(), "{took:?}");
    let (took, first) = cancel(&all[0]).await;
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert_eq!(cancel(&all[0]).await.1, first, "again changes nothing");
    for id in &all[1..7] {
        cancel(id).await;
    }
    let next = stage.create(small()).await;
    assert_eq!(stage.until_finished(&next["id"]).await["status"], "succeeded");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_lead_through_all_pages() {
    let (_folder, stage) = stage(Setting::default()).await;
    let mut ids = Vec::new();
    for _ in 0..105 {
        ids.push(stage.create(small()).await["id"].clone());
    }
    ids.reverse();
    let page = async |url: &str| stage.client.get(url).send().await.unwrap().json::<Value>().await.unwrap();
    let first = page(&format!("{}/replicate/v1/predictions", stage.url)).await;
    assert_eq!((first["results"].as_array().unwrap().len(), &first["previous"]), (100, &Value::Null));
    let next = first["next"].as_str().unwrap();
    assert!(next.starts_with(&format!("{}/v1/predictions?cursor=", stage.url)));
    let second = page(next).await;
    assert_eq!(second["next"], Value::Null);
    let pages = [&first, &second];
    let listed: Vec<&Value> = pages.iter().flat_map(|p| p["results"].as_array().unwrap()).map(|p| &p["id"]).collect();
    assert_eq!(listed, ids.iter().collect::<Vec<_>>());
    assert_eq!(page(second["previous"].as_str().unwrap()).await["results"][0]["id"], ids[0]);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_limits_and_public_urls_are_minded() {
    let args = ServeArgs {
        api_key: vec!["sesame".to_string(), "other".to_string()],
        queue_limit: Some("2".to_string()),
        public_url: Some("https://pictures.example.org/".to_string()),
        ..ServeArgs::default()
    };
    let one_job = EngineOptions { max_jobs: 1, ..EngineOptions::default() };
    let (_folder, stage) = stage(Setting { args, engine: one_job, ..slow(200) }).await;
    let (status, body) = problem(stage.get("/v1/predictions").send().await.unwrap()).await;
    assert_eq!((status, &body["detail"]), (401, &json!("You did not pass an authentication token")));
    let wrong = stage.get("/v1/predictions").header("authorization", "Token nope").send().await.unwrap();
    assert_eq!(problem(wrong).await.1["detail"], "You did not pass a valid authentication token");
    for public in ["/", "/health-check"] {
        assert_eq!(stage.get(public).send().await.unwrap().status(), 200);
    }

    let mut answers = Vec::new();
    for _ in 0..20 {
        let request = stage.post("/v1/predictions", &request(json!({"width": 64, "height": 64})));
        answers.push(request.header("authorization", "bearer sesame").send().await.unwrap());
    }
    let full = answers.pop().unwrap();
    assert_eq!(full.headers()["retry-after"], "10");
    let (status, body) = problem(full).await;
    assert_eq!((status, &body["retry_after"]), (429, &json!(10)));
    assert!(body["detail"].as_str().unwrap().starts_with("Request was throttled. "), "{body}");
    assert!(body["detail"].as_str().unwrap().ends_with("resets in ~10s."), "{body}");
    let created: Value = answers.remove(0).json().await.unwrap();
    assert!(created["urls"]["get"].as_str().unwrap().starts_with("https://pictures.example.org/v1/predictions/"));
    drop(stage);
}

/// What no HTTP library would send.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn odd_requests_get_an_answer() {
    let (_folder, stage) = stage(Setting::default()).await;
    let address = stage.url.trim_start_matches("http://").to_string();
    let raw = async |text: &str| {
        let mut socket = tokio::net::TcpStream::connect(&address).await.unwrap();
        socket.write_all(text.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let close = "Connection: close\r\n\r\n";
    let list = raw(&format!("GET /v1/predictions HTTP/1.1\r\nHost: a<b>\r\n{close}")).await;
    assert!(list.starts_with("HTTP/1.1 400"), "{list}");
    let absolute = raw(&format!("GET http://x.org/v1/predictions HTTP/1.1\r\nHost: x.org\r\n{close}")).await;
    assert!(absolute.starts_with("HTTP/1.1 200"), "{absolute}");
    let star = raw(&format!("OPTIONS * HTTP/1.1\r\nHost: x\r\n{close}")).await;
    assert!(star.starts_with("HTTP/1.1 404"), "{star}");
    let garbage = raw("\u{1}\u{2}\r\n\r\n").await;
    assert!(garbage.starts_with("HTTP/1.1 400"), "{garbage}");
    stage.stop().await;
}
