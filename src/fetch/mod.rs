//! The only outbound HTTP besides the model hub's, kept away from private networks (SSRF).
//!
//! Users name the addresses, so only public ones are connected to. The guard sits in the resolver: what is checked is
//! what is connected to, and a name that changes its mind between the two is of no use. Addresses written as numbers do
//! not go through a resolver and are checked in the URL, as is each redirect. No proxy is asked and no connection kept.

mod address;

use std::error::Error as StdError;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, LOCATION, USER_AGENT};
use hyper::header::{HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, body::Incoming};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::rt::TokioExecutor;
use percent_encoding::percent_decode_str;
use tower::Service;
use url::{Host, Url};

pub use address::is_public;

/// For a connection to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Redirects that a [`Fetcher::get`] follows.
const REDIRECTS: usize = 5;

/// Bytes that the head of an answer may have.
const HEAD_LIMIT: usize = 32 * 1024;

const AGENT: &str = concat!("stablehand/", env!("CARGO_PKG_VERSION"));

/// What an answer may cost.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of its body.
    pub bytes: usize,
    /// From the first look-up to the last byte: whoever drips does not gain time.
    pub time: Duration,
}

/// What came back.
#[derive(Debug, Clone)]
pub struct Fetched {
    pub content_type: Option<String>,
    pub bytes: Bytes,
}

/// Why nothing came back. The text is for users.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    #[error("it is not an http or https address")]
    NotHttp,
    #[error(
        "{0} is not on the public internet, and this server does not reach private networks (--allow-private-network)"
    )]
    Private(String),
    #[error("it redirects too often or to nowhere")]
    Redirects,
    #[error("it answered with status {0}")]
    Status(u16),
    #[error("it is larger than {0} bytes")]
    TooLarge(usize),
    #[error("it did not answer in full within {} seconds", .0.as_secs_f64())]
    TooSlow(Duration),
    #[error("it cannot be reached: {0}")]
    Unreachable(String),
}

impl FetchError {
    /// Whether another attempt may go better.
    pub fn is_retryable(&self) -> bool {
        match self {
            FetchError::NotHttp | FetchError::Private(_) | FetchError::Redirects | FetchError::TooLarge(_) => false,
            FetchError::Status(status) => *status >= 500 || [408, 429].contains(status),
            FetchError::TooSlow(_) | FetchError::Unreachable(_) => true,
        }
    }
}

/// Whether an address may be connected to.
type Rule = fn(IpAddr) -> bool;

fn anywhere(_: IpAddr) -> bool {
    true
}

/// Makes outbound requests. Clones share nothing but the rules.
#[derive(Clone)]
pub struct Fetcher {
    client: Client<HttpsConnector<HttpConnector<Guard>>, Full<Bytes>>,
    allowed: Rule,
}

impl Fetcher {
    /// Reaches public addresses only, unless the private network is allowed.
    pub fn new(allow_private_network: bool) -> Fetcher {
        Fetcher::with_rule(if allow_private_network { anywhere } else { is_public })
    }

    fn with_rule(allowed: Rule) -> Fetcher {
        let mut http = HttpConnector::new_with_resolver(Guard { allowed });
        http.enforce_http(false);
        http.set_connect_timeout(Some(CONNECT_TIMEOUT));
        http.set_nodelay(true);
        let tls = match HttpsConnectorBuilder::new().with_native_roots() {
            Ok(builder) => builder,
            // A bare container has no certificates of its own.
            Err(_) => HttpsConnectorBuilder::new().with_webpki_roots(),
        };
        let client = Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(0)
            .http1_max_buf_size(HEAD_LIMIT)
            .build(tls.https_or_http().enable_http1().wrap_connector(http));
        Fetcher { client, allowed }
    }

    /// Whether this address could be reached as far as its text tells. A name may still lead to a private address,
    /// which only shows when it is connected to.
    pub fn check(&self, url: &str) -> Result<(), FetchError> {
        self.parse(url).map(drop)
    }

    /// The bytes at `url`, through redirects.
    pub async fn get(&self, url: &str, limits: Limits) -> Result<Fetched, FetchError> {
        within(limits.time, self.follow(self.parse(url)?, limits.bytes)).await
    }

    /// Posts a body and returns the status; the answer's body is not read and redirects are not followed.
    pub async fn post(
        &self,
        url: &str,
        headers: HeaderMap,
        body: Bytes,
        time: Duration,
    ) -> Result<StatusCode, FetchError> {
        let sent = self.send(Method::POST, self.parse(url)?, headers, body);
        within(time, async { Ok(sent.await?.status()) }).await
    }

    async fn follow(&self, mut url: Url, limit: usize) -> Result<Fetched, FetchError> {
        for _ in 0..=REDIRECTS {
            let response = self.send(Method::GET, url.clone(), HeaderMap::new(), Bytes::new()).await?;
            match response.status() {
                status if status.is_success() => return read(response, limit).await,
                StatusCode::MOVED_PERMANENTLY
                | StatusCode::FOUND
                | StatusCode::SEE_OTHER
                | StatusCode::TEMPORARY_REDIRECT
                | StatusCode::PERMANENT_REDIRECT => {
                    let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
                    let next = location.and_then(|text| url.join(text).ok()).ok_or(FetchError::Redirects)?;
                    url = self.checked(next)?;
                }
                other => return Err(FetchError::Status(other.as_u16())),
            }
        }
        Err(FetchError::Redirects)
    }

    async fn send(
        &self,
        method: Method,
        mut url: Url,
        mut headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response<Incoming>, FetchError> {
        if let Some(credentials) = take_credentials(&mut url) {
            headers.insert(AUTHORIZATION, credentials);
        }
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let request = Request::builder().method(method).uri(url.as_str()).body(Full::new(body));
        let mut request = request.map_err(|error| unreachable(&error))?;
        request.headers_mut().extend(headers);
        self.client.request(request).await.map_err(|error| match refused(&error) {
            Some(refused) => FetchError::Private(refused.0.clone()),
            None => unreachable(&error),
        })
    }

    fn parse(&self, url: &str) -> Result<Url, FetchError> {
        self.checked(Url::parse(url).map_err(|_| FetchError::NotHttp)?)
    }

    /// Scheme and literal address of a URL; `url` has made `0x7f.1` and its like plain.
    fn checked(&self, mut url: Url) -> Result<Url, FetchError> {
        if !["http", "https"].contains(&url.scheme()) {
            return Err(FetchError::NotHttp);
        }
        url.set_fragment(None);
        let address = match url.host() {
            None => return Err(FetchError::NotHttp),
            // Names are for the resolver, except the one that can only mean this machine.
            Some(Host::Domain(name)) => match is_localhost(name) {
                true => IpAddr::from([127, 0, 0, 1]),
                false => return Ok(url),
            },
            Some(Host::Ipv4(address)) => IpAddr::V4(address),
            Some(Host::Ipv6(address)) => IpAddr::V6(address),
        };
        if !(self.allowed)(address) {
            return Err(FetchError::Private(url.host_str().unwrap_or_default().to_string()));
        }
        Ok(url)
    }
}

fn is_localhost(name: &str) -> bool {
    let name = name.trim_end_matches('.');
    name.eq_ignore_ascii_case("localhost") || name.to_ascii_lowercase().ends_with(".localhost")
}

/// Credentials in a URL as the header that they stand for.
fn take_credentials(url: &mut Url) -> Option<HeaderValue> {
    if url.username().is_empty() && url.password().is_none() {
        return None;
    }
    let mut plain: Vec<u8> = percent_decode_str(url.username()).collect();
    plain.push(b':');
    plain.extend(percent_decode_str(url.password().unwrap_or_default()));
    // Both fail only for URLs without a host.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(plain))).ok()
}

async fn read(response: Response<Incoming>, limit: usize) -> Result<Fetched, FetchError> {
    let announced = response.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|bytes| bytes > limit as u64) {
        return Err(FetchError::TooLarge(limit));
    }
    let content_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).map(str::to_string);
    let body = Limited::new(response.into_body(), limit).collect().await;
    let bytes = body.map_err(|error| match error.is::<LengthLimitError>() {
        true => FetchError::TooLarge(limit),
        false => unreachable(error.as_ref()),
    })?;
    Ok(Fetched { content_type, bytes: bytes.to_bytes() })
}

async fn within<T>(time: Duration, work: impl Future<Output = Result<T, FetchError>>) -> Result<T, FetchError> {
    tokio::time::timeout(time, work).await.unwrap_or(Err(FetchError::TooSlow(time)))
}

/// The last cause of an error: what the layers above it say is only that something went wrong.
fn unreachable(error: &(dyn StdError + 'static)) -> FetchError {
    FetchError::Unreachable(causes(error).last().unwrap_or(error).to_string())
}

fn refused<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a Refused> {
    causes(error).find_map(|cause| cause.downcast_ref())
}

/// An error and what is behind it.
fn causes<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&cause| cause.source())
}

/// A name all of whose addresses are private.
#[derive(Debug, thiserror::Error)]
#[error("{0} leads to a private address")]
struct Refused(String);

/// A resolver that gives out allowed addresses only.
#[derive(Clone)]
struct Guard {
    allowed: Rule,
}

impl Service<Name> for Guard {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = Box<dyn StdError + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let allowed = self.allowed;
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let good: Vec<SocketAddr> = found.iter().copied().filter(|address| allowed(address.ip())).collect();
            match good.is_empty() && !found.is_empty() {
                true => Err(Refused(name.as_str().to_string()).into()),
                false => Ok(good.into_iter()),
            }
        })
    }
}

#[cfg(test)]
mod tests;
