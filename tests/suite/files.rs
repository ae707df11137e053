//! The files API through a real socket, and how rows and bytes of uploads stay together.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use reqwest::Response;
use serde_json::{Value, json};
use stablehand::blobs::Blobs;
use stablehand::config::ServeArgs;
use stablehand::domain::{Upload, new_file_id};
use stablehand::store::{FileStore, NewPrediction, PAGE_SIZE, SqliteStore, Store};
use stablehand::uploads::{Description, SIZE_LIMIT, Uploads};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::stage::{Setting, Stage};
use crate::store::new;

const BOUNDARY: &str = "----boundary7MA4YWxk";
const HELLO_MD5: &str = "5d41402abc4b2a76b9719d911017c592";
const HELLO_SHA256: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

async fn stage(args: ServeArgs) -> (tempfile::TempDir, Stage) {
    let folder = tempfile::tempdir().unwrap();
    let stage = Stage::start(folder.path(), Setting { args, ..Setting::default() }).await;
    (folder, stage)
}

/// A part with these headers after its name, such as `; filename="x"\r\nContent-Type: text/plain`.
fn part(name: &str, rest: &str, content: &str) -> String {
    format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"{rest}\r\n\r\n{content}\r\n")
}

fn form(parts: &[String]) -> Vec<u8> {
    format!("{}--{BOUNDARY}--\r\n", parts.concat()).into_bytes()
}

async fn post(stage: &Stage, body: impl Into<reqwest::Body>) -> Response {
    let request = stage.client.post(format!("{}/v1/files", stage.url));
    let kind = format!("multipart/form-data; boundary={BOUNDARY}");
    request.header("content-type", kind).body(body).send().await.unwrap()
}

async fn upload(stage: &Stage, parts: &[String]) -> Value {
    let answer = post(stage, form(parts)).await;
    assert_eq!(answer.status(), 201, "{}", answer.text().await.unwrap());
    answer.json().await.unwrap()
}

async fn problem(answer: Response) -> (u16, Value) {
    let status = answer.status().as_u16();
    assert_eq!(answer.headers()["content-type"], "application/problem+json");
    (status, answer.json().await.unwrap())
}

fn folders(data: &Path) -> usize {
    std::fs::read_dir(data.join("files")).unwrap().count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_way_of_a_file() {
    let (folder, stage) = stage(ServeArgs::default()).await;
    let rest = "; filename=\"greeting.txt\"\r\nContent-Type: text/plain";
    let metadata = part("metadata", "\r\nContent-Type: application/json", "{\"customer\": 123, \"tags\": [null]}");
    let file = upload(&stage, &[part("content", rest, "hello"), metadata]).await;
    let keys: Vec<&String> = file.as_object().unwrap().keys().collect();
    let expected = "checksums content_type created_at etag expires_at id metadata name size urls";
    assert_eq!(keys, expected.split(' ').collect::<Vec<_>>());
    assert_eq!(
        (&file["name"], &file["content_type"], &file["size"]),
        (&json!("greeting.txt"), &json!("text/plain"), &json!(5))
    );
    assert_eq!(file["checksums"], json!({"sha256": HELLO_SHA256, "md5": HELLO_MD5}));
    assert_eq!((&file["etag"], &file["metadata"]), (&json!(HELLO_MD5), &json!({"customer": 123, "tags": [null]})));
    let id = file["id"].as_str().unwrap();
    assert_eq!(file["urls"]["get"], format!("{}/v1/files/{id}", stage.url));
    let time = |name: &str| file[name].as_str().unwrap().parse::<Timestamp>().unwrap();
    assert_eq!(time("created_at").duration_until(time("expires_at")), SignedDuration::from_hours(24));

    for base in ["", "/v1", "/replicate/v1", "/v1/v1"] {
        let got: Value = stage.get(&format!("{base}/files/{id}")).send().await.unwrap().json().await.unwrap();
        assert_eq!(got, file, "{base}");
    }
    let second = upload(&stage, &[part("content", "", "")]).await;
    assert_eq!((&second["size"], &second["name"]), (&json!(0), &json!("file")));
    let list: Value = stage.get("/v1/files").send().await.unwrap().json().await.unwrap();
    assert_eq!(list, json!({"next": null, "previous": null, "results": [second, file]}));

    let delete = async || {
        let request = stage.client.delete(format!("{}/v1/files/{id}", stage.url));
        request.send().await.unwrap()
    };
    let download = file["urls"]["download"].as_str().unwrap();
    assert_eq!(stage.client.get(download).send().await.unwrap().text().await.unwrap(), "hello");
    assert_eq!(folders(folder.path()), 2);
    assert_eq!(delete().await.status(), 204);
    assert_eq!(folders(folder.path()), 1);
    for gone in [delete().await, stage.get(&format!("/v1/files/{id}")).send().await.unwrap()] {
        let (status, body) = problem(gone).await;
        assert_eq!((status, &body["detail"]), (404, &json!("File not found")));
    }
    assert_eq!(stage.client.get(download).send().await.unwrap().status(), 404);
    assert_eq!(stage.get("/v1/files/nobody").send().await.unwrap().status(), 404);
    assert_eq!(problem(stage.get("/v1/files?cursor=x").send().await.unwrap()).await.0, 400);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_clients_form_is_understood() {
    let (_folder, stage) = stage(ServeArgs::default()).await;
    let png = "\r\nContent-Type: image/png";
    for (client, parts, name, kind, metadata) in [
        (
            "Python 1.x",
            vec![part("content", &format!("; filename=\"file\"{png}"), "x")],
            "file",
            "image/png",
            json!({}),
        ),
        (
            "JavaScript",
            vec![
                part("content", "; filename=\"buffer_17\"\r\nContent-Type: application/octet-stream", "x"),
                part("metadata", "; filename=\"blob\"\r\nContent-Type: application/json", "{}"),
            ],
            "buffer_17",
            "application/octet-stream",
            json!({}),
        ),
        (
            "Go",
            vec![part("metadata", "", "{\"a\":\"b\"}"), part("content", &format!("; filename=\"a.png\"{png}"), "x")],
            "a.png",
            "image/png",
            json!({"a": "b"}),
        ),
        (
            "curl",
            vec![
                part("type", "", "image/webp"),
                part("content", &format!("; filename=\"/tmp/a.png\"{png}"), "x"),
                part("filename", "", "dir\\b.webp"),
                part("purpose", "", "ignored"),
            ],
            "b.webp",
            "image/webp",
            json!({}),
        ),
        (
            "bare",
            vec![part("content", "", "x"), part("metadata", "", "")],
            "file",
            "application/octet-stream",
            json!({}),
        ),
        (
            "odd",
            vec![part("content", "; filename=\"\"\r\nContent-Type: nonsense", "x")],
            "file",
            "application/octet-stream",
            json!({}),
        ),
    ] {
        let file = upload(&stage, &parts).await;
        assert_eq!((&file["name"], &file["content_type"]), (&json!(name), &json!(kind)), "{client}");
        assert_eq!((&file["metadata"], &file["size"]), (&metadata, &json!(1)), "{client}");
    }
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mistakes_name_the_part() {
    let (folder, stage) = stage(ServeArgs::default()).await;
    let content = || part("content", "; filename=\"a\"", "x");
    for (parts, field, kind, text) in [
        (vec![], "", "required", "- content is required\n"),
        (vec![part("file", "", "x")], "", "required", "- content is required\n"),
        (vec![content(), content()], "content", "array_max_items", "- content: content must be given only once\n"),
        (
            vec![content(), part("metadata", "", "{")],
            "metadata",
            "format",
            "- metadata: Does not match format 'json'\n",
        ),
        (
            vec![content(), part("metadata", "", "[1]")],
            "metadata",
            "invalid_type",
            "- metadata: Invalid type. Expected: object, given: array\n",
        ),
        (vec![content(), part("type", "", "png")], "type", "format", "- type: Does not match format 'mime'\n"),
        (
            vec![content(), part("filename", "", &"x".repeat(256))],
            "filename",
            "string_lte",
            "- filename: String length must be less than or equal to 255\n",
        ),
        (
            vec![content(), part("metadata", "", &" ".repeat(70_000))],
            "metadata",
            "string_lte",
            "- metadata: String length must be less than or equal to 65536\n",
        ),
        (
            vec![part("type", "", "png"), part("metadata", "", "7")],
            "",
            "required",
            "- content is required\n- type: Does not match format 'mime'\n- metadata: Invalid type. Expected: object, given: integer\n",
        ),
    ] {
        let (status, body) = problem(post(&stage, form(&parts)).await).await;
        assert_eq!((status, &body["detail"]), (422, &json!(text)));
        let first = &body["invalid_fields"][0];
        assert_eq!((&first["field"], &first["type"]), (&json!(field), &json!(kind)), "{text}");
    }

    let broken = format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"content\"\r\n\r\nthe rest is miss");
    let (status, body) = problem(post(&stage, broken).await).await;
    assert_eq!(status, 400);
    assert!(
        body["detail"].as_str().unwrap().starts_with("The part \"content\" of the form cannot be read: "),
        "{body}"
    );
    let cut = part("metadata", "", "{}") + "--" + BOUNDARY + "\r\nContent-Disp";
    let (status, body) = problem(post(&stage, cut).await).await;
    assert_eq!(status, 400);
    assert!(body["detail"].as_str().unwrap().starts_with("What follows the part \"metadata\" of the form"), "{body}");
    let json = stage.post("/v1/files", &json!({"content": "x"})).send().await.unwrap();
    let (status, body) = problem(json).await;
    assert_eq!(status, 400);
    assert!(body["detail"].as_str().unwrap().contains("multipart/form-data"), "{body}");
    let list: Value = stage.get("/v1/files").send().await.unwrap().json().await.unwrap();
    assert_eq!(list["results"], json!([]));
    assert!(staged(folder.path()).is_empty(), "nothing of them stays on disk");
    stage.stop().await;
}

/// Files below the folder of uploads.
fn staged(data: &Path) -> Vec<std::path::PathBuf> {
    let inside = |folder: std::fs::DirEntry| std::fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().path());
    std::fs::read_dir(data.join("files")).unwrap().flat_map(|folder| inside(folder.unwrap())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_of_a_hundred_megabytes_are_streamed_and_larger_ones_refused() {
    let (folder, stage) = stage(ServeArgs::default()).await;
    let body = |size: usize| {
        let mut body = form(&[part("content", "", "")]);
        let at = body.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
        body.splice(at..at, vec![b'x'; size]);
        body
    };
    let fits = post(&stage, body(SIZE_LIMIT as usize)).await;
    assert_eq!(fits.status(), 201);
    assert_eq!(fits.json::<Value>().await.unwrap()["size"], SIZE_LIMIT);
    let (status, problem) = problem(post(&stage, body(SIZE_LIMIT as usize + 1)).await).await;
    assert_eq!((status, &problem["detail"]), (413, &json!("Files must be less than 100MB in size")));
    assert_eq!(staged(folder.path()).len(), 1);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_goes_away_leaves_nothing() {
    let (folder, stage) = stage(ServeArgs::default()).await;
    let mut socket = tokio::net::TcpStream::connect(stage.url.trim_start_matches("http://")).await.unwrap();
    let head = format!(
        "POST /v1/files HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\
         Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n"
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    socket.write_all(part("content", "", &"x".repeat(1000)).as_bytes()).await.unwrap();
    for _ in 0..500 {
        if !staged(folder.path()).is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(staged(folder.path()).len(), 1);
    drop(socket);
    for _ in 0..500 {
        if staged(folder.path()).is_empty() {
            stage.stop().await;
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{:?}", staged(folder.path()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_need_the_key_and_downloads_the_signature() {
    let (_folder, stage) = stage(ServeArgs { api_key: vec!["sesame".to_string()], ..ServeArgs::default() }).await;
    assert_eq!(post(&stage, form(&[part("content", "", "x")])).await.status(), 401);
    let request = stage.client.post(format!("{}/v1/files", stage.url)).bearer_auth("sesame");
    let kind = format!("multipart/form-data; boundary={BOUNDARY}");
    let html = part("content", "; filename=\"x.html\"\r\nContent-Type: text/html", "<script>");
    let answer = request.header("content-type", kind).body(form(&[html])).send().await.unwrap();
    let file: Value = answer.json().await.unwrap();
    let path = format!("/v1/files/{}", file["id"].as_str().unwrap());
    assert_eq!(stage.get(&path).send().await.unwrap().status(), 401);

    let url = file["urls"]["download"].as_str().unwrap();
    let whole = stage.client.get(url).send().await.unwrap();
    assert_eq!(whole.status(), 200);
    for (name, value) in [
        ("content-type", "application/octet-stream"),
        ("content-disposition", "attachment"),
        ("x-content-type-options", "nosniff"),
    ] {
        assert_eq!(whole.headers()[name], value, "the browser must not run it");
    }
    let some = stage.client.get(url).header("range", "bytes=1-6").send().await.unwrap();
    assert_eq!((some.status().as_u16(), some.text().await.unwrap().as_str()), (206, "script"));
    let (base, query) = url.split_once('?').unwrap();
    for wrong in [
        query.replace("owner=stablehand", "owner=mallory"),
        query.replace("expiry=", "expiry=9"),
        query.replace("expiry=1", "expiry=-1"),
        query.split_once("&signature").unwrap().0.to_string() + "&signature=AAAA",
    ] {
        assert_eq!(problem(stage.client.get(format!("{base}?{wrong}")).send().await.unwrap()).await.0, 404, "{wrong}");
    }
    for (wrong, named) in [("", "owner"), ("owner=x", "expiry"), ("owner=x&expiry=soon&signature=x", "expiry")] {
        let (status, body) = problem(stage.client.get(format!("{base}?{wrong}")).send().await.unwrap()).await;
        assert!(status == 400 && body["detail"].as_str().unwrap().contains(named), "{wrong}: {body}");
    }
    stage.stop().await;
}

async fn store(folder: &Path) -> Arc<SqliteStore> {
    Arc::new(SqliteStore::open(&folder.join("db.sqlite")).await.unwrap())
}

async fn uploads(folder: &Path, store: &Arc<SqliteStore>, retention: Duration) -> Uploads {
    let blobs = Blobs::local(&folder.join("files")).unwrap();
    Uploads::open(store.clone(), blobs, retention).await.unwrap()
}

async fn keep(uploads: &Uploads, content: &'static [u8]) -> Upload {
    let mut incoming = uploads.begin().await.unwrap();
    incoming.write(Bytes::from_static(content)).await.unwrap();
    uploads.keep(incoming, Description::default()).await.unwrap()
}

#[tokio::test]
async fn expired_files_vanish_unless_a_prediction_still_needs_them() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path()).await;
    let short = uploads(folder.path(), &store, Duration::ZERO).await;
    let (free, needed) = (keep(&short, b"free").await, keep(&short, b"needed").await);
    let url = format!("https://pictures.example.org/replicate/v1/files/{}", needed.id);
    let prediction = NewPrediction { input: json!({"image": url}).as_object().unwrap().clone(), ..new("an astronaut") };
    store.insert(prediction.clone(), 10).await.unwrap();
    for file in [&free, &needed] {
        assert_eq!(short.get(&file.id).await.unwrap(), None, "expired");
    }
    assert!(short.list(None).await.unwrap().files.is_empty());
    assert_eq!(short.sweep().await.unwrap(), 1);
    assert_eq!(store.file(&free.id).await.unwrap(), None);
    assert!(!folder.path().join("files").join(&free.folder).exists());

    let (file, bytes) = short.resolve(&url).await.unwrap().unwrap();
    assert_eq!((file, bytes.bytes().await.unwrap()), (needed.clone(), Bytes::from_static(b"needed")));
    for other in [format!("https://x.org/v1/files/{}", free.id), "https://x.org/a.png".to_string(), "x".to_string()] {
        assert!(short.resolve(&other).await.unwrap().is_none(), "{other}");
    }
    store.request_cancel(&prediction.id).await.unwrap();
    assert_eq!(short.sweep().await.unwrap(), 1);
    assert!(short.resolve(&url).await.unwrap().is_none());
    assert_eq!(folders(folder.path()), 0);
}

#[tokio::test]
async fn a_new_start_keeps_files_and_clears_away_what_was_unfinished() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path()).await;
    let day = Duration::from_secs(86_400);
    let first = uploads(folder.path(), &store, day).await;
    let file = keep(&first, b"kept").await;
    let signed = first.sign(&file);
    let mut half = first.begin().await.unwrap();
    half.write(Bytes::from_static(b"half")).await.unwrap();
    // As a kill would leave it.
    std::mem::forget(half);
    assert_eq!(folders(folder.path()), 2);

    let second = uploads(folder.path(), &store, day).await;
    assert_eq!(folders(folder.path()), 1);
    assert_eq!(second.get(&file.id).await.unwrap().as_ref(), Some(&file));
    assert_eq!(second.signed(&file.id, &signed).await.unwrap(), Some(file), "the secret lasts");
}

#[tokio::test]
async fn lists_of_files_lead_through_all_pages() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path()).await;
    let now = Timestamp::from_microsecond(Timestamp::now().as_microsecond()).unwrap();
    let count = PAGE_SIZE + 20;
    let mut ids = Vec::new();
    for n in 0..count {
        let expires_at = now + SignedDuration::from_secs(if n % 10 == 0 { -1 } else { 60 });
        let file = Upload {
            id: new_file_id(),
            name: n.to_string(),
            content_type: "text/plain".to_string(),
            size: u64::from(u32::MAX) + n as u64,
            sha256: "a".to_string(),
            md5: "b".to_string(),
            metadata: json!({"n": n}).as_object().unwrap().clone(),
            folder: n.to_string(),
            created_at: now,
            expires_at,
        };
        store.insert_file(file.clone()).await.unwrap();
        assert_eq!(store.file(&file.id).await.unwrap().as_ref(), Some(&file));
        if expires_at > now {
            ids.insert(0, file.id);
        }
    }
    assert_eq!(store.file_folders().await.unwrap().len(), count);
    let first = store.list_files(None, now).await.unwrap();
    let second = store.list_files(first.next, now).await.unwrap();
    assert_eq!((first.files.len(), first.previous, second.next), (PAGE_SIZE, None, None));
    let listed: Vec<String> = first.files.iter().chain(&second.files).map(|file| file.id.clone()).collect();
    assert_eq!(listed, ids);
    let back = store.list_files(second.previous, now).await.unwrap();
    assert_eq!(back.files, first.files);
    assert_eq!(store.delete_expired_files(now).await.unwrap().len(), count - ids.len());
}

/// Sends MiBs behind this beginning of a form until the server closes; returns how many, and the answer if it came.
async fn flood(stage: &Stage, beginning: &str) -> (usize, String) {
    let mut socket = tokio::net::TcpStream::connect(stage.url.trim_start_matches("http://")).await.unwrap();
    let head = format!(
        "POST /v1/files HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999999\r\n\
         Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n"
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    socket.write_all(beginning.as_bytes()).await.unwrap();
    let piece = vec![b'x'; 1024 * 1024];
    let mut sent = 0;
    while sent < 1000 && socket.write_all(&piece).await.is_ok() {
        sent += 1;
    }
    let mut answer = String::new();
    // The rest of the body may reset the connection before the answer is read.
    let _ = socket.read_to_string(&mut answer).await;
    (sent, answer)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_of_no_end_are_cut_off() {
    let (_folder, stage) = stage(ServeArgs::default()).await;
    let ignored = part("ignored", "", "");
    let endless_part = ignored.strip_suffix("\r\n").unwrap();
    let endless_header = format!("--{BOUNDARY}\r\nContent-Disposition: ");
    for (beginning, status) in [(endless_part, "413"), (endless_header.as_str(), "400"), ("no boundary", "400")] {
        let (sent, answer) = flood(&stage, beginning).await;
        assert!((199..400).contains(&sent), "{sent} MiB were read");
        assert!(answer.is_empty() || answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
    }
    stage.stop().await;
}
