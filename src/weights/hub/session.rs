//! Requests to the hub: what a repository has, what a file is, and its bytes from some offset on. Sends the token to the
//! hub and to nobody else; follows redirects; is never silent for longer than the options say.

use std::io::Read;

use hf_hub::Repo;
use serde::Deserialize;
use ureq::http::{Response, Uri};
use ureq::{Agent, Body};

use super::{HubError, HubOptions};

/// Redirects that are followed before they count as a loop.
const REDIRECTS: usize = 8;

/// The hub and who asks it.
pub(super) struct Session {
    agent: Agent,
    endpoint: String,
    token: Option<String>,
    pub retries: u32,
}

/// What a repository has at a revision.
pub(super) struct Listing {
    pub commit: String,
    pub files: Vec<String>,
}

/// A file of a repository.
pub(super) struct Remote {
    pub path: String,
    pub url: String,
    pub size: u64,
    /// SHA-256 of large files, the git hash of small ones: the name of the file's blob in the cache.
    pub etag: String,
}

/// The part of the hub's answer to "what is in this repository" that is read.
#[derive(Deserialize)]
struct Info {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

impl Session {
    pub fn new(options: &HubOptions) -> Session {
        let wait = Some(options.timeout);
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_connect(wait)
            .timeout_recv_response(wait)
            .timeout_per_read(wait)
            .user_agent(concat!("stablehand/", env!("CARGO_PKG_VERSION")))
            .build();
        Session {
            agent: config.into(),
            endpoint: options.endpoint.clone(),
            token: options.token.clone(),
            retries: options.retries,
        }
    }

    /// The files of a repository and the commit that its revision means.
    pub fn listing(&self, repo: &Repo) -> Result<Listing, HubError> {
        let url = format!("{}/api/{}", self.endpoint, repo.api_url());
        let mut answer = self.retrying(|| checked(&url, self.send("GET", &url, None, true)?, self.token.is_some()))?;
        let text = answer.body_mut().read_to_string().map_err(|e| error(&url, e))?;
        let info: Info = serde_json::from_str(&text)
            .map_err(|e| HubError::Protocol { url: url.clone(), reason: format!("a listing was expected: {e}") })?;
        let commit = plain_name(&url, "the commit", &info.sha)?;
        Ok(Listing { commit, files: info.siblings.into_iter().map(|s| s.rfilename).collect() })
    }

    /// Size and hash of a file at a commit.
    pub fn describe(&self, repo: &Repo, commit: &str, path: &str) -> Result<Remote, HubError> {
        let url = format!("{}/{}/resolve/{commit}/{path}", self.endpoint, repo.url());
        // Only the hub's own answer has the hash; the store that it redirects to does not.
        let answer = self.retrying(|| checked(&url, self.send("HEAD", &url, None, false)?, self.token.is_some()))?;
        let header = |names: [&str; 2]| {
            let value = names.iter().find_map(|name| answer.headers().get(*name))?.to_str().ok()?;
            Some(value.trim_start_matches("W/").trim_matches('"').to_string())
        };
        let lacks = |what: &str| HubError::Protocol { url: url.clone(), reason: format!("the answer has no {what}") };
        let etag = header(["x-linked-etag", "etag"]).ok_or_else(|| lacks("ETag"))?;
        let size = header(["x-linked-size", "content-length"]).and_then(|size| size.parse().ok());
        let (path, size) = (path.to_string(), size.ok_or_else(|| lacks("size"))?);
        Ok(Remote { path, size, etag: plain_name(&url, "the ETag", &etag)?, url })
    }

    /// The bytes of a file from `start` on, and where they really start: 0 when the server knows no ranges.
    pub fn open(&self, url: &str, start: u64) -> Result<(u64, impl Read + use<>), HubError> {
        let range = (start > 0).then(|| format!("bytes={start}-"));
        let answer = checked(url, self.send("GET", url, range, true)?, self.token.is_some())?;
        let starts = match answer.status().as_u16() {
            206 => {
                let range = answer.headers().get("content-range").and_then(|value| value.to_str().ok());
                let first = range.and_then(|range| range.strip_prefix("bytes ")?.split('-').next()?.parse().ok());
                first.unwrap_or(start)
            }
            _ => 0,
        };
        if starts != 0 && starts != start {
            let reason = format!("bytes from {start} on were asked for, it sends them from {starts} on");
            return Err(HubError::Protocol { url: url.to_string(), reason });
        }
        Ok((starts, answer.into_body().into_with_config().limit(u64::MAX).reader()))
    }

    /// Runs a request again, after a while, when it fails in a way that may pass.
    pub fn retrying<T>(&self, mut request: impl FnMut() -> Result<T, HubError>) -> Result<T, HubError> {
        let mut failures = 0;
        loop {
            match request() {
                Err(e) if e.is_retryable() && failures < self.retries.min(2) => failures += 1,
                other => return other,
            }
            wait(failures);
        }
    }

    /// One request and the redirects that follow: all of them, or only those inside the hub. Any status is a success.
    fn send(
        &self,
        method: &str,
        url: &str,
        range: Option<String>,
        leave_hub: bool,
    ) -> Result<Response<Body>, HubError> {
        let mut at = url.to_string();
        for _ in 0..REDIRECTS {
            let mut request = match method {
                "HEAD" => self.agent.head(&at),
                _ => self.agent.get(&at),
            };
            // Compression would change sizes and ranges.
            request = request.header("accept-encoding", "identity");
            if let Some(range) = &range {
                request = request.header("range", range);
            }
            if let Some(token) = self.token.as_ref().filter(|_| same_host(&at, url)) {
                request = request.header("authorization", format!("Bearer {token}"));
            }
            let answer = request.call().map_err(|e| error(&at, e))?;
            let next = answer.headers().get("location").and_then(|value| value.to_str().ok()).map(str::to_string);
            match next {
                Some(next) if answer.status().is_redirection() => {
                    let inside = next.starts_with('/') && !next.starts_with("//");
                    if !inside && !leave_hub {
                        return Ok(answer);
                    }
                    at = if inside { format!("{}{next}", origin(&at)) } else { next };
                }
                _ => return Ok(answer),
            }
        }
        Err(HubError::Protocol { url: url.to_string(), reason: "it redirects in circles".to_string() })
    }
}

/// Waits before the next of several tries: a tenth of a second, then longer, up to five seconds.
pub(super) fn wait(failures: u32) {
    let millis = (100u64 << failures.min(6)).min(5000);
    std::thread::sleep(std::time::Duration::from_millis(millis));
}

fn checked(url: &str, answer: Response<Body>, with_token: bool) -> Result<Response<Body>, HubError> {
    let (url, status) = (url.to_string(), answer.status().as_u16());
    match status {
        200..=399 => Ok(answer),
        401 | 403 if with_token => Err(HubError::NoAccess { url, status }),
        401 | 403 => Err(HubError::NoToken { url, status }),
        404 | 410 => Err(HubError::NotFound { url }),
        _ => Err(HubError::Status { url, status }),
    }
}

fn error(url: &str, error: ureq::Error) -> HubError {
    let url = url.to_string();
    match error {
        ureq::Error::Timeout(_) => HubError::TimedOut { url },
        other => HubError::Unreachable { url, reason: other.to_string() },
    }
}

fn same_host(one: &str, other: &str) -> bool {
    let origin =
        |url: &str| url.parse::<Uri>().ok().and_then(|uri| Some((uri.scheme()?.clone(), uri.authority()?.clone())));
    origin(one).is_some() && origin(one) == origin(other)
}

/// `scheme://host:port` of an address.
fn origin(url: &str) -> &str {
    let after = url.find("://").map_or(0, |at| at + 3);
    url[after..].find('/').map_or(url, |slash| &url[..after + slash])
}

/// A hash from outside becomes the name of a file: it must be nothing but letters, digits and dashes.
fn plain_name(url: &str, what: &str, name: &str) -> Result<String, HubError> {
    let plain = !name.is_empty() && name.len() <= 128 && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    match plain {
        true => Ok(name.to_string()),
        false => Err(HubError::Protocol { url: url.to_string(), reason: format!("{what} is {name:?}") }),
    }
}
