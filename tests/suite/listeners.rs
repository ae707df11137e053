//! What many listeners on one prediction cost the server's process. `STABLEHAND_LISTENERS=1000 cargo test --release
//! --test suite listeners -- --nocapture` says it for a thousand.
#![cfg(target_os = "linux")]

use futures::future::join_all;
use serde_json::{Value, json};

use crate::restart::Program;
use crate::stage::{Events, request};

/// The promise is 200 MB for a thousand.
const KB_EACH: usize = 200;

/// Resident memory of a process, in kB.
fn resident(pid: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Reads until so many previews have come.
async fn previews(events: &mut Events, count: usize) {
    let mut seen = 0;
    while seen < count {
        seen += usize::from(events.next().await.unwrap().name == "preview");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listeners_share_what_they_hear() {
    let count: usize = std::env::var("STABLEHAND_LISTENERS").ok().and_then(|n| n.parse().ok()).unwrap_or(200);
    let folder = tempfile::tempdir().unwrap();
    let program = Program::start(folder.path(), &[]).await;
    let input = json!({"prompt": "a red circle", "width": 512, "height": 512, "num_inference_steps": 500});
    let created: Value = program
        .client
        .post(format!("{}/v1/predictions", program.url))
        .json(&request(input))
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    let id = created["id"].as_str().unwrap();
    let path = format!("{}/v1/predictions/{id}/previews", program.url);
    let mut first = Events::open(program.client.get(&path)).await;
    previews(&mut first, 3).await;
    let before = resident(program.child.id());

    let open = async |url: &str| Events::open(program.client.get(url)).await;
    let mut watching = join_all((0..count / 2).map(|_| open(&path))).await;
    let mut listening =
        join_all((0..count - count / 2).map(|_| open(created["urls"]["stream"].as_str().unwrap()))).await;
    join_all(watching.iter_mut().map(|events| previews(events, 3))).await;
    let after = resident(program.child.id());
    let growth = after.saturating_sub(before);
    println!("{count} listeners: {before} kB before, {after} kB with them, {} kB each", growth / count.max(1));
    assert!(growth < KB_EACH * count, "{growth} kB for {count} listeners");

    let cancel = created["urls"]["cancel"].as_str().unwrap();
    assert_eq!(program.client.post(cancel).send().await.unwrap().status(), 200);
    let ends = join_all(listening.iter_mut().map(|events| events.rest())).await;
    assert!(ends.iter().all(|end| end.len() == 1 && end[0].data == "{\"reason\":\"canceled\"}"), "all hear of the end");
    let last = join_all(watching.iter_mut().map(|events| events.rest())).await;
    assert!(last.iter().all(|events| events.last().unwrap().json()["status"] == "canceled"));
}
