//! Webhooks, deadlines and retention through the whole server, with receivers that behave badly.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use stablehand::config::ServeArgs;
use stablehand::engine::EngineOptions;
use stablehand::webhooks::Secret;

use crate::receiver::{Message, Receiver};
use crate::stage::{Setting, Stage, request};

fn small() -> Value {
    json!({"prompt": "a square", "width": 64, "height": 64, "num_inference_steps": 3, "seed": 7})
}

fn open() -> ServeArgs {
    ServeArgs { allow_private_network: Some("true".to_string()), ..ServeArgs::default() }
}

async fn stage(args: ServeArgs, pause: u64) -> (tempfile::TempDir, Stage) {
    let folder = tempfile::tempdir().unwrap();
    let engine = EngineOptions { max_jobs: 1, ..EngineOptions::default() };
    let setting = Setting { args, pause: Duration::from_millis(pause), engine };
    let stage = Stage::start(folder.path(), setting).await;
    (folder, stage)
}

/// Creates a prediction with more keys in its body.
async fn create(stage: &Stage, input: Value, more: Value) -> Value {
    let mut body = request(input);
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let answer = stage.post("/v1/predictions", &body).send().await.unwrap();
    assert_eq!(answer.status(), 201, "{}", answer.text().await.unwrap());
    answer.json().await.unwrap()
}

fn of<'a>(messages: &'a [Message], id: &Value) -> Vec<&'a Message> {
    messages.iter().filter(|message| message.json()["id"] == *id).collect()
}

fn statuses(messages: &[&Message]) -> Vec<Value> {
    messages.iter().map(|message| message.json()["status"].clone()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prediction_is_told_from_start_to_end() {
    let receiver = Receiver::start().await;
    let (_folder, stage) = stage(open(), 40).await;
    let secret: Value = stage.get("/v1/webhooks/default/secret").send().await.unwrap().json().await.unwrap();
    let secret = Secret::parse(secret["key"].as_str().unwrap()).unwrap();

    let mut input = small();
    input["num_inference_steps"] = json!(60);
    let events = json!(["start", "output", "logs", "completed"]);
    let hook = receiver.hook("/ok?token=x");
    let created = create(&stage, input, json!({"webhook": hook, "webhook_events_filter": events})).await;
    assert_eq!((&created["webhook"], &created["webhook_events_filter"]), (&json!(hook), &events));
    let done = stage.until_finished(&created["id"]).await;
    let messages = receiver.wait_until(|heard| heard.iter().any(|m| m.json()["completed_at"].is_string())).await;

    let start = messages[0].json();
    assert_eq!((&start["status"], &start["logs"], &start["output"]), (&json!("processing"), &json!(""), &Value::Null));
    assert_eq!(messages.last().unwrap().json(), done, "the body is what GET answers");
    assert_eq!(done["output"].as_array().unwrap().len(), 1);
    let throttled: Vec<&Message> = messages[1..messages.len() - 1].iter().collect();
    assert!(throttled.len() >= 2, "it ran for more than two seconds");
    for pair in throttled.windows(2) {
        assert!(pair[1].at - pair[0].at >= Duration::from_millis(400), "at most one per half second, in order");
        let (earlier, later) = (pair[0].json(), pair[1].json());
        assert!(later["logs"].as_str().unwrap().starts_with(earlier["logs"].as_str().unwrap()));
    }

    let mut ids: Vec<&str> = messages.iter().map(|m| m.header("webhook-id")).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), messages.len());
    for message in &messages {
        assert_eq!(message.header("content-type"), "application/json");
        let timestamp: i64 = message.header("webhook-timestamp").parse().unwrap();
        assert!((jiff::Timestamp::now().as_second() - timestamp).abs() < 60);
        let expected = secret.sign(message.header("webhook-id"), timestamp, &message.body);
        assert_eq!(message.header("webhook-signature"), expected);
    }
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_default_output_and_end_are_told_on_the_creators_origin() {
    let receiver = Receiver::start().await;
    let (_folder, stage) = stage(open(), 1).await;
    let mut body = request(small());
    body["webhook"] = json!(receiver.hook("/ok"));
    let request = stage.post("/v1/predictions", &body).header("host", "pictures.example.org:81");
    let created: Value = request.send().await.unwrap().json().await.unwrap();
    assert!(created.get("webhook_events_filter").is_none());
    let messages = receiver.wait_for(2).await;
    let (output, end) = (messages[0].json(), messages[1].json());
    assert_eq!((&output["status"], &end["status"]), (&json!("processing"), &json!("succeeded")));
    assert!(output.get("completed_at").is_none() && output.get("metrics").is_none());
    assert_eq!(output["output"], end["output"]);
    let url = end["output"][0].as_str().unwrap();
    assert!(url.starts_with("http://pictures.example.org:81/outputs/"), "{url}");
    assert_eq!(end["urls"], created["urls"]);

    let legacy = create(&stage, small(), json!({"webhook_completed": receiver.hook("/ok")})).await;
    let messages = receiver.wait_for(3).await;
    assert_eq!(statuses(&of(&messages, &legacy["id"])), ["succeeded"]);
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(receiver.messages().len(), 3);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_end_is_tried_again_and_nothing_else_is() {
    let receiver = Receiver::start().await;
    let (_folder, stage) = stage(open(), 1).await;
    let begun = Instant::now();
    let created = create(&stage, small(), json!({"webhook": receiver.hook("/fail/3")})).await;
    let messages = receiver.wait_for(4).await;
    assert_eq!(statuses(&of(&messages, &created["id"])), ["processing", "succeeded", "succeeded", "succeeded"]);
    let ids: Vec<&str> = messages.iter().map(|m| m.header("webhook-id")).collect();
    assert_ne!(ids[0], ids[1]);
    assert_eq!((ids[2], ids[3]), (ids[1], ids[1]));
    let pauses: Vec<f64> = messages[1..].windows(2).map(|p| (p[1].at - p[0].at).as_secs_f64()).collect();
    assert!((0.9..2.0).contains(&pauses[0]) && (1.9..3.5).contains(&pauses[1]), "{pauses:?}");
    assert!(begun.elapsed() < Duration::from_secs(20));
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(receiver.messages().len(), 4, "it arrived");
    stage.stop().await;
}

/// Receivers that hang, drip or redirect hold up nobody else, and nothing behind a redirect is reached.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_receivers_hold_up_nobody() {
    let (bad, good) = (Receiver::start().await, Receiver::start().await);
    let args = ServeArgs { webhook_retry: Some("1s".to_string()), ..open() };
    let (_folder, stage) = stage(args, 1).await;
    for (path, count) in [("/hang", 10), ("/drip", 5), ("/redirect", 2)] {
        for _ in 0..count {
            create(&stage, small(), json!({"webhook": bad.hook(path), "webhook_events_filter": ["completed"]})).await;
        }
    }
    // Nobody listens there.
    let closed = "http://127.0.0.1:1/";
    create(&stage, small(), json!({"webhook": closed, "webhook_events_filter": ["completed"]})).await;
    let created = create(&stage, small(), json!({"webhook": good.hook("/ok")})).await;
    stage.until_finished(&created["id"]).await;
    let finished = Instant::now();
    let messages = good.wait_for(2).await;
    assert!(finished.elapsed() < Duration::from_secs(2), "{:?}", finished.elapsed());
    assert_eq!(statuses(&of(&messages, &created["id"])), ["processing", "succeeded"]);
    let hanging = |heard: &[Message]| heard.iter().filter(|m| m.path == "/hang").count();
    let heard = bad.wait_until(|heard| hanging(heard) >= 8).await;
    assert_eq!(hanging(&heard), 8, "at most so many at once to one host");
    // The first eight time out, then the ones behind them have their turn.
    let heard = bad.wait_until(|heard| heard.iter().filter(|m| m.path == "/redirect").count() >= 4).await;
    assert!(heard.iter().all(|message| message.path != "/private"));
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_could_never_be_done_is_refused_with_the_field() {
    let (_folder, stage) = stage(ServeArgs::default(), 1).await;
    for hook in ["http://127.0.0.1:9/", "http://localhost:3000/hook", "http://169.254.169.254/", "ftp://x", "hook"] {
        let mut body = request(json!({"num_outputs": 99}));
        body["webhook"] = json!(hook);
        let refused = stage.post("/v1/predictions", &body).header("cancel-after", "1s").send().await.unwrap();
        assert_eq!((refused.status().as_u16(), &refused.headers()["x-should-retry"]), (422, &"false".parse().unwrap()));
        let problem: Value = refused.json().await.unwrap();
        let fields: Vec<&Value> = problem["invalid_fields"].as_array().unwrap().iter().map(|f| &f["field"]).collect();
        assert_eq!(fields, ["input.num_outputs", "webhook", "Cancel-After"], "{hook}");
    }
    let found = stage.get("/v1/predictions").send().await.unwrap().json::<Value>().await.unwrap();
    assert_eq!(found["results"], json!([]));
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deadlines_end_queued_and_running_ones() {
    let receiver = Receiver::start().await;
    let (_folder, stage) = stage(open(), 100).await;
    let late = async |steps: u32| -> Value {
        let mut body = request(small());
        body["input"]["num_inference_steps"] = json!(steps);
        body["webhook"] = json!(receiver.hook("/ok"));
        let request = stage.post("/v1/predictions", &body).header("Cancel-After", "5");
        request.send().await.unwrap().json().await.unwrap()
    };
    let running = late(500).await;
    stage.until(&running["id"], |p| p["status"] == "processing").await;
    // More than the worker claims at once, so that the last one waits in the queue.
    let mut queued = Value::Null;
    for _ in 0..9 {
        queued = late(500).await;
    }
    let deadline: jiff::Timestamp = queued["deadline"].as_str().unwrap().parse().unwrap();
    let created: jiff::Timestamp = queued["created_at"].as_str().unwrap().parse().unwrap();
    assert_eq!(deadline.duration_since(created).as_secs(), 5);

    let ended = stage.until_finished(&running["id"]).await;
    assert_eq!((&ended["status"], ended.get("deadline")), (&json!("canceled"), running.get("deadline")));
    let took = ended["metrics"]["total_time"].as_f64().unwrap();
    assert!((5.0..8.0).contains(&took), "{took}");
    let aborted = stage.until_finished(&queued["id"]).await;
    assert_eq!((&aborted["status"], aborted.get("started_at")), (&json!("aborted"), None));
    assert!(aborted["completed_at"].is_string());
    let ends = receiver.wait_for(10).await;
    assert_eq!(statuses(&of(&ends, &running["id"])), ["canceled"]);
    assert_eq!(statuses(&of(&ends, &queued["id"])), ["aborted"]);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_limit_fails_what_takes_too_long() {
    let args = ServeArgs { run_limit: Some("1s".to_string()), ..ServeArgs::default() };
    let (_folder, stage) = stage(args, 50).await;
    let mut long = small();
    long["num_inference_steps"] = json!(500);
    let failed = stage.until_finished(&stage.create(long).await["id"]).await;
    assert_eq!(failed["error"], "the prediction ran for longer than 1 s, which is the limit");
    let next = stage.create(small()).await;
    assert_eq!(stage.until_finished(&next["id"]).await["status"], "succeeded");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_goes_when_its_time_is_over() {
    let args = ServeArgs { retention: Some("3s".to_string()), ..ServeArgs::default() };
    let (folder, stage) = stage(args, 1).await;
    let created = stage.create(small()).await;
    let done = stage.until_finished(&created["id"]).await;
    let file = done["output"][0].as_str().unwrap().to_string();
    assert_eq!(stage.client.get(&file).send().await.unwrap().status(), 200);
    let removed = stage.until(&created["id"], |p| p["data_removed"] == json!(true)).await;
    assert_eq!(
        (&removed["input"], &removed["output"], &removed["logs"], &removed["status"]),
        (&json!({}), &Value::Null, &json!(""), &json!("succeeded"))
    );
    assert_eq!((&removed["metrics"], &removed["urls"]), (&done["metrics"], &done["urls"]));
    assert_eq!(stage.client.get(&file).send().await.unwrap().status(), 404);
    let left: Vec<_> = std::fs::read_dir(folder.path().join("blobs")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_are_narrowed_by_time_and_source() {
    let (_folder, stage) = stage(ServeArgs::default(), 1).await;
    let mut created = Vec::new();
    for n in 0..105 {
        let source = if n < 3 { "web" } else { "api" };
        let request = stage.post("/v1/predictions", &request(small())).header("stablehand-source", source);
        created.push(request.send().await.unwrap().json::<Value>().await.unwrap());
    }
    let list = async |query: &str| -> Value {
        let url =
            if query.starts_with("http") { query.to_string() } else { format!("{}/v1/predictions{query}", stage.url) };
        stage.client.get(url).send().await.unwrap().json().await.unwrap()
    };
    let count = |page: &Value| page["results"].as_array().unwrap().len();
    let web = list("?source=web").await;
    assert_eq!((count(&web), &web["results"][0]["source"], &web["next"]), (3, &json!("web"), &Value::Null));
    let time = |n: usize| created[n]["created_at"].as_str().unwrap();
    assert_eq!(count(&list(&format!("?created_before={}", time(2))).await), 2);
    assert_eq!(count(&list(&format!("?created_after={}&created_before={}", time(1), time(4))).await), 3);
    let first = list(&format!("?created_after={}", time(1))).await;
    let second = list(first["next"].as_str().unwrap()).await;
    assert_eq!((count(&first), count(&second)), (100, 4), "the next page is narrowed too");
    assert_eq!(count(&list("?created_after=2025-01-01&created_before=2025-01-01T00:00:00+01:00&source=").await), 0);
    assert_eq!(count(&list(&format!("?created_after={}", &time(0)[..19])).await), 100, "without an offset: UTC");
    assert_eq!(count(&list(&format!("?created_before={}", &time(0)[..19])).await), 0);
    for wrong in ["?created_after=yesterday", "?created_before=12", "?source=moon"] {
        let answer = stage.get(&format!("/v1/predictions{wrong}")).send().await.unwrap();
        assert_eq!(answer.status(), 400);
        let detail = answer.json::<Value>().await.unwrap()["detail"].as_str().unwrap().to_string();
        let name = wrong[1..].split('=').next().unwrap();
        assert!(detail.starts_with(&format!("{name}: ")), "{detail}");
    }
    stage.stop().await;
}

/// What is left in the outbox when a server stops is sent by the next one; so is its secret kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_outbox_and_the_secret_outlive_a_server() {
    let receiver = Receiver::start().await;
    receiver.set_broken(true);
    let (folder, stage) = stage(open(), 1).await;
    let secret = async |stage: &Stage| -> String {
        stage.get("/webhooks/default/secret").send().await.unwrap().text().await.unwrap()
    };
    let before = secret(&stage).await;
    let hook = json!({"webhook": receiver.hook("/ok"), "webhook_events_filter": ["completed"]});
    create(&stage, small(), hook).await;
    receiver.wait_for(1).await;
    stage.stop().await;

    receiver.set_broken(false);
    let heard = receiver.messages().len();
    let stage = Stage::start(folder.path(), Setting { args: open(), ..Setting::default() }).await;
    let messages = receiver.wait_for(heard + 1).await;
    assert_eq!(messages[0].header("webhook-id"), messages.last().unwrap().header("webhook-id"));
    assert_eq!(messages[0].body, messages.last().unwrap().body);
    assert_eq!(secret(&stage).await, before);
    stage.stop().await;
}
