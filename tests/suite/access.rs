//! Who may use the server, how often, from which pages, and by which origin it answers.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use reqwest::{Method, Response};
use serde_json::{Value, json};
use stablehand::config::ServeArgs;

use crate::stage::{Setting, Stage, request};

fn small() -> Value {
    json!({"prompt": "a square", "width": 64, "height": 64, "num_inference_steps": 2})
}

async fn stage(args: ServeArgs) -> (tempfile::TempDir, Stage) {
    let folder = tempfile::tempdir().unwrap();
    let stage = Stage::start(folder.path(), Setting { args, ..Setting::default() }).await;
    (folder, stage)
}

fn header<'a>(answer: &'a Response, name: &str) -> Option<&'a str> {
    answer.headers().get(name).map(|value| value.to_str().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_need_the_key_that_was_made_for_them() {
    let folder = tempfile::tempdir().unwrap();
    let args = || ServeArgs { listen: Some("0.0.0.0:0".to_string()), ..ServeArgs::default() };
    let mut keys = Vec::new();
    for _ in 0..2 {
        let stage = Stage::start(folder.path(), Setting { args: args(), ..Setting::default() }).await;
        assert_eq!(stage.get("/v1/predictions").send().await.unwrap().status(), 401);
        let key = std::fs::read_to_string(folder.path().join("api-key")).unwrap().trim().to_string();
        for scheme in ["Bearer", "token"] {
            let allowed = stage.get("/v1/predictions").header("authorization", format!("{scheme} {key}"));
            assert_eq!(allowed.send().await.unwrap().status(), 200, "{scheme}");
        }
        keys.push(key);
        stage.stop().await;
    }
    assert!(keys[0].len() > 30 && keys[0] == keys[1]);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(folder.path().join("api-key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_key_has_its_own_quota() {
    let args = ServeArgs {
        api_key: vec!["one".to_string(), "two".to_string()],
        rate_limit_create: Some("2".to_string()),
        rate_limit_other: Some("3".to_string()),
        ..ServeArgs::default()
    };
    let (_folder, stage) = stage(args).await;
    let create = async |key: &str| {
        let request = stage.post("/v1/predictions", &request(small())).header("authorization", format!("Bearer {key}"));
        request.send().await.unwrap()
    };
    let first = create("one").await;
    assert_eq!((first.status().as_u16(), header(&first, "ratelimit-remaining")), (201, Some("1")));
    assert_eq!(header(&first, "ratelimit-reset"), Some("30"));
    let id = first.json::<Value>().await.unwrap()["id"].as_str().unwrap().to_string();
    assert_eq!(header(&create("one").await, "ratelimit-remaining"), Some("0"));

    let refused = create("one").await;
    assert_eq!((refused.status().as_u16(), header(&refused, "content-type")), (429, Some("application/problem+json")));
    let after: u64 = header(&refused, "retry-after").unwrap().parse().unwrap();
    assert!((25..=30).contains(&after), "{after}");
    assert_eq!(header(&refused, "ratelimit-remaining"), Some("0"));
    let body: Value = refused.json().await.unwrap();
    let detail = format!("Request was throttled. Your rate limit resets in ~{after}s.");
    assert_eq!((&body["detail"], &body["status"], &body["retry_after"]), (&json!(detail), &json!(429), &json!(after)));

    assert_eq!(header(&create("two").await, "ratelimit-remaining"), Some("1"));
    let get = async |path: &str| stage.get(path).header("authorization", "Token one").send().await.unwrap();
    let look = get(&format!("/v1/predictions/{id}")).await;
    assert_eq!((look.status().as_u16(), header(&look, "ratelimit-remaining")), (200, Some("59")));
    for left in ["2", "1", "0"] {
        assert_eq!(header(&get("/v1/predictions").await, "ratelimit-remaining"), Some(left));
    }
    assert_eq!(get("/v1/files").await.status(), 429);
    let stranger = stage.get("/v1/predictions").send().await.unwrap();
    assert_eq!((stranger.status().as_u16(), header(&stranger, "ratelimit-remaining")), (401, None));
    assert_eq!(stage.get("/health-check").send().await.unwrap().status(), 200);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quotas_are_replicates_unless_set_and_can_be_turned_off() {
    let (_folder, usual) = stage(ServeArgs::default()).await;
    let created = usual.post("/v1/predictions", &request(small())).send().await.unwrap();
    assert_eq!(header(&created, "ratelimit-remaining"), Some("599"));
    assert_eq!(header(&created, "ratelimit-reset"), Some("1"));
    let id = created.json::<Value>().await.unwrap()["id"].as_str().unwrap().to_string();
    let look = usual.get(&format!("/predictions/{id}")).send().await.unwrap();
    assert_eq!(header(&look, "ratelimit-remaining"), Some("59999"));
    let list = usual.get("/predictions").send().await.unwrap();
    assert_eq!(header(&list, "ratelimit-remaining"), Some("2999"));
    usual.stop().await;

    let none = || Some("0".to_string());
    let args = ServeArgs { rate_limit_create: none(), rate_limit_other: none(), ..ServeArgs::default() };
    let (_folder, free) = stage(args).await;
    assert_eq!(header(&free.get("/predictions").send().await.unwrap(), "ratelimit-remaining"), None);
    free.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn urls_are_on_the_origin_that_the_client_used() {
    let urls = async |stage: &Stage, headers: &[(&str, &str)]| {
        let mut request = stage.post("/replicate/v1/predictions", &request(small()));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = request.send().await.unwrap();
        let location = header(&answer, "location").unwrap().to_string();
        let created: Value = answer.json().await.unwrap();
        assert_eq!(created["urls"]["get"], location);
        let (origin, path) = location.split_at(location.find("/v1/").unwrap());
        assert!(path.starts_with("/v1/predictions/"));
        origin.to_string()
    };
    let proxied = [("x-forwarded-proto", "https"), ("x-forwarded-host", "pictures.example.org"), ("host", "inner")];

    let (_folder, open) = stage(ServeArgs::default()).await;
    assert_eq!(urls(&open, &[]).await, open.url);
    assert_eq!(urls(&open, &[("host", "my-server:99")]).await, "http://my-server:99");
    assert_eq!(urls(&open, &proxied).await, "http://inner", "loopback is not trusted by itself");
    open.stop().await;

    let args = ServeArgs { trusted_proxy: vec!["10.0.0.0/8".into(), "127.0.0.1".into()], ..ServeArgs::default() };
    let (_folder, behind) = stage(args.clone()).await;
    assert_eq!(urls(&behind, &proxied).await, "https://pictures.example.org");
    let forwarded = [("forwarded", "for=1.2.3.4;host=\"x.org:8443\";proto=https")];
    assert_eq!(urls(&behind, &forwarded).await, "https://x.org:8443");
    let ported = [("x-forwarded-proto", "https"), ("x-forwarded-port", "8443"), ("host", "x.org")];
    assert_eq!(urls(&behind, &ported).await, "https://x.org:8443");
    let client = |address: &str| behind.get("/predictions").header("x-forwarded-for", address);
    for (address, left) in [("1.1.1.1", "2999"), ("1.1.1.1", "2998"), ("2.2.2.2", "2999")] {
        let answer = client(address).send().await.unwrap();
        assert_eq!(header(&answer, "ratelimit-remaining"), Some(left), "{address}");
    }
    behind.stop().await;

    let (_folder, named) = stage(ServeArgs { public_url: Some("https://named.org:444/".into()), ..args }).await;
    assert_eq!(urls(&named, &proxied).await, "https://named.org:444");
    named.stop().await;
}

async fn preflight(stage: &Stage, path: &str, page: &str) -> Response {
    let request = stage.client.request(Method::OPTIONS, format!("{}{path}", stage.url)).header("origin", page);
    let request = request.header("access-control-request-method", "POST");
    request.header("access-control-request-headers", "authorization,content-type").send().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_other_sites_need_a_key() {
    let (_folder, open) = stage(ServeArgs::default()).await;
    let post = async |stage: &Stage, page: &str| {
        let request = stage.post("/v1/predictions", &request(small())).header("origin", page);
        request.header("authorization", "Bearer sesame").send().await.unwrap()
    };
    for page in ["https://evil.example", "null", "http://localhost.evil.example"] {
        let refused = post(&open, page).await;
        assert_eq!((refused.status().as_u16(), header(&refused, "access-control-allow-origin")), (403, None), "{page}");
        assert_eq!(header(&preflight(&open, "/v1/predictions", page).await, "access-control-allow-origin"), None);
    }
    for page in ["http://localhost:3000", "http://[::1]:5173", open.url.as_str()] {
        assert_eq!(header(&preflight(&open, "/v1/predictions", page).await, "access-control-allow-origin"), Some(page));
        let answer = post(&open, page).await;
        assert_eq!((answer.status().as_u16(), header(&answer, "access-control-allow-origin")), (201, Some(page)));
    }
    open.stop().await;

    let (_folder, keyed) = stage(ServeArgs { api_key: vec!["sesame".to_string()], ..ServeArgs::default() }).await;
    let asked = preflight(&keyed, "/v1/predictions", "https://app.example").await;
    assert_eq!((asked.status().as_u16(), header(&asked, "access-control-allow-origin")), (200, Some("*")));
    assert_eq!(header(&asked, "access-control-allow-methods"), Some("POST"));
    assert_eq!(header(&asked, "access-control-allow-headers"), Some("authorization,content-type"));
    let answer = post(&keyed, "https://app.example").await;
    assert_eq!((answer.status().as_u16(), header(&answer, "access-control-expose-headers")), (201, Some("*")));
    let refused = keyed.get("/v1/predictions").header("origin", "https://app.example").send().await.unwrap();
    assert_eq!((refused.status().as_u16(), header(&refused, "access-control-allow-origin")), (401, Some("*")));
    keyed.stop().await;
}

/// The real program, with everything logged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neither_keys_nor_tokens_in_inputs_reach_the_log() {
    const KEY: &str = "sesame-3c9d1f";
    const TOKEN: &str = "r8-8b1f6c2a9e";
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let mut command = Command::new(env!("CARGO_BIN_EXE_stablehand"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("STABLEHAND_")) {
        command.env_remove(name);
    }
    command.args(["serve", "--listen", "127.0.0.1:0", "--device", "cpu", "--api-key", KEY, "--data-dir"]);
    command.arg(folder.path().join("data")).env("RUST_LOG", "trace");
    let out = std::fs::File::create(&log).unwrap();
    let mut child = command.stdout(Stdio::from(out.try_clone().unwrap())).stderr(Stdio::from(out)).spawn().unwrap();
    let url = address(&folder.path().join("data/address")).await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let post = async |body: &Value| {
        let request = client.post(format!("{url}/v1/predictions")).bearer_auth(KEY).json(body);
        request.send().await.unwrap()
    };
    // What one version of the JavaScript client sends as the input.
    let leaked = json!({"auth": TOKEN, "client": {"auth": TOKEN}, "prompt": "a red circle", "width": 64, "height": 64,
        "num_inference_steps": 1});
    let created: Value = post(&request(leaked.clone())).await.json().await.unwrap();
    assert_eq!(created["input"], leaked);
    assert_eq!(post(&request(json!({"auth": TOKEN, "width": TOKEN}))).await.status(), 422);
    assert_eq!(post(&json!({"version": TOKEN, "input": {}})).await.status(), 422);
    let broken = client.post(format!("{url}/v1/predictions")).bearer_auth(KEY).body(format!("{{\"auth\": {TOKEN}"));
    assert_eq!(broken.send().await.unwrap().status(), 400);
    assert_eq!(client.get(format!("{url}/v1/files")).bearer_auth(TOKEN).send().await.unwrap().status(), 401);
    let id = created["id"].as_str().unwrap();
    for _ in 0..600 {
        let get = client.get(format!("{url}/v1/predictions/{id}")).bearer_auth(KEY);
        let prediction: Value = get.send().await.unwrap().json().await.unwrap();
        if prediction["status"] == "succeeded" {
            assert!(!prediction["logs"].as_str().unwrap().contains(TOKEN));
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let logged = std::fs::read_to_string(&log).unwrap();
    assert!(logged.contains("POST /predictions 201"), "{logged}");
    for secret in [KEY, TOKEN] {
        assert!(!logged.contains(secret), "{secret} is in the log");
    }
}

async fn address(file: &Path) -> String {
    for _ in 0..1200 {
        if let Ok(address) = std::fs::read_to_string(file)
            && !address.is_empty()
        {
            return format!("http://{address}");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the program did not begin to listen");
}
