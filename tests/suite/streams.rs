//! `urls.stream` and previews, as official clients and pages read them.

use std::time::Duration;

use base64::Engine;
use serde_json::{Value, json};
use stablehand::api::{Purpose, Tokens};
use stablehand::config::ServeArgs;
use stablehand::engine::EngineOptions;

use crate::stage::{Events, Sent, Setting, Stage};

fn small(steps: u32) -> Value {
    json!({"prompt": "a square", "width": 64, "height": 64, "num_inference_steps": steps, "seed": 7})
}

async fn stage(setting: Setting) -> (tempfile::TempDir, Stage) {
    let folder = tempfile::tempdir().unwrap();
    let stage = Stage::start(folder.path(), setting).await;
    (folder, stage)
}

fn slow(millis: u64) -> Setting {
    Setting { pause: Duration::from_millis(millis), ..Setting::default() }
}

fn url<'a>(prediction: &'a Value, name: &str) -> &'a str {
    prediction["urls"][name].as_str().unwrap()
}

async fn stream(stage: &Stage, prediction: &Value) -> Events {
    Events::open(stage.client.get(url(prediction, "stream"))).await
}

async fn resume(stage: &Stage, prediction: &Value, last: &str) -> Vec<Sent> {
    let request = stage.client.get(url(prediction, "stream")).header("last-event-id", last);
    Events::open(request).await.rest().await
}

fn names(events: &[Sent]) -> Vec<&str> {
    events.iter().map(|sent| sent.name.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outputs_come_in_order_and_again() {
    let (_folder, stage) = stage(Setting::default()).await;
    let mut input = small(4);
    input["num_outputs"] = json!(3);
    let created = stage.create(input).await;
    let mut live = stream(&stage, &created).await;
    let events = live.rest().await;
    assert!(live.comments >= 1, "it is greeted");
    assert_eq!(names(&events), ["output", "output", "output", "done"]);
    let done = stage.prediction(&created["id"]).await;
    assert_eq!(done["status"], "succeeded");
    let told: Vec<&str> = events[..3].iter().map(|sent| sent.data.as_str()).collect();
    assert_eq!(json!(told), done["output"]);
    assert_eq!((events[3].data.as_str(), url(&done, "stream")), ("{}", url(&created, "stream")));
    let ids: Vec<String> = events.iter().map(|sent| sent.id.clone().unwrap()).collect();
    assert!(ids[0].ends_with(":0") && ids[2].ends_with(":2"), "{ids:?}");

    assert_eq!(stream(&stage, &created).await.rest().await, events, "anew after the end");
    assert_eq!(resume(&stage, &created, &ids[1]).await, events[2..]);
    assert_eq!(resume(&stage, &created, "of another stream").await, events);
    let over = stage.client.get(url(&created, "stream")).header("last-event-id", &ids[3]).send().await.unwrap();
    assert_eq!(over.status(), 204, "it is told not to come back");
    stage.stop().await;
}

/// The steps of another prediction come between its pictures, so that the first one is there long before the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_output_is_told_as_soon_as_it_is_stored() {
    let (_folder, stage) = stage(slow(300)).await;
    let beside = stage.create(json!({"width": 128, "height": 64, "num_inference_steps": 100})).await;
    stage.until(&beside["id"], |p| p["status"] == "processing").await;
    let mut input = small(1);
    input["num_outputs"] = json!(4);
    let created = stage.create(input).await;
    let mut events = stream(&stage, &created).await;
    let first = events.next().await.unwrap();
    assert_eq!(first.name, "output");
    assert_eq!(stage.prediction(&created["id"]).await["status"], "processing");
    assert_eq!(stage.client.get(&first.data).send().await.unwrap().status(), 200);
    assert_eq!(names(&events.rest().await), ["output", "output", "output", "done"]);
    let done = stage.prediction(&created["id"]).await;
    assert_eq!(done["output"][0], json!(first.data));
    stage.client.post(url(&beside, "cancel")).send().await.unwrap();
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_and_cancels_are_told() {
    let (_folder, stage) = stage(slow(20)).await;
    let refused = stage.create(json!({"prompt": "refuse", "width": 64, "height": 64})).await;
    let events = stream(&stage, &refused).await.rest().await;
    assert_eq!(names(&events), ["error", "done"]);
    assert_eq!(
        (events[0].json(), events[1].json()),
        (json!({"detail": "no such picture"}), json!({"reason": "error"}))
    );
    assert!(events.iter().all(|sent| sent.id.is_some()));
    assert_eq!(resume(&stage, &refused, events[0].id.as_ref().unwrap()).await, events[1..]);

    let long = stage.create(small(500)).await;
    let mut watching = stream(&stage, &long).await;
    stage.until(&long["id"], |p| p["status"] == "processing").await;
    stage.client.post(url(&long, "cancel")).send().await.unwrap();
    let events = watching.rest().await;
    assert_eq!(names(&events), ["done"]);
    assert_eq!(events[0].json(), json!({"reason": "canceled"}));
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_all_that_is_needed_and_nothing_less() {
    let args = ServeArgs { api_key: vec!["sesame".to_string()], ..ServeArgs::default() };
    let (folder, stage) = stage(Setting { args, ..slow(10) }).await;
    let body = crate::stage::request(small(3));
    let with_key = |request: reqwest::RequestBuilder| request.header("authorization", "Bearer sesame");
    let created: Value =
        with_key(stage.post("/replicate/v1/predictions", &body)).send().await.unwrap().json().await.unwrap();
    assert!(url(&created, "stream").starts_with(&format!("{}/v1/files/stream-", stage.url)));
    assert_eq!(names(&stream(&stage, &created).await.rest().await), ["output", "done"]);

    let id = created["id"].as_str().unwrap();
    let previews = stage.get(&format!("/v1/predictions/{id}/previews"));
    assert_eq!(previews.try_clone().unwrap().send().await.unwrap().status(), 401);
    assert_eq!(names(&Events::open(with_key(previews)).await.rest().await), ["prediction"]);
    let secret = std::fs::read_to_string(folder.path().join("secret")).unwrap();
    let bytes: Vec<u8> = (0..32).map(|i| u8::from_str_radix(&secret[2 * i..2 * i + 2], 16).unwrap()).collect();
    let tokens = Tokens::new(bytes.as_slice().try_into().unwrap());
    let token = tokens.token(Purpose::Previews, id);
    assert_eq!(names(&Events::open(stage.get(&format!("/previews/{token}"))).await.rest().await), ["prediction"]);

    let stream = url(&created, "stream").rsplit('/').next().unwrap().to_string();
    let forged = format!("{}{}", &stream[..stream.len() - 1], if stream.ends_with('0') { '1' } else { '0' });
    let unknown = tokens.token(Purpose::Stream, "nobody");
    for path in [
        format!("/v1/files/{forged}"),
        format!("/v1/files/{unknown}"),
        format!("/previews/{stream}"),
        "/v1/files/stream-".to_string(),
        "/previews/x".to_string(),
    ] {
        assert_eq!(stage.get(&path).send().await.unwrap().status(), 404, "{path}");
    }
    // What is no stream is a file, and files want a key.
    assert_eq!(stage.get(&format!("/v1/files/{token}")).send().await.unwrap().status(), 401);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn previews_come_while_the_picture_is_drawn() {
    let (_folder, stage) = stage(slow(60)).await;
    let mut input = small(30);
    input["num_outputs"] = json!(2);
    let created = stage.create(input).await;
    let id = created["id"].as_str().unwrap();
    let mut watching = Events::open(stage.get(&format!("/v1/predictions/{id}/previews"))).await;
    let first = watching.next().await.unwrap();
    assert_eq!((first.name.as_str(), &first.json()["id"]), ("prediction", &created["id"]));
    assert_eq!(first.json()["urls"], created["urls"]);
    let events = watching.rest().await;

    let previews: Vec<Value> = events.iter().filter(|e| e.name == "preview").map(Sent::json).collect();
    assert!((2..=12).contains(&previews.len()), "1.8 s at one in 250 ms: {}", previews.len());
    let steps: Vec<u64> = previews.iter().map(|preview| preview["step"].as_u64().unwrap()).collect();
    assert!(steps.windows(2).all(|pair| pair[0] < pair[1]), "{steps:?}");
    for preview in &previews {
        assert_eq!(preview["total"], 30);
        let data = preview["image"].as_str().unwrap().strip_prefix("data:image/png;base64,").unwrap();
        let png = base64::engine::general_purpose::STANDARD.decode(data).unwrap();
        let picture = image::load_from_memory_with_format(&png, image::ImageFormat::Png).unwrap();
        assert_eq!((picture.width(), picture.height()), (16, 8), "two pictures of 64×64 side by side");
    }
    let states: Vec<Value> = events.iter().filter(|e| e.name == "prediction").map(Sent::json).collect();
    assert!(states.iter().any(|state| state["status"] == "processing" && state["logs"] != ""));
    assert!(states.windows(2).all(|pair| pair[0] != pair[1]), "only changes");
    assert_eq!(events.last().unwrap().name, "prediction");
    assert_eq!(states.last().unwrap(), &stage.prediction(&created["id"]).await);
    stage.stop().await;
}

/// Clients come back to what the next process says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_end_cleanly_with_the_server_and_go_on_with_the_next() {
    let args = || ServeArgs { drain_seconds: Some("0".to_string()), ..ServeArgs::default() };
    let one_job = EngineOptions { max_jobs: 1, ..EngineOptions::default() };
    let setting = || Setting { args: args(), engine: one_job.clone(), ..slow(30) };
    let (folder, first) = stage(setting()).await;
    let running = first.create(small(500)).await;
    let waiting = first.create(small(5)).await;
    let mut watching = stream(&first, &running).await;
    let mut queued = stream(&first, &waiting).await;
    let previews = format!("/v1/predictions/{}/previews", running["id"].as_str().unwrap());
    let mut looking = Events::open(first.get(&previews)).await;
    first.until(&running["id"], |p| p["status"] == "processing").await;
    let stopped = tokio::spawn(first.stop());
    assert_eq!(watching.rest().await, []);
    assert_eq!(queued.rest().await, []);
    assert!(!looking.rest().await.is_empty());
    stopped.await.unwrap();

    let second = Stage::start(folder.path(), setting()).await;
    let cancel = format!("/v1/predictions/{}/cancel", running["id"].as_str().unwrap());
    second.client.post(format!("{}{cancel}", second.url)).send().await.unwrap();
    let path = url(&waiting, "stream").split_once("/v1").unwrap().1.to_string();
    let events = Events::open(second.get(&path)).await.rest().await;
    assert_eq!(names(&events), ["output", "done"], "the token is still good");
    second.stop().await;
}
