//! A receiver of webhooks that behaves as its paths say: `/ok`, `/fail/2` (twice, then well), `/hang`, `/drip`,
//! `/redirect`.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Response, StatusCode};
use futures::StreamExt;
use serde_json::Value;

/// One attempt, as it arrived.
#[derive(Debug, Clone)]
pub struct Message {
    pub path: String,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub at: Instant,
}

impl Message {
    pub fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

#[derive(Default)]
struct Heard {
    messages: Vec<Message>,
    /// Attempts by path.
    attempts: HashMap<String, usize>,
    /// While set, everything fails.
    broken: bool,
}

/// The receiver, on a port of its own.
pub struct Receiver {
    pub url: String,
    heard: Arc<Mutex<Heard>>,
}

impl Receiver {
    pub async fn start() -> Receiver {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let heard = Arc::new(Mutex::new(Heard::default()));
        let router = Router::new().fallback(hear).with_state(heard.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Receiver { url, heard }
    }

    pub fn hook(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    pub fn set_broken(&self, broken: bool) {
        self.heard.lock().unwrap().broken = broken;
    }

    /// What was heard so far.
    pub fn messages(&self) -> Vec<Message> {
        self.heard.lock().unwrap().messages.clone()
    }

    /// Waits until as many messages as wished were heard.
    pub async fn wait_for(&self, count: usize) -> Vec<Message> {
        self.wait_until(|messages| messages.len() >= count).await
    }

    pub async fn wait_until(&self, wished: impl Fn(&[Message]) -> bool) -> Vec<Message> {
        let begun = Instant::now();
        loop {
            let messages = self.messages();
            if wished(&messages) {
                return messages;
            }
            let heard: Vec<&String> = messages.iter().map(|m| &m.path).collect();
            assert!(begun.elapsed() < Duration::from_secs(120), "waited in vain: {heard:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

async fn hear(State(heard): State<Arc<Mutex<Heard>>>, request: Request) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    let path = parts.uri.path().to_string();
    let (attempt, broken) = {
        let mut heard = heard.lock().unwrap();
        let attempt = heard.attempts.entry(path.clone()).or_default();
        *attempt += 1;
        let attempt = *attempt;
        heard.messages.push(Message { path: path.clone(), headers: parts.headers, body, at: Instant::now() });
        (attempt, heard.broken)
    };
    let status = |code: StatusCode| Response::builder().status(code);
    let fails = path.strip_prefix("/fail/").and_then(|times| times.parse::<usize>().ok());
    match path.as_str() {
        _ if broken || fails.is_some_and(|times| attempt <= times) => {
            status(StatusCode::INTERNAL_SERVER_ERROR).body(Body::empty()).unwrap()
        }
        "/hang" => std::future::pending().await,
        "/drip" => {
            let drops = futures::stream::repeat(Ok::<_, Infallible>(Bytes::from_static(b"x")));
            let slow = drops.then(async |drop| {
                tokio::time::sleep(Duration::from_millis(100)).await;
                drop
            });
            status(StatusCode::OK).body(Body::from_stream(slow)).unwrap()
        }
        "/redirect" => status(StatusCode::FOUND).header("location", "/private").body(Body::empty()).unwrap(),
        _ => status(StatusCode::OK).body(Body::empty()).unwrap(),
    }
}
