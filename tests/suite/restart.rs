//! The real program, killed and stopped in the middle of its work: nothing that was accepted is lost.

use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::receiver::Receiver;
use crate::stage::request;

/// Steps of a prediction that is still running when a signal reaches its server: some seconds at 64×64.
const LONG: u32 = 500;

/// A `stablehand serve` with the built-in model; killed when dropped.
pub struct Program {
    pub child: Child,
    pub url: String,
    pub client: reqwest::Client,
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(folder: &Path, flags: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stablehand"));
    command.args(["serve", "--listen", "127.0.0.1:0", "--device", "cpu", "--data-dir"]).arg(folder).args(flags);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("STABLEHAND_")) {
        command.env_remove(name);
    }
    command
}

impl Program {
    pub async fn start(folder: &Path, flags: &[&str]) -> Program {
        // What a killed one left behind.
        let _ = std::fs::remove_file(folder.join("address"));
        let child = command(folder, flags).stdout(Stdio::null()).spawn().unwrap();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let mut program = Program { child, url: String::new(), client };
        for _ in 0..1200 {
            if let Ok(address) = std::fs::read_to_string(folder.join("address")).map(|a| a.trim().to_string())
                && !address.is_empty()
            {
                program.url = format!("http://{address}");
                return program;
            }
            assert_eq!(program.child.try_wait().unwrap(), None, "the program ended");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("the program did not begin to listen");
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([format!("-{name}"), self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    async fn ended(&mut self) -> ExitStatus {
        for _ in 0..2400 {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the program did not end");
    }

    async fn create(&self, steps: u32, seed: u32) -> String {
        self.create_with(steps, seed, json!({})).await
    }

    /// `more`: other keys of the body.
    async fn create_with(&self, steps: u32, seed: u32, more: Value) -> String {
        let input = json!({"prompt": "a red circle on a white background", "width": 64, "height": 64,
            "num_inference_steps": steps, "seed": seed});
        let url = format!("{}/v1/predictions", self.url);
        let mut body = request(input);
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let answer = self.client.post(url).json(&body).send().await.unwrap();
        assert_eq!(answer.status(), 201);
        answer.json::<Value>().await.unwrap()["id"].as_str().unwrap().to_string()
    }

    async fn get(&self, id: &str) -> Value {
        let url = format!("{}/v1/predictions/{id}", self.url);
        self.client.get(url).send().await.unwrap().json().await.unwrap()
    }

    async fn until(&self, id: &str, wished: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let prediction = self.get(id).await;
            if wished(&prediction) {
                return prediction;
            }
            assert!(begun.elapsed() < Duration::from_secs(240), "waited in vain: {prediction}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The picture of a prediction, once it has succeeded.
    async fn picture(&self, id: &str) -> Vec<u8> {
        let done = self.until(id, |p| p["completed_at"].is_string()).await;
        assert_eq!(done["status"], "succeeded", "{done}");
        let url = done["output"][0].as_str().unwrap();
        self.client.get(url).send().await.unwrap().bytes().await.unwrap().to_vec()
    }
}

fn running(prediction: &Value) -> bool {
    prediction["status"] == "processing" && prediction["logs"].as_str().unwrap().contains("%|")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_accepted_survives_kill_9() {
    let folder = tempfile::tempdir().unwrap();
    let first = Program::start(folder.path(), &[]).await;
    let finished = first.create(5, 42).await;
    let expected = first.picture(&finished).await;
    let mut ids = vec![first.create(LONG, 1).await];
    for seed in [42, 42, 3, 4, 5, 6] {
        ids.push(first.create(5, seed).await);
    }
    ids.push(first.create(LONG, 2).await);
    first.until(&ids[0], running).await;
    first.signal("KILL");
    drop(first);

    let second = Program::start(folder.path(), &[]).await;
    assert_eq!(second.picture(&finished).await, expected, "what was finished stays");
    for id in &ids {
        assert!(!second.picture(id).await.is_empty());
    }
    for id in &ids[1..3] {
        assert_eq!(second.picture(id).await, expected, "the same seed draws the same picture");
    }
    let interrupted = second.get(&ids[0]).await;
    let logs = interrupted["logs"].as_str().unwrap();
    assert!(logs.contains("stablehand: the server was interrupted; starting again\n"), "{logs}");
    assert_eq!(logs.matches("Using seed: 1\n").count(), 2, "{logs}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn webhooks_survive_kill_9_under_the_same_id() {
    let folder = tempfile::tempdir().unwrap();
    let flags = ["--allow-private-network"];
    let (receiver, other) = (Receiver::start().await, Receiver::start().await);
    receiver.set_broken(true);
    let only_end = |hook: String| json!({"webhook": hook, "webhook_events_filter": ["completed"]});
    let first = Program::start(folder.path(), &flags).await;
    // One has ended and its receiver has failed; one hangs in its first attempt; one has not ended yet.
    let ended = first.create_with(2, 1, only_end(receiver.hook("/ended"))).await;
    receiver.wait_for(1).await;
    let hanging = first.create_with(2, 2, only_end(other.hook("/hang"))).await;
    other.wait_for(1).await;
    let running_one = first.create_with(LONG, 3, only_end(receiver.hook("/running"))).await;
    first.until(&running_one, running).await;
    first.signal("KILL");
    drop(first);

    let before = [receiver.messages(), other.messages()].concat();
    receiver.set_broken(false);
    let _second = Program::start(folder.path(), &flags).await;
    for (path, id, at) in
        [("/ended", ended, &receiver), ("/hang", hanging, &other), ("/running", running_one, &receiver)]
    {
        let count = before.iter().filter(|m| m.path == path).count();
        let heard = at.wait_until(|heard| heard.iter().filter(|m| m.path == path).count() > count).await;
        let of_path: Vec<_> = heard.iter().filter(|m| m.path == path).collect();
        let last = of_path[of_path.len() - 1];
        assert_eq!((&last.json()["id"], &last.json()["status"]), (&json!(id), &json!("succeeded")));
        for message in of_path {
            assert_eq!(message.header("webhook-id"), last.header("webhook-id"), "{path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_lets_running_ones_end() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = Program::start(folder.path(), &["--drain-seconds", "60"]).await;
    let id = first.create(LONG, 1).await;
    first.until(&id, running).await;
    first.signal("TERM");
    assert!(first.ended().await.success());
    let second = Program::start(folder.path(), &[]).await;
    assert_eq!(second.get(&id).await["status"], "succeeded");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_end_in_time_goes_back_to_the_queue() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = Program::start(folder.path(), &["--drain-seconds", "0"]).await;
    let id = first.create(LONG, 1).await;
    first.until(&id, running).await;
    first.signal("TERM");
    assert!(first.ended().await.success());
    let second = Program::start(folder.path(), &[]).await;
    assert!(!second.picture(&id).await.is_empty());
    let logs = second.get(&id).await["logs"].as_str().unwrap().to_string();
    assert!(!logs.contains("interrupted"), "a drain is no interruption: {logs}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_it_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = Program::start(folder.path(), &["--drain-seconds", "600"]).await;
    let id = first.create(LONG, 1).await;
    first.until(&id, running).await;
    first.signal("TERM");
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(first.child.try_wait().unwrap(), None, "it drains");
    first.signal("TERM");
    assert_eq!(first.ended().await.code(), Some(130));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_data_folder_has_one_server() {
    let folder = tempfile::tempdir().unwrap();
    let _first = Program::start(folder.path(), &[]).await;
    let second = command(folder.path(), &[]).output().unwrap();
    assert!(!second.status.success());
    let error = String::from_utf8_lossy(&second.stderr);
    assert!(error.contains("is in use by another stablehand"), "{error}");
}

#[test]
fn wrong_settings_are_all_named() {
    let folder = tempfile::tempdir().unwrap();
    let output =
        command(folder.path(), &["--dtype", "f8", "--queue-limit", "none", "--drain-seconds", "5"]).output().unwrap();
    assert!(!output.status.success());
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("auto, f32, bf16 or f16") && error.contains("queue-limit"), "{error}");
}
