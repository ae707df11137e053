#![allow(clippy::unwrap_used)]
//! Against servers on this machine: the loopback network has more than one address.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

const LIMITS: Limits = Limits { bytes: 1000, time: Duration::from_secs(5) };

/// As if 127.0.0.1 were the public internet.
fn fetcher() -> Fetcher {
    Fetcher::with_rule(|address| address == IpAddr::from([127, 0, 0, 1]))
}

/// Answers each connection with the same pieces, a pause between them; tells its port and how often it was asked.
async fn server(address: &str, pieces: Vec<String>, pause: Duration) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind((address, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = asked.clone();
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            counter.fetch_add(1, Ordering::SeqCst);
            let pieces = pieces.clone();
            tokio::spawn(async move {
                let mut head = [0u8; 4096];
                let _ = socket.read(&mut head).await;
                for piece in pieces {
                    let _ = socket.write_all(piece.as_bytes()).await;
                    tokio::time::sleep(pause).await;
                }
            });
        }
    });
    (port, asked)
}

fn answer(status: &str, headers: &str, body: &str) -> Vec<String> {
    vec![format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n{headers}\r\n{body}", body.len())]
}

async fn get(url: &str) -> Result<Fetched, FetchError> {
    fetcher().get(url, LIMITS).await
}

#[tokio::test]
async fn bytes_and_their_type_come_back_through_redirects() {
    let (end, _) = server("127.0.0.1", answer("200 OK", "Content-Type: image/png\r\n", "bytes"), Duration::ZERO).await;
    let to_end = format!("Location: http://127.0.0.1:{end}/x\r\n");
    let (start, _) = server("127.0.0.1", answer("302 Found", &to_end, ""), Duration::ZERO).await;
    let fetched = get(&format!("http://127.0.0.1:{start}/#fragment")).await.unwrap();
    assert_eq!((fetched.bytes.as_ref(), fetched.content_type.as_deref()), (&b"bytes"[..], Some("image/png")));
}

#[tokio::test]
async fn private_addresses_are_refused_in_every_spelling() {
    let guarded = Fetcher::new(false);
    for url in [
        "http://127.0.0.1/",
        "http://127.1/",
        "http://0x7f000001/",
        "http://2130706433/",
        "http://017700000001/",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://169.254.169.254/latest/meta-data/",
        "http://0/",
        "http://user@10.0.0.1:80/",
        "https://[fd00:ec2::254]/",
        "http://localhost/",
        "http://LOCALHOST./",
        "http://a.localhost/",
    ] {
        assert!(matches!(guarded.check(url), Err(FetchError::Private(_))), "{url}");
        assert!(matches!(guarded.get(url, LIMITS).await, Err(FetchError::Private(_))), "{url}");
        let posted = guarded.post(url, HeaderMap::new(), Bytes::new(), LIMITS.time).await;
        assert!(matches!(posted, Err(FetchError::Private(_))), "{url}");
        assert_eq!(Fetcher::new(true).check(url), Ok(()), "{url}");
    }
    for url in
        ["file:///etc/passwd", "gopher://x", "ftp://example.org/", "example.org", "", "http://", "//x", "data:,x"]
    {
        assert_eq!(Fetcher::new(true).check(url), Err(FetchError::NotHttp), "{url}");
    }
    assert_eq!(guarded.check("https://example.org:8443/a?b=c#d"), Ok(()));
}

/// The resolver decides, not the text: a name is as private as what it leads to.
#[tokio::test]
async fn a_name_that_leads_to_a_private_address_is_refused() {
    let (port, asked) = server("127.0.0.1", answer("200 OK", "", "secret"), Duration::ZERO).await;
    let mut guard = Guard { allowed: is_public };
    let refused = guard.call("localhost".parse().unwrap()).await.err().unwrap();
    assert!(refused.is::<Refused>(), "{refused}");
    let mut open = Guard { allowed: |_| true };
    assert!(open.call("localhost".parse().unwrap()).await.unwrap().count() > 0);

    // Past the check of the text, the connector still asks the guard.
    let url = Url::parse(&format!("http://localhost:{port}/")).unwrap();
    let sent = Fetcher::new(false).send(Method::GET, url, HeaderMap::new(), Bytes::new()).await;
    assert_eq!(sent.err(), Some(FetchError::Private("localhost".to_string())));
    assert_eq!(asked.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn each_redirect_is_checked_again() {
    let (inner, asked) = server("127.0.0.2", answer("200 OK", "", "secret"), Duration::ZERO).await;
    for target in [format!("http://127.0.0.2:{inner}/"), "file:///etc/passwd".to_string(), "http://[::1]/".to_string()]
    {
        let headers = format!("Location: {target}\r\n");
        let (outer, _) = server("127.0.0.1", answer("307 Temporary Redirect", &headers, ""), Duration::ZERO).await;
        let refused = get(&format!("http://127.0.0.1:{outer}/")).await.unwrap_err();
        assert!(matches!(refused, FetchError::Private(_) | FetchError::NotHttp), "{refused}");
    }
    assert_eq!(asked.load(Ordering::SeqCst), 0);

    let (ring, asked) = server("127.0.0.1", answer("302 Found", "Location: /again\r\n", ""), Duration::ZERO).await;
    assert_eq!(get(&format!("http://127.0.0.1:{ring}/")).await.unwrap_err(), FetchError::Redirects);
    assert_eq!(asked.load(Ordering::SeqCst), REDIRECTS + 1);
    let (nowhere, _) = server("127.0.0.1", answer("302 Found", "", ""), Duration::ZERO).await;
    assert_eq!(get(&format!("http://127.0.0.1:{nowhere}/")).await.unwrap_err(), FetchError::Redirects);
}

#[tokio::test]
async fn a_post_follows_no_redirect() {
    let (inner, asked) = server("127.0.0.1", answer("200 OK", "", ""), Duration::ZERO).await;
    let headers = format!("Location: http://127.0.0.1:{inner}/\r\n");
    let (outer, _) = server("127.0.0.1", answer("302 Found", &headers, ""), Duration::ZERO).await;
    let url = format!("http://127.0.0.1:{outer}/");
    let status = fetcher().post(&url, HeaderMap::new(), Bytes::from_static(b"{}"), LIMITS.time).await.unwrap();
    assert_eq!((status.as_u16(), asked.load(Ordering::SeqCst)), (302, 0));
}

#[tokio::test]
async fn size_and_time_are_limited() {
    let large = "x".repeat(1001);
    let (announced, _) = server("127.0.0.1", answer("200 OK", "", &large), Duration::ZERO).await;
    assert_eq!(get(&format!("http://127.0.0.1:{announced}/")).await.unwrap_err(), FetchError::TooLarge(1000));
    let (silent, _) = server("127.0.0.1", vec![format!("HTTP/1.1 200 OK\r\n\r\n{large}")], Duration::ZERO).await;
    assert_eq!(get(&format!("http://127.0.0.1:{silent}/")).await.unwrap_err(), FetchError::TooLarge(1000));

    let short = Limits { bytes: 1000, time: Duration::from_millis(300) };
    let mut drip = vec!["HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n".to_string()];
    drip.extend(std::iter::repeat_n("x".to_string(), 100));
    let mut slow_head = vec!["HTTP/1.1 200 OK\r\n".to_string()];
    slow_head.extend((0..100).map(|n| format!("x-{n}: y\r\n")));
    for pieces in [drip, slow_head, vec![]] {
        let (port, _) = server("127.0.0.1", pieces, Duration::from_millis(50)).await;
        let begun = Instant::now();
        let url = format!("http://127.0.0.1:{port}/");
        let error = fetcher().get(&url, short).await.unwrap_err();
        // A server that says nothing closes the connection instead.
        assert!(matches!(error, FetchError::TooSlow(_) | FetchError::Unreachable(_)), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(2));
    }
}

#[tokio::test]
async fn what_goes_wrong_is_told() {
    let (broken, _) = server("127.0.0.1", answer("404 Not Found", "", ""), Duration::ZERO).await;
    assert_eq!(get(&format!("http://127.0.0.1:{broken}/")).await.unwrap_err(), FetchError::Status(404));
    let no_tls = get(&format!("https://127.0.0.1:{broken}/")).await.unwrap_err();
    assert!(matches!(no_tls, FetchError::Unreachable(_)), "{no_tls}");
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let error = get(&format!("http://127.0.0.1:{closed}/")).await.unwrap_err();
    assert!(matches!(error, FetchError::Unreachable(_)) && error.is_retryable(), "{error}");
    let (garbage, _) = server("127.0.0.1", vec!["not HTTP at all\r\n\r\n".to_string()], Duration::ZERO).await;
    assert!(matches!(get(&format!("http://127.0.0.1:{garbage}/")).await, Err(FetchError::Unreachable(_))));
}

#[test]
fn credentials_become_a_header() {
    let mut url = Url::parse("https://user:p%40ss@example.org/x").unwrap();
    assert_eq!(take_credentials(&mut url).unwrap(), "Basic dXNlcjpwQHNz");
    assert_eq!(url.as_str(), "https://example.org/x");
    assert_eq!(take_credentials(&mut url), None);
}
