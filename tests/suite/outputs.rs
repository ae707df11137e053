//! Output files as clients fetch them, and outputs in the form that each client can use.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use reqwest::{Method, Response};
use serde_json::{Value, json};
use stablehand::config::ServeArgs;

use crate::stage::{Setting, Stage, request};

fn two() -> Value {
    json!({"prompt": "a square", "width": 64, "height": 64, "num_outputs": 2, "num_inference_steps": 2, "seed": 7})
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
async fn files_can_be_had_in_part_and_asked_whether_they_changed() {
    let (_folder, stage) = stage(ServeArgs { api_key: vec!["sesame".to_string()], ..ServeArgs::default() }).await;
    let create = stage.post("/v1/predictions", &request(two())).header("prefer", "wait=30").bearer_auth("sesame");
    let done: Value = create.send().await.unwrap().json().await.unwrap();
    let url = done["output"][1].as_str().unwrap().to_string();
    assert!(url.ends_with("/out-1.png"));
    let ask = async |headers: &[(&str, &str)]| {
        let mut request = stage.client.get(&url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await.unwrap()
    };

    // Without a key: the address is the right to read it.
    let whole = ask(&[]).await;
    assert_eq!(whole.status(), 200);
    let (tag, date) =
        (header(&whole, "etag").unwrap().to_string(), header(&whole, "last-modified").unwrap().to_string());
    assert!(tag.starts_with('"') && tag.len() > 4 && httpdate::parse_http_date(&date).is_ok());
    for (name, value) in [
        ("content-type", "image/png"),
        ("accept-ranges", "bytes"),
        ("x-content-type-options", "nosniff"),
        ("access-control-allow-origin", "*"),
        ("cache-control", "public, max-age=3600"),
    ] {
        assert_eq!(header(&whole, name), Some(value), "{name}");
    }
    let bytes = whole.bytes().await.unwrap();
    let size = bytes.len();

    for (range, part) in
        [("bytes=0-7", 0..8), ("bytes=10-", 10..size), ("bytes=-5", size - 5..size), ("bytes=3-99999999", 3..size)]
    {
        let answer = ask(&[("range", range)]).await;
        assert_eq!(answer.status(), 206, "{range}");
        let place = format!("bytes {}-{}/{size}", part.start, part.end - 1);
        assert_eq!(header(&answer, "content-range"), Some(place.as_str()));
        assert_eq!(header(&answer, "content-length"), Some((part.end - part.start).to_string().as_str()));
        assert_eq!((header(&answer, "etag"), header(&answer, "content-type")), (Some(tag.as_str()), Some("image/png")));
        assert_eq!(answer.bytes().await.unwrap(), bytes.slice(part), "{range}");
    }
    let beyond = ask(&[("range", "bytes=99999999-")]).await;
    assert_eq!(beyond.status(), 416);
    assert_eq!(header(&beyond, "content-range"), Some(format!("bytes */{size}").as_str()));
    assert_eq!(header(&beyond, "content-type"), Some("application/problem+json"));
    assert_eq!(ask(&[("range", "bytes=0-1"), ("if-range", &tag)]).await.status(), 206);
    assert_eq!(ask(&[("range", "bytes=0-1"), ("if-range", &date)]).await.status(), 206);
    for other in ["\"other\"", "Sun, 06 Nov 1994 08:49:37 GMT"] {
        let changed = ask(&[("range", "bytes=0-1"), ("if-range", other)]).await;
        assert_eq!((changed.status().as_u16(), changed.bytes().await.unwrap().len()), (200, size), "{other}");
    }
    assert_eq!(ask(&[("range", "bytes=0-1,4-5")]).await.status(), 200);

    for known in [("if-none-match", tag.as_str()), ("if-modified-since", date.as_str()), ("if-none-match", "*")] {
        let unchanged = ask(&[known]).await;
        assert_eq!((unchanged.status().as_u16(), header(&unchanged, "etag")), (304, Some(tag.as_str())), "{known:?}");
        assert_eq!(header(&unchanged, "cache-control"), Some("public, max-age=3600"));
        assert!(unchanged.bytes().await.unwrap().is_empty());
    }
    assert_eq!(ask(&[("if-none-match", "\"other\""), ("if-modified-since", &date)]).await.status(), 200);

    let head = stage.client.head(&url).header("range", "bytes=0-1").send().await.unwrap();
    assert_eq!((head.status().as_u16(), header(&head, "content-length")), (200, Some(size.to_string().as_str())));
    let preflight = stage.client.request(Method::OPTIONS, &url).header("origin", "https://app.example");
    let preflight = preflight.header("access-control-request-headers", "if-none-match").send().await.unwrap();
    assert_eq!(header(&preflight, "access-control-allow-origin"), Some("*"));
    assert_eq!(header(&preflight, "access-control-allow-headers"), Some("if-none-match"));
    stage.stop().await;
}

/// The first output of a create call that waits, of a get, and of a list, as this user agent sees them.
async fn seen(stage: &Stage, agent: &str) -> [String; 3] {
    let create = stage.post("/v1/predictions", &request(two())).header("prefer", "wait=30").header("user-agent", agent);
    let created: Value = create.send().await.unwrap().json().await.unwrap();
    assert_eq!(created["status"], "succeeded", "{created}");
    let get = async |path: &str| {
        let answer = stage.get(path).header("user-agent", agent).send().await.unwrap();
        answer.json::<Value>().await.unwrap()
    };
    let got = get(&format!("/v1/predictions/{}", created["id"].as_str().unwrap())).await;
    let listed = get("/v1/predictions").await["results"][0].clone();
    [created, got, listed].map(|prediction| {
        assert_eq!(prediction["output"].as_array().unwrap().len(), 2);
        prediction["output"][0].as_str().unwrap().to_string()
    })
}

fn is_data(output: &str) -> bool {
    output.starts_with("data:image/png;base64,")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_need_data_uris_get_them_on_plain_http() {
    let (_folder, http) = stage(ServeArgs::default()).await;
    for agent in ["replicate-python/1.0.7", "Replicate/Python 2.0.0-beta.4", "replicate-javascript/1.4.0"] {
        let [created, got, listed] = seen(&http, agent).await;
        assert!(is_data(&created) && created == got, "{agent}");
        assert!(listed.starts_with(&http.url), "lists have URLs: {agent}");
        let data = STANDARD.decode(created.split_once(',').unwrap().1).unwrap();
        let file = http.client.get(listed).send().await.unwrap().bytes().await.unwrap();
        assert_eq!(Bytes::from(data), file, "{agent}");
    }
    for agent in ["curl/8.5.0", "replicate-python/0.34.2", "replicate-javascript/0.34.1", "replicate/go"] {
        assert!(seen(&http, agent).await.iter().all(|output| output.starts_with(&http.url)), "{agent}");
    }
    http.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_form_of_outputs_can_be_set() {
    let python = "replicate-python/1.0.7";
    let url = ServeArgs { output_urls: Some("url".to_string()), ..ServeArgs::default() };
    let (_folder, stage_of_urls) = stage(url).await;
    assert!(seen(&stage_of_urls, python).await.iter().all(|output| output.starts_with("http://")));
    stage_of_urls.stop().await;

    let data = ServeArgs { output_urls: Some("data".to_string()), ..ServeArgs::default() };
    let (_folder, stage_of_data) = stage(data).await;
    let [created, got, listed] = seen(&stage_of_data, "curl/8.5.0").await;
    assert!(is_data(&created) && is_data(&got) && listed.starts_with("http://"));
    stage_of_data.stop().await;

    let secure = ServeArgs { public_url: Some("https://pictures.example.org".to_string()), ..ServeArgs::default() };
    let (_folder, secure) = stage(secure).await;
    let expected = "https://pictures.example.org/outputs/";
    assert!(
        seen(&secure, python).await.iter().all(|output| output.starts_with(expected)),
        "file objects of https URLs"
    );
    secure.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_output_that_is_gone_stays_a_url() {
    let (folder, stage) = stage(ServeArgs::default()).await;
    let created = stage.create(two()).await;
    stage.until_finished(&created["id"]).await;
    std::fs::remove_dir_all(folder.path().join("blobs")).unwrap();
    let path = format!("/v1/predictions/{}", created["id"].as_str().unwrap());
    let answer = stage.get(&path).header("user-agent", "replicate-python/1.0.7").send().await.unwrap();
    let prediction: Value = answer.json().await.unwrap();
    let url = prediction["output"][0].as_str().unwrap();
    assert!(url.starts_with(&stage.url), "{url}");
    assert_eq!(stage.client.get(url).send().await.unwrap().status(), 404);
    stage.stop().await;
}
