//! Real clients, pinned, against whole servers: one test for each, and one line of what a driver prints for each check.
//!
//! The drivers are in `tests/clients`; its README says what they are given and how to run one by hand.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::json;
use stablehand::config::ServeArgs;
use tempfile::TempDir;

use crate::stage::{Setting, Stage, VERSION};
use crate::tools;

const KEY: &str = "a-key-of-the-test";

/// Nobody is metered, and webhooks may reach the driver's receiver.
const OPEN: &str = "rate-limit-create = 0\nrate-limit-other = 0\nallow-private-network = true\ndrain-seconds = 0\n";

/// How long a step takes on the open server: two steps are drawn at once, two hundred take longer than a second.
const STEP: Duration = Duration::from_millis(10);

const OVER_BASES: [&str; 3] = ["root", "/v1", "/replicate/v1"];

/// What every client of predictions is checked for.
const PREDICTIONS: [&str; 9] = [
    "run versioned over {base}",
    "run unversioned over {base}",
    "run as asked",
    "file as data URI",
    "failure",
    "401",
    "404",
    "422",
    "429",
];

/// What every client by Replicate is checked for, beside that.
const OFFICIAL: [&str; 7] = [
    "URLs over {base}",
    "wait off",
    "cancel",
    "stream",
    "two list pages",
    "models and versions",
    "account, hardware, collections, deployments",
];

const PYTHON: [&str; 2] = ["base from the environment", "run asynchronous"];

const WAIT: [&str; 2] = ["wait in time", "wait timed out"];

const FILES: [&str; 3] = ["file upload", "file from a buffer", "file deleted"];

/// What Python up to 1.0 is checked for alone.
const LEGACY: [&str; 4] =
    ["progress bar", "stream again after the end", "stream of a cancelled one", "webhook about the end only"];

/// The servers that a driver is given, each with its data folder.
struct Servers {
    open: (TempDir, Stage),
    guarded: (TempDir, Stage),
    limited: (TempDir, Stage),
}

impl Servers {
    async fn start() -> Servers {
        Servers {
            open: server(OPEN, STEP).await,
            guarded: server(&format!("api-key = '{KEY}'\n"), Duration::from_millis(1)).await,
            limited: server("rate-limit-create = 2\n", Duration::from_millis(1)).await,
        }
    }

    /// What a driver must know.
    fn configuration(&self, client: &str) -> String {
        let url = |server: &(TempDir, Stage)| server.1.url.clone();
        let configuration = json!({
            "client": client,
            "url": url(&self.open),
            "guarded": {"url": url(&self.guarded), "key": KEY},
            "limited": {"url": url(&self.limited)},
            "model": "stability-ai/stable-diffusion",
            "version": VERSION,
        });
        configuration.to_string()
    }

    async fn stop(self) {
        for (_folder, stage) in [self.open, self.guarded, self.limited] {
            stage.stop().await;
        }
    }
}

async fn server(settings: &str, pause: Duration) -> (TempDir, Stage) {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("settings.toml");
    std::fs::write(&config, settings).unwrap();
    let args = ServeArgs { config: Some(config), ..ServeArgs::default() };
    let stage = Stage::start(folder.path(), Setting { args, pause, ..Setting::default() }).await;
    (folder, stage)
}

/// What runs a driver: an interpreter, and where it finds the client.
#[derive(Clone, Copy)]
enum Packages {
    /// A file in `tests/clients/requirements`.
    Python(&'static str),
    /// A folder in `tests/clients/packages`.
    Node(&'static str),
}

impl Packages {
    /// `None`, said loudly: the interpreter is missing.
    fn interpreter(self, test: &str) -> Option<Command> {
        let needed = match self {
            Packages::Python(_) => vec!["python3"],
            Packages::Node(_) => vec!["node", "npm"],
        };
        if let Some(program) = needed.into_iter().find(|program| !tools::has(program)) {
            tools::missing(test, program);
            return None;
        }
        match self {
            Packages::Python(name) => Some(Command::new(tools::python(&format!("clients/requirements/{name}.txt")))),
            Packages::Node(name) => {
                let mut command = Command::new("node");
                command.env("PACKAGES", tools::node_packages(&format!("clients/packages/{name}")));
                Some(command)
            }
        }
    }
}

/// Runs a driver for this version of its client, and holds what it printed against what it must have checked.
async fn drive(packages: Packages, driver: &'static str, client: &'static str, checks: &[&[&str]]) {
    let interpreter = tokio::task::spawn_blocking(move || packages.interpreter(driver)).await.unwrap();
    let Some(mut command) = interpreter else { return };
    let servers = Servers::start().await;
    for variable in ["REPLICATE_API_TOKEN", "REPLICATE_BASE_URL", "OPENAI_API_KEY", "OPENAI_BASE_URL"] {
        command.env_remove(variable);
    }
    command
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(driver))
        .arg(servers.configuration(client))
        .envs([("NO_PROXY", "127.0.0.1"), ("PYTHONDONTWRITEBYTECODE", "1")]);
    let said = tokio::task::spawn_blocking(move || tools::run(&mut command)).await.unwrap();
    servers.stop().await;
    let made: Vec<&str> = said.lines().filter_map(|line| line.strip_prefix("ok ")).collect();
    let expected = expected(checks);
    assert_eq!(made.iter().map(|name| name.to_string()).collect::<BTreeSet<_>>(), expected);
    assert_eq!(made.len(), expected.len(), "each once");
}

/// The names of all these checks; one that names bases stands for each of them.
fn expected(checks: &[&[&str]]) -> BTreeSet<String> {
    let each = |name: &&str| match name.contains("{base}") {
        true => OVER_BASES.iter().map(|base| name.replace("{base}", base)).collect(),
        false => vec![name.to_string()],
    };
    checks.iter().flat_map(|names| names.iter()).flat_map(each).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_0_25() {
    let checks: [&[&str]; 5] = [&PREDICTIONS, &OFFICIAL, &PYTHON, &LEGACY, &["webhook without a validator"]];
    drive(Packages::Python("replicate-0.25.2"), "replicate_legacy.py", "0.25.2", &checks).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_0_34() {
    let checks: [&[&str]; 7] = [&PREDICTIONS, &OFFICIAL, &PYTHON, &LEGACY, &WAIT, &FILES, &["webhook"]];
    drive(Packages::Python("replicate-0.34.2"), "replicate_legacy.py", "0.34.2", &checks).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_1() {
    let checks: [&[&str]; 7] = [&PREDICTIONS, &OFFICIAL, &PYTHON, &LEGACY, &WAIT, &FILES, &["webhook"]];
    drive(Packages::Python("replicate-1.0.7"), "replicate_legacy.py", "1.0.7", &checks).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_2_with_strict_validation() {
    let own = ["run of the module", "use", "deadline", "webhook without a validator"];
    let checks: [&[&str]; 6] = [&PREDICTIONS, &OFFICIAL, &PYTHON, &WAIT, &FILES, &own];
    drive(Packages::Python("replicate-2.0.0b4"), "replicate_2.py", "2.0.0b4", &checks).await;
}

const JAVASCRIPT: [&str; 5] =
    ["abort signal", "progress bar", "stream stopped by a signal", "webhook", "webhook of a run"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn javascript_0_34() {
    let checks: [&[&str]; 5] = [&PREDICTIONS, &OFFICIAL, &WAIT, &FILES, &JAVASCRIPT];
    drive(Packages::Node("replicate-0.34.1"), "replicate.mjs", "0.34.1", &checks).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn javascript_1() {
    let checks: [&[&str]; 5] = [&PREDICTIONS, &OFFICIAL, &WAIT, &FILES, &JAVASCRIPT];
    drive(Packages::Node("replicate-1.4.0"), "replicate.mjs", "1.4.0", &checks).await;
}

const AI_SDK: [&str; 3] = ["run with an aspect ratio", "wait longer than Replicate would", "abort signal"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ai_sdk_2() {
    let checks: [&[&str]; 3] = [&PREDICTIONS, &AI_SDK, &["wait timed out is an error"]];
    drive(Packages::Node("ai-sdk-2"), "ai_sdk.mjs", "2.0.57", &checks).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ai_sdk_3() {
    let checks: [&[&str]; 3] = [&PREDICTIONS, &AI_SDK, &["wait timed out"]];
    drive(Packages::Node("ai-sdk-3"), "ai_sdk.mjs", "3.0.46", &checks).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mcp() {
    let calls = ["tools", "run over {base}", "wait timed out", "wait off", "failure", "cancel", "file upload", "list"];
    let others = ["models and versions", "account, hardware, collections, deployments", "401", "404", "422"];
    drive(Packages::Node("mcp"), "mcp.mjs", "0.9.0", &[&calls, &others]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openai() {
    let images = ["images over {base}", "base from the environment", "as base64", "as URLs", "as JPEG and WebP"];
    let others = ["parameters without a meaning here", "asynchronous", "models"];
    let errors = ["failure", "400", "401", "404", "429"];
    drive(Packages::Python("openai"), "openai_images.py", "3.54.0", &[&images, &others, &errors]).await;
}
