//! How a client reaches us: the origin of the URLs that it is given, the form of outputs that it can use, its address.
//!
//! What proxies say about a request is believed only of those that the operator trusts.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use axum::extract::{ConnectInfo, FromRequestParts};
use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, header};
use ipnet::IpNet;

use super::ApiState;
use super::problem::Problem;

/// How outputs are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OutputUrls {
    /// As data URIs to those who cannot use http URLs, else as URLs.
    #[default]
    Auto,
    Url,
    Data,
}

/// Scheme, host and port that this client reaches us by, without a slash at the end, and how it is to be given outputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    base: String,
    inline_outputs: bool,
}

impl Origin {
    /// `text` is scheme, host and port. Outputs are URLs.
    pub fn new(text: &str) -> Origin {
        Origin { base: text.trim_end_matches('/').to_string(), inline_outputs: false }
    }

    pub fn as_str(&self) -> &str {
        &self.base
    }

    /// `path` begins with a slash.
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// The URL of an output that is kept at this path.
    pub fn output(&self, path: &str) -> String {
        self.url(&format!("/outputs/{path}"))
    }

    /// Whether this client is to be given outputs as data URIs.
    pub fn inline_outputs(&self) -> bool {
        self.inline_outputs
    }

    pub fn of(parts: &Parts, state: &ApiState) -> Result<Origin, Problem> {
        let mut origin = match &state.public_url {
            Some(public) => Origin::new(public),
            None => {
                let told = Forwarding::of(&parts.headers, peer(parts), &state.trusted_proxies);
                Origin::new(&told.unwrap_or_default().base(parts)?)
            }
        };
        let agent = parts.headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
        origin.inline_outputs = match state.output_urls {
            OutputUrls::Url => false,
            OutputUrls::Data => true,
            OutputUrls::Auto => origin.base.starts_with("http:") && needs_https(agent),
        };
        Ok(origin)
    }
}

impl FromRequestParts<ApiState> for Origin {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Origin, Problem> {
        Origin::of(parts, state)
    }
}

/// Official clients whose `run()` makes file objects of `https:` and `data:` outputs only and hands http URLs on as
/// strings: Python and JavaScript from 1.0 on.
fn needs_https(agent: &str) -> bool {
    // The client behind the functions of Python 2's module calls itself `_ModuleClient`.
    ["replicate-python/", "replicate-javascript/", "Replicate/Python ", "_ModuleClient/Python "].iter().any(|name| {
        let version = agent.split_once(name).map(|(_, version)| version).unwrap_or_default();
        let major = version.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
        major.parse::<u32>().is_ok_and(|major| major >= 1)
    })
}

/// The address of who sent a request: of the client if a trusted proxy tells, else of the peer.
pub fn client_address(parts: &Parts, state: &ApiState) -> IpAddr {
    let peer = peer(parts);
    Forwarding::of(&parts.headers, peer, &state.trusted_proxies).and_then(|told| told.client).unwrap_or(peer)
}

/// Who opened the connection. A server without connections, as in tests, has peers without an address.
fn peer(parts: &Parts) -> IpAddr {
    let known = parts.extensions.get::<ConnectInfo<SocketAddr>>();
    known.map_or(Ipv4Addr::UNSPECIFIED.into(), |ConnectInfo(address)| address.ip().to_canonical())
}

/// What a trusted proxy says about the request that it passes on. Of lists only the last item counts: it is the proxy's
/// own, while those before it may be anyone's.
#[derive(Debug, Default, PartialEq)]
struct Forwarding {
    scheme: Option<&'static str>,
    host: Option<Authority>,
    port: Option<u16>,
    client: Option<IpAddr>,
}

impl Forwarding {
    /// `Forwarded` (RFC 7239), or what it does not say from `X-Forwarded-*`. `None`: the peer is not trusted.
    fn of(headers: &HeaderMap, peer: IpAddr, trusted: &[IpNet]) -> Option<Forwarding> {
        if !trusted.iter().any(|net| net.contains(&peer)) {
            return None;
        }
        let element = last(headers, "forwarded").unwrap_or_default();
        let said = |parameter, header| named(element, parameter).or_else(|| last(headers, header));
        Some(Forwarding {
            scheme: said("proto", "x-forwarded-proto")
                .and_then(|given| ["https", "http"].into_iter().find(|known| known.eq_ignore_ascii_case(given))),
            host: said("host", "x-forwarded-host").and_then(|host| authority(host.as_bytes())),
            port: last(headers, "x-forwarded-port").and_then(|port| port.parse().ok()),
            client: said("for", "x-forwarded-for").and_then(address),
        })
    }

    /// The origin that the client used.
    fn base(self, parts: &Parts) -> Result<String, Problem> {
        let scheme = self.scheme.unwrap_or("http");
        let host = match self.host {
            Some(host) => host,
            None => own_host(parts)?,
        };
        let usual = if scheme == "https" { 443 } else { 80 };
        let port = self.port.filter(|port| host.port().is_none() && *port != usual);
        Ok(match port {
            Some(port) => format!("{scheme}://{host}:{port}"),
            None => format!("{scheme}://{host}"),
        })
    }
}

/// The host that the request itself names.
fn own_host(parts: &Parts) -> Result<Authority, Problem> {
    match parts.headers.get(header::HOST) {
        Some(host) => authority(host.as_bytes()).ok_or_else(|| Problem::bad_request("the Host header is no host")),
        None => match parts.uri.authority() {
            Some(found) => authority(found.as_str().as_bytes()),
            None => None,
        }
        .ok_or_else(|| Problem::bad_request("the request has no Host header")),
    }
}

/// Host and port, without the credentials that may stand before them.
fn authority(text: &[u8]) -> Option<Authority> {
    let whole = Authority::try_from(text).ok()?;
    match whole.as_str().rsplit_once('@') {
        Some((_, host)) => host.parse().ok(),
        None => Some(whole),
    }
}

/// The last item of the last header of that name.
fn last<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let line = headers.get_all(name).iter().next_back().map(HeaderValue::to_str)?.ok()?;
    let item = split_unquoted(line, ',').last().unwrap_or_default().trim();
    (!item.is_empty()).then_some(item)
}

/// The value of a parameter in an element of `Forwarded`.
fn named<'a>(element: &'a str, name: &str) -> Option<&'a str> {
    split_unquoted(element, ';').find_map(|pair| {
        let (given, value) = pair.split_once('=')?;
        given.trim().eq_ignore_ascii_case(name).then(|| value.trim().trim_matches('"'))
    })
}

fn split_unquoted(text: &str, at: char) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    text.split(move |c| {
        quoted ^= c == '"';
        c == at && !quoted
    })
}

/// An address with or without a port, an IPv6 one perhaps in brackets.
fn address(text: &str) -> Option<IpAddr> {
    let plain = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let found = plain.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()));
    found.map(|ip: IpAddr| ip.to_canonical())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use axum::http::Request;
    use proptest::prelude::*;

    const PROXY: [u8; 4] = [10, 1, 2, 3];

    fn parts(headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().uri("/v1/predictions");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn base(peer: [u8; 4], headers: &[(&str, &str)]) -> String {
        let parts = parts(headers);
        let told = Forwarding::of(&parts.headers, peer.into(), &["10.0.0.0/8".parse().unwrap()]);
        told.unwrap_or_default().base(&parts).unwrap()
    }

    #[test]
    fn proxies_are_believed_only_when_trusted() {
        let host = ("host", "inner:8000");
        for (headers, expected) in [
            (vec![host], "http://inner:8000"),
            (vec![host, ("x-forwarded-proto", "https")], "https://inner:8000"),
            (vec![host, ("x-forwarded-proto", "HTTPS"), ("x-forwarded-host", "x.org")], "https://x.org"),
            (vec![host, ("x-forwarded-host", "evil.org, x.org:81")], "http://x.org:81"),
            (vec![host, ("x-forwarded-host", "evil.org"), ("x-forwarded-host", "x.org")], "http://x.org"),
            (
                vec![("host", "x.org"), ("x-forwarded-port", "8443"), ("x-forwarded-proto", "https")],
                "https://x.org:8443",
            ),
            (vec![("host", "x.org"), ("x-forwarded-port", "443"), ("x-forwarded-proto", "https")], "https://x.org"),
            (vec![host, ("x-forwarded-port", "9")], "http://inner:8000"),
            (vec![host, ("forwarded", "for=1.2.3.4;Host=\"x.org:8443\";PROTO=https")], "https://x.org:8443"),
            (vec![host, ("forwarded", "host=evil.org;proto=http, for=\"[::1]:5\";proto=https")], "https://inner:8000"),
            (vec![host, ("forwarded", "proto=https"), ("x-forwarded-host", "x.org")], "https://x.org"),
            (vec![host, ("x-forwarded-proto", "javascript"), ("x-forwarded-host", "a<b>")], "http://inner:8000"),
            (vec![host, ("x-forwarded-host", "me:secret@x.org")], "http://x.org"),
        ] {
            assert_eq!(base(PROXY, &headers), expected, "{headers:?}");
            assert_eq!(base([11, 0, 0, 1], &headers), format!("http://{}", headers[0].1), "{headers:?}");
        }
    }

    #[test]
    fn a_request_names_its_host() {
        let none = Forwarding::default();
        assert!(none.base(&parts(&[])).is_err());
        for wrong in ["a<b>", "", "x:y:z"] {
            assert!(Forwarding::default().base(&parts(&[("host", wrong)])).is_err(), "{wrong}");
        }
        assert_eq!(Forwarding::default().base(&parts(&[("host", "a:b@[::1]:80")])).unwrap(), "http://[::1]:80");
    }

    #[test]
    fn clients_behind_a_trusted_proxy_have_an_address() {
        let client = |headers: &[(&str, &str)]| {
            let told = Forwarding::of(&parts(headers).headers, PROXY.into(), &["10.0.0.0/8".parse().unwrap()]);
            told.and_then(|told| told.client).map(|ip| ip.to_string())
        };
        assert_eq!(client(&[("x-forwarded-for", "6.6.6.6, 1.2.3.4")]).as_deref(), Some("1.2.3.4"));
        assert_eq!(client(&[("forwarded", "for=\"[2001:db8::1]:4711\"")]).as_deref(), Some("2001:db8::1"));
        assert_eq!(client(&[("forwarded", "for=1.2.3.4:80")]).as_deref(), Some("1.2.3.4"));
        for unknown in ["unknown", "_hidden", "", "::ffff:", "[]"] {
            assert_eq!(client(&[("x-forwarded-for", unknown)]), None, "{unknown}");
        }
        assert!(Forwarding::of(&HeaderMap::new(), [11, 0, 0, 1].into(), &["10.0.0.0/8".parse().unwrap()]).is_none());
    }

    #[test]
    fn some_official_clients_need_https_or_data() {
        for agent in [
            "replicate-python/1.0.7",
            "replicate-python/2.0.0",
            "Replicate/Python 2.0.0-beta.4",
            "AsyncReplicate/Python 2.0.0-beta.4",
            "_ModuleClient/Python 2.0.0-beta.4",
            "replicate-javascript/1.4.0",
            "replicate-javascript/10.0.0",
            "wrapper/0.1 replicate-python/1.0.0",
        ] {
            assert!(needs_https(agent), "{agent}");
        }
        for agent in [
            "",
            "curl/8.5.0",
            "replicate-python/0.34.2",
            "replicate-javascript/0.34.1",
            "replicate/go",
            "Replicate/JS 0.9.0",
            "replicate-cli/1.0",
            "replicate-python/",
            "ai/7.0 ai-sdk/provider-utils/3.0",
        ] {
            assert!(!needs_https(agent), "{agent}");
        }
    }

    proptest! {
        #[test]
        fn no_header_panics(value in "[ -~]{0,60}", pieces in "[=;,\"\\[\\]:a-z0-9.@ ]{0,40}") {
            for text in [value, pieces] {
                let headers = ["forwarded", "x-forwarded-host", "x-forwarded-for", "host"].map(|name| (name, text.as_str()));
                let parts = parts(&headers);
                let told = Forwarding::of(&parts.headers, PROXY.into(), &["10.0.0.0/8".parse().unwrap()]);
                let _ = told.unwrap_or_default().base(&parts);
                let _ = needs_https(&text);
            }
        }
    }
}
