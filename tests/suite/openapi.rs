//! The server against two documents: its own OpenAPI, and the one that Replicate publishes.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::process::Command;

use stablehand::config::ServeArgs;

use crate::stage::{Setting, Stage};
use crate::tools;

/// The Python that has what `tests/openapi` needs.
fn python() -> Option<PathBuf> {
    if !tools::has("python3") {
        tools::missing("OpenAPI", "Python 3.11");
        return None;
    }
    Some(tools::python("openapi/requirements.txt"))
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

async fn stage(pause: Duration) -> (tempfile::TempDir, Stage) {
    let unlimited = || Some("0".to_string());
    let args = ServeArgs { rate_limit_create: unlimited(), rate_limit_other: unlimited(), ..ServeArgs::default() };
    let folder = tempfile::tempdir().unwrap();
    let stage = Stage::start(folder.path(), Setting { args, pause, ..Setting::default() }).await;
    (folder, stage)
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { rust_files(&path) } else { vec![path] }).collect()
}

/// `{id}` and `{token}` are the same to a router.
fn without_names(path: &str) -> String {
    let pieces = path.split('{').enumerate();
    pieces
        .map(|(n, piece)| if n == 0 { piece } else { piece.split_once('}').unwrap().1 })
        .collect::<Vec<_>>()
        .join("{}")
}

/// `method path` of every `.route("path", get(handler).post(handler))` in this text, but for those that are not served.
fn routes_in(text: &str) -> Vec<String> {
    let mut routes = Vec::new();
    for rest in text.split(".route(").skip(1) {
        let Some(rest) = rest.trim_start().strip_prefix('"') else { continue };
        let (path, handlers) = rest.split_once('"').unwrap();
        let mut depth = 1;
        let end = handlers.find(|c| {
            depth += if c == '(' { 1 } else { 0 };
            depth -= if c == ')' { 1 } else { 0 };
            depth == 0
        });
        let handlers = &handlers[..end.unwrap()];
        for method in ["get", "post", "put", "patch", "delete", "fallback"] {
            let call = format!("{method}(");
            let starts = handlers.match_indices(&call).map(|(at, _)| at);
            let whole = |at: &usize| !handlers[..*at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
            for at in starts.filter(whole) {
                if handlers[at + method.len()..].starts_with("(not_served)") {
                    continue;
                }
                let method = if method == "fallback" { "query" } else { method };
                routes.push(format!("{method} {}", without_names(path)));
            }
        }
    }
    routes
}

#[test]
fn routes_are_found() {
    let text = r#"r.route("/a", get(forget(x)).post(b)).route(
        "/b/{id}/c", delete(not_served).fallback(q)).route("/", get(async || Ok(())));"#;
    assert_eq!(routes_in(text), ["get /a", "post /a", "query /b/{}/c", "get /"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_document_and_the_routes_are_the_same() {
    let sources = ["src/api", "src/web"].map(|room| rust_files(&root().join(room))).concat();
    let routes = sources.iter().flat_map(|file| routes_in(&fs::read_to_string(file).unwrap()));
    // Streams are documented by their addresses, those of files; what the pages load is nobody's business.
    let routes: BTreeSet<String> =
        routes.filter(|route| !["get /streams/{}", "get /assets/{}"].contains(&route.as_str())).collect();
    assert!(routes.len() > 20, "{routes:?}");
    let (_folder, stage) = stage(Duration::ZERO).await;
    let document: Value = stage.get("/openapi.json").send().await.unwrap().json().await.unwrap();
    let operations = |(path, item): (&String, &Value)| {
        let methods: Vec<String> = item.as_object().unwrap().keys().cloned().collect();
        let path = without_names(path);
        methods.into_iter().map(move |method| format!("{} {path}", method.trim_start_matches("x-")))
    };
    let documented: BTreeSet<String> = document["paths"].as_object().unwrap().iter().flat_map(operations).collect();
    let difference: Vec<&String> = documented.symmetric_difference(&routes).collect();
    assert!(difference.is_empty(), "only in the document or only in the router: {difference:#?}");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_reference_page_needs_nothing_else() {
    let (_folder, stage) = stage(Duration::ZERO).await;
    let answer = stage.get("/docs").send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["content-type"], "text/html; charset=utf-8");
    assert!(answer.headers()["content-security-policy"].to_str().unwrap().starts_with("default-src 'none'"));
    let page = answer.text().await.unwrap();
    assert!(page.contains("num_inference_steps") && page.contains("predictions.create"));
    stage.stop().await;
}

/// Runs a program of the environment and fails with what it printed.
async fn check(python: &Path, arguments: &[&str]) -> String {
    let output = Command::new(python)
        .args(arguments)
        .current_dir(env!("CARGO_TARGET_TMPDIR"))
        .env("NO_PROXY", "127.0.0.1")
        .env("PYTHONUNBUFFERED", "1")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(Duration::from_secs(1800), output).await.unwrap().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}");
    text
}

/// The project does not carry Replicate's document: `STABLEHAND_REPLICATE_OPENAPI` says where it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_is_what_replicate_documents() {
    let place = std::env::var_os("STABLEHAND_REPLICATE_OPENAPI").map(PathBuf::from);
    let document = place.unwrap_or_else(|| root().join("../shared/replicate/replicate-openapi-2026-03.json"));
    if !document.exists() {
        eprintln!("NOT TESTED: answers against Replicate's OpenAPI document: {} is not there", document.display());
        return;
    }
    let Some(python) = python() else { return };
    let (_folder, stage) = stage(Duration::from_millis(5)).await;
    let script = root().join("tests/openapi/replicate.py");
    let arguments = [script.to_str().unwrap(), &stage.url, document.to_str().unwrap()];
    println!("{}", check(&python, &arguments).await);
    stage.stop().await;
}

/// Requests that our own document allows, and many that it does not: none makes the server fail, and every answer is as
/// documented. `STABLEHAND_OPENAPI_CASES=200` for as many requests to each operation.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_makes_the_server_fail() {
    let Some(python) = python() else { return };
    let (_folder, stage) = stage(Duration::ZERO).await;
    let (document, base) = (format!("{}/openapi.json", stage.url), format!("{}/v1", stage.url));
    let cases = std::env::var("STABLEHAND_OPENAPI_CASES").unwrap_or_else(|_| "3".to_string());
    let checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance";
    let command = format!(
        "-m schemathesis.cli run {document} --url {base} --checks {checks} --max-examples {cases} --seed 1 \
         --request-timeout 60 --suppress-health-check all \
         --generation-database none --no-color"
    );
    let arguments: Vec<&str> = command.split_whitespace().collect();
    let report = check(&python, &arguments).await;
    println!("{}", report.lines().rev().take(25).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n"));
    let alive = stage.get("/health-check").send().await.unwrap();
    assert_eq!(alive.status(), 200);
    stage.stop().await;
}
