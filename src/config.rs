//! Every setting of the server, its default and its validation: flags over environment over file.
//!
//! All mistakes are reported at once. Knows nothing of what the settings are for.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use jiff::SignedDuration;

/// The settings as they were given: each is a text, so that none of them hides the mistakes of the others.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ServeArgs {
    /// A TOML file with the settings below, by their long names (`data-dir = "…"`)
    #[arg(long, env = "STABLEHAND_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Address and port to listen on; port 0 takes a free one [default: 127.0.0.1:8000]
    #[arg(long, env = "STABLEHAND_LISTEN", value_name = "ADDRESS")]
    pub listen: Option<String>,
    /// Folder of the database and the pictures [default: ./data]
    #[arg(long, env = "STABLEHAND_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<String>,
    /// Model to serve: a name that `stablehand models list` knows, or a folder in diffusers layout [default: the
    /// built-in one]
    #[arg(long, env = "STABLEHAND_MODEL", value_name = "NAME|DIR")]
    pub model: Option<String>,
    /// Where to compute: auto, cpu, cuda:N or metal [default: auto]
    #[arg(long, env = "STABLEHAND_DEVICE", value_name = "DEVICE")]
    pub device: Option<String>,
    /// Numbers to compute with: auto, f32, bf16 or f16 [default: auto]
    #[arg(long, env = "STABLEHAND_DTYPE", value_name = "DTYPE")]
    pub dtype: Option<String>,
    /// Scheme, host and port of the URLs in answers [default: those that the client used]
    #[arg(long, env = "STABLEHAND_PUBLIC_URL", value_name = "URL")]
    pub public_url: Option<String>,
    /// How outputs are given: auto, url or data; auto gives data URIs to official clients that cannot use http URLs
    /// [default: auto]
    #[arg(long, env = "STABLEHAND_OUTPUT_URLS", value_name = "FORM")]
    pub output_urls: Option<String>,
    /// Addresses of proxies whose Forwarded and X-Forwarded-* headers are believed, such as 10.0.0.0/8; may be repeated
    /// [default: none]
    #[arg(long, env = "STABLEHAND_TRUSTED_PROXIES", value_name = "CIDR")]
    pub trusted_proxy: Vec<String>,
    /// A key that clients may authenticate with; may be repeated [default: none on a loopback address; else one is
    /// made at the first start]
    #[arg(long, alias = "api-keys", env = "STABLEHAND_API_KEYS", value_name = "KEY", hide_env_values = true)]
    pub api_key: Vec<String>,
    /// A file with further keys, one on each line
    #[arg(long, env = "STABLEHAND_API_KEY_FILE", value_name = "FILE")]
    pub api_key_file: Option<String>,
    /// Predictions that one key may create in a minute; 0 for no limit [default: 600]
    #[arg(long, env = "STABLEHAND_RATE_LIMIT_CREATE", value_name = "N")]
    pub rate_limit_create: Option<String>,
    /// Other requests that one key may make in a minute, and twenty times as many looks at a prediction; 0 for no
    /// limit [default: 3000]
    #[arg(long, env = "STABLEHAND_RATE_LIMIT_OTHER", value_name = "N")]
    pub rate_limit_other: Option<String>,
    /// How long uploaded files are kept, such as 24h or 90m [default: 24h]
    #[arg(long, env = "STABLEHAND_FILE_RETENTION", value_name = "TIME")]
    pub file_retention: Option<String>,
    /// Predictions that may wait; further ones are answered with 429 [default: 1000]
    #[arg(long, env = "STABLEHAND_QUEUE_LIMIT", value_name = "N")]
    pub queue_limit: Option<String>,
    /// Characters that a prompt may have [default: 10000]
    #[arg(long, env = "STABLEHAND_MAX_PROMPT_CHARS", value_name = "N")]
    pub max_prompt_chars: Option<String>,
    /// Most width x height x pictures x steps of a prediction, in millions [default: what the model's bounds allow]
    #[arg(long, env = "STABLEHAND_MAX_MEGAPIXEL_STEPS", value_name = "N")]
    pub max_megapixel_steps: Option<String>,
    /// Most rows of one UNet call; a guided picture is two rows [default: 16]
    #[arg(long, env = "STABLEHAND_MAX_ROWS", value_name = "N")]
    pub max_rows: Option<String>,
    /// Threads for the CPU's arithmetic [default: as many as there are cores]
    #[arg(long, env = "STABLEHAND_THREADS", value_name = "N")]
    pub threads: Option<String>,
    /// Seconds for running predictions to end after SIGTERM or Ctrl-C; the rest goes back to the queue [default: 30]
    #[arg(long, env = "STABLEHAND_DRAIN_SECONDS", value_name = "S")]
    pub drain_seconds: Option<String>,
    /// Never ask the model hub: use only what is already here [default: false]
    #[arg(long, env = "STABLEHAND_OFFLINE", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub offline: Option<String>,
    /// How long a prediction may run, such as 30m, or off; one that runs longer fails [default: off]
    #[arg(long, env = "STABLEHAND_RUN_LIMIT", value_name = "TIME")]
    pub run_limit: Option<String>,
    /// How long input, output, logs and files of finished predictions are kept, such as 1h or 7d, or off for ever
    /// [default: off]
    #[arg(long, env = "STABLEHAND_RETENTION", value_name = "TIME")]
    pub retention: Option<String>,
    /// For how long the webhook about the end of a prediction is tried again when its receiver fails; off: never
    /// [default: 1m]
    #[arg(long, env = "STABLEHAND_WEBHOOK_RETRY", value_name = "TIME")]
    pub webhook_retry: Option<String>,
    /// Let webhooks and input files reach loopback and private addresses too [default: false]
    #[arg(long, env = "STABLEHAND_ALLOW_PRIVATE_NETWORK", value_name = "BOOL", num_args = 0..=1,
          default_missing_value = "true")]
    pub allow_private_network: Option<String>,
}

/// The settings as the server uses them.
#[derive(Clone, PartialEq)]
pub struct Config {
    pub listen: SocketAddr,
    pub data_dir: PathBuf,
    /// `None`: the built-in one.
    pub model: Option<String>,
    pub device: DeviceChoice,
    pub dtype: DtypeChoice,
    /// Without a slash at the end.
    pub public_url: Option<String>,
    pub output_urls: OutputUrls,
    /// Peers that may say how the client reached them.
    pub trusted_proxies: Vec<IpNet>,
    /// From flags, environment and file. Secrets: never shown.
    pub api_keys: Vec<String>,
    /// A minute; 0 for none.
    pub rate_limit_create: u32,
    /// A minute; 0 for none.
    pub rate_limit_other: u32,
    /// Of uploaded files.
    pub file_retention: Duration,
    pub queue_limit: u64,
    /// `None`: the model's own bound.
    pub max_prompt_chars: Option<usize>,
    /// `None`: as much as the model's other bounds allow.
    pub max_megapixel_steps: Option<u64>,
    pub max_rows: usize,
    /// `None`: as many as there are cores.
    pub threads: Option<usize>,
    pub drain: Duration,
    pub offline: bool,
    /// `None`: as long as it takes.
    pub run_limit: Option<Duration>,
    /// `None`: for ever.
    pub retention: Option<Duration>,
    /// Zero: never tried again.
    pub webhook_retry: Duration,
    pub allow_private_network: bool,
}

/// Where to compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// The first GPU that this build can use, else the CPU.
    #[default]
    Auto,
    Cpu,
    Cuda(usize),
    Metal,
}

/// What to compute with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DtypeChoice {
    /// What suits the device.
    #[default]
    Auto,
    F32,
    Bf16,
    F16,
}

/// How outputs are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OutputUrls {
    /// As each client needs it.
    #[default]
    Auto,
    Url,
    Data,
}

/// All mistakes of a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigErrors(Vec<String>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl FromStr for DeviceChoice {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(DeviceChoice::Auto),
            "cpu" => Ok(DeviceChoice::Cpu),
            "cuda" => Ok(DeviceChoice::Cuda(0)),
            "metal" => Ok(DeviceChoice::Metal),
            _ => text
                .strip_prefix("cuda:")
                .and_then(|n| n.parse().ok())
                .map(DeviceChoice::Cuda)
                .ok_or("auto, cpu, cuda:N or metal"),
        }
    }
}

impl FromStr for DtypeChoice {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(DtypeChoice::Auto),
            "f32" => Ok(DtypeChoice::F32),
            "bf16" => Ok(DtypeChoice::Bf16),
            "f16" => Ok(DtypeChoice::F16),
            _ => Err("auto, f32, bf16 or f16"),
        }
    }
}

impl FromStr for OutputUrls {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(OutputUrls::Auto),
            "url" => Ok(OutputUrls::Url),
            "data" => Ok(OutputUrls::Data),
            _ => Err("auto, url or data"),
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("listen", &self.listen)
            .field("data_dir", &self.data_dir)
            .field("model", &self.model)
            .field("device", &self.device)
            .field("dtype", &self.dtype)
            .field("public_url", &self.public_url)
            .field("output_urls", &self.output_urls)
            .field("trusted_proxies", &self.trusted_proxies)
            .field("api_keys", &format_args!("{} keys", self.api_keys.len()))
            .field("rate_limit_create", &self.rate_limit_create)
            .field("rate_limit_other", &self.rate_limit_other)
            .field("file_retention", &self.file_retention)
            .field("queue_limit", &self.queue_limit)
            .field("max_prompt_chars", &self.max_prompt_chars)
            .field("max_megapixel_steps", &self.max_megapixel_steps)
            .field("max_rows", &self.max_rows)
            .field("threads", &self.threads)
            .field("drain", &self.drain)
            .field("offline", &self.offline)
            .field("run_limit", &self.run_limit)
            .field("retention", &self.retention)
            .field("webhook_retry", &self.webhook_retry)
            .field("allow_private_network", &self.allow_private_network)
            .finish()
    }
}

impl ServeArgs {
    /// Reads the file, if one is named, and checks everything.
    pub fn resolve(self) -> Result<Config, ConfigErrors> {
        let mut errors = Vec::new();
        let file = match &self.config {
            Some(path) => read(path).unwrap_or_else(|error| {
                errors.push(error);
                BTreeMap::new()
            }),
            None => BTreeMap::new(),
        };
        let mut given = Given { file, errors };
        let more_keys = given.take("api-key-file", self.api_key_file, keys_in).unwrap_or_default();
        let mut config = Config {
            listen: given.take("listen", self.listen, address).unwrap_or_else(|| ([127, 0, 0, 1], 8000).into()),
            data_dir: given.take("data-dir", self.data_dir, some_path).unwrap_or_else(|| "data".into()),
            model: given.take("model", self.model, |text| Ok::<_, &str>(text.to_string())),
            device: given.take("device", self.device, DeviceChoice::from_str).unwrap_or_default(),
            dtype: given.take("dtype", self.dtype, DtypeChoice::from_str).unwrap_or_default(),
            public_url: given.take("public-url", self.public_url, origin),
            output_urls: given.take("output-urls", self.output_urls, OutputUrls::from_str).unwrap_or_default(),
            trusted_proxies: given.take("trusted-proxy", joined(self.trusted_proxy), networks).unwrap_or_default(),
            api_keys: given.take("api-key", joined(self.api_key), keys).unwrap_or_default(),
            rate_limit_create: given.take("rate-limit-create", self.rate_limit_create, rate).unwrap_or(600),
            rate_limit_other: given.take("rate-limit-other", self.rate_limit_other, rate).unwrap_or(3000),
            file_retention: given.take("file-retention", self.file_retention, file_retention).unwrap_or(DAY),
            queue_limit: given.take("queue-limit", self.queue_limit, at_least_one).unwrap_or(1000),
            max_prompt_chars: given.take("max-prompt-chars", self.max_prompt_chars, at_least_one).map(|n| n as usize),
            max_megapixel_steps: given.take("max-megapixel-steps", self.max_megapixel_steps, at_least_one),
            max_rows: given.take("max-rows", self.max_rows, at_least_one).unwrap_or(16) as usize,
            threads: given.take("threads", self.threads, at_least_one).map(|n| n as usize),
            drain: given.take("drain-seconds", self.drain_seconds, seconds).unwrap_or(Duration::from_secs(30)),
            offline: given.take("offline", self.offline, switch).unwrap_or(false),
            run_limit: given.take("run-limit", self.run_limit, time_or_off).flatten(),
            retention: given.take("retention", self.retention, time_or_off).flatten(),
            webhook_retry: given
                .take("webhook-retry", self.webhook_retry, time_or_off)
                .map_or(Duration::from_secs(60), Option::unwrap_or_default),
            allow_private_network: given
                .take("allow-private-network", self.allow_private_network, switch)
                .unwrap_or(false),
        };
        config.api_keys.extend(more_keys);
        given.errors.extend(given.file.into_keys().map(|name| format!("{name}: there is no such setting")));
        if given.errors.is_empty() { Ok(config) } else { Err(ConfigErrors(given.errors)) }
    }
}

/// What the file says, and what was wrong so far.
struct Given {
    file: BTreeMap<String, String>,
    errors: Vec<String>,
}

impl Given {
    /// The setting from its flag or variable, else from the file; `None` when it is in neither or wrong.
    fn take<T, E: fmt::Display>(
        &mut self,
        name: &str,
        flag: Option<String>,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<T> {
        let filed = self.file.remove(name);
        let text = flag.or(filed)?;
        match parse(text.trim()) {
            Ok(value) => Some(value),
            // The text itself may be a secret.
            Err(right) if name == "api-key" => {
                self.errors.push(format!("{name}: {right}"));
                None
            }
            Err(right) => {
                self.errors.push(format!("{name}: {text:?} will not do: it must be {right}"));
                None
            }
        }
    }
}

fn read(path: &Path) -> Result<BTreeMap<String, String>, String> {
    let failed = |error: &dyn fmt::Display| format!("{}: {error}", path.display());
    let text = std::fs::read_to_string(path).map_err(|e| failed(&e))?;
    let table: toml::Table = text.parse().map_err(|e| failed(&e))?;
    let plain = |value: toml::Value| match value {
        toml::Value::String(text) => text,
        toml::Value::Array(items) if items.iter().all(toml::Value::is_str) => {
            items.iter().filter_map(toml::Value::as_str).collect::<Vec<_>>().join(",")
        }
        other => other.to_string(),
    };
    Ok(table.into_iter().map(|(name, value)| (name, plain(value))).collect())
}

fn address(text: &str) -> Result<SocketAddr, &'static str> {
    let found = text.to_socket_addrs().ok().and_then(|mut addresses| addresses.next());
    found.ok_or("address:port, such as 127.0.0.1:8000 or [::]:8000")
}

fn some_path(text: &str) -> Result<PathBuf, &'static str> {
    if text.is_empty() { Err("a folder") } else { Ok(text.into()) }
}

fn origin(text: &str) -> Result<String, &'static str> {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let host = rest.map(|rest| rest.trim_end_matches('/')).unwrap_or_default();
    let plain = |c: char| c.is_ascii_graphic() && !"?#@\"\\<>".contains(c);
    if host.is_empty() || host.starts_with('/') || !host.chars().all(plain) {
        return Err("scheme and host, such as https://pictures.example.org");
    }
    Ok(text.trim_end_matches('/').to_string())
}

/// The values of a flag that may be repeated; each, like its variable, may hold several.
fn joined(values: Vec<String>) -> Option<String> {
    (!values.is_empty()).then(|| values.join(","))
}

fn keys(text: &str) -> Result<Vec<String>, &'static str> {
    let keys: Vec<String> = text.split(',').map(|key| key.trim().to_string()).collect();
    if !keys.iter().all(|key| is_key(key)) {
        return Err("one key, or several separated by single commas, of visible ASCII characters");
    }
    Ok(keys)
}

/// What an `Authorization` header can carry.
fn is_key(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic())
}

/// The keys in a file: one on each line; empty lines and those that begin with `#` are left out.
fn keys_in(path: &str) -> Result<Vec<String>, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("a file that can be read ({error})"))?;
    let lines = text.lines().map(str::trim).enumerate();
    let keys: Vec<(usize, &str)> = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')).collect();
    match keys.iter().find(|(_, key)| !is_key(key)) {
        Some((line, _)) => Err(format!("a file of keys of visible ASCII characters, which line {} is not", line + 1)),
        None if keys.is_empty() => Err("a file with at least one key".to_string()),
        None => Ok(keys.into_iter().map(|(_, key)| key.to_string()).collect()),
    }
}

fn networks(text: &str) -> Result<Vec<IpNet>, &'static str> {
    let one = |text: &str| text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    let all: Result<_, _> = text.split(',').map(str::trim).map(one).collect();
    all.map_err(|_| "addresses or networks, such as 127.0.0.1 or 10.0.0.0/8, separated by commas")
}

fn rate(text: &str) -> Result<u32, &'static str> {
    text.parse().ok().filter(|n| *n <= 1_000_000).ok_or("a whole number from 0, for no limit, to 1000000")
}

const DAY: Duration = Duration::from_secs(86_400);

/// `3600` seconds, `90m`, `1h30m` or `7d`.
fn file_retention(text: &str) -> Result<Duration, &'static str> {
    let allowed = Duration::from_secs(60)..=3650 * DAY;
    time(text).filter(|time| allowed.contains(time)).ok_or("a time from 1m to 3650d, such as 24h")
}

fn at_least_one(text: &str) -> Result<u64, &'static str> {
    text.parse().ok().filter(|n| (1..=1_000_000_000).contains(n)).ok_or("a whole number of at least 1")
}

fn seconds(text: &str) -> Result<Duration, &'static str> {
    let number: Option<f64> = text.parse().ok().filter(|n| (0.0..=86_400.0).contains(n));
    number.map(Duration::from_secs_f64).ok_or("a number of seconds from 0 to 86400")
}

/// `90` seconds, `30m`, `1h30m` or `7d`.
fn time(text: &str) -> Option<Duration> {
    match text.strip_suffix('d') {
        Some(days) => days.parse().ok().and_then(|days| DAY.checked_mul(days)),
        None if text.bytes().all(|b| b.is_ascii_digit()) => text.parse().ok().map(Duration::from_secs),
        None => text.parse::<SignedDuration>().ok().and_then(|time| time.try_into().ok()),
    }
}

fn time_or_off(text: &str) -> Result<Option<Duration>, &'static str> {
    const WANTED: &str = "a time of at least one second, such as 90s, 30m, 1h30m or 7d, or off";
    if text == "off" {
        return Ok(None);
    }
    time(text).filter(|time| (Duration::from_secs(1)..36_500 * DAY).contains(time)).map(Some).ok_or(WANTED)
}

fn switch(text: &str) -> Result<bool, &'static str> {
    match text {
        "true" | "1" | "yes" => Ok(true),
        "false" | "0" | "no" | "" => Ok(false),
        _ => Err("true or false"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn defaults() {
        let config = ServeArgs::default().resolve().unwrap();
        assert_eq!(config.listen.to_string(), "127.0.0.1:8000");
        assert_eq!((config.queue_limit, config.max_rows, config.model), (1000, 16, None));
        assert_eq!((config.device, config.dtype), (DeviceChoice::Auto, DtypeChoice::Auto));
        assert!(config.api_keys.is_empty() && !config.offline && !config.allow_private_network);
        assert_eq!((config.run_limit, config.retention, config.webhook_retry.as_secs()), (None, None, 60));
        assert_eq!((config.max_prompt_chars, config.max_megapixel_steps), (None, None));
    }

    #[test]
    fn flags_win_over_the_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = "listen = '0.0.0.0:1'\nqueue-limit = 5\noffline = true\napi-key = ['a', 'b']\ndevice = 'cuda:3'\n";
        std::fs::write(file.path(), text).unwrap();
        let args = ServeArgs {
            config: Some(file.path().into()),
            listen: Some("127.0.0.1:2".to_string()),
            public_url: Some("https://x.org/".to_string()),
            ..ServeArgs::default()
        };
        let config = args.resolve().unwrap();
        assert_eq!(config.listen.to_string(), "127.0.0.1:2");
        assert_eq!((config.queue_limit, config.offline, config.device), (5, true, DeviceChoice::Cuda(3)));
        assert_eq!(config.public_url.as_deref(), Some("https://x.org"));
        assert_eq!(config.api_keys, ["a", "b"]);
        assert!(!format!("{config:?}").contains("\"a\""));
    }

    #[test]
    fn times() {
        let seconds = |text: &str| time_or_off(text).map(|time| time.map(|t| t.as_secs()));
        for (text, wanted) in [("90", 90), ("90s", 90), ("30m", 1800), ("1h30m", 5400), ("7d", 604_800)] {
            assert_eq!(seconds(text), Ok(Some(wanted)), "{text}");
        }
        assert_eq!(seconds("off"), Ok(None));
        for wrong in ["", "0", "0s", "-1h", "d", "1.5d", "99999999999d", "soon", "200000d"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn keys_proxies_limits_and_times() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "# ours\n\n  three  \nfour\n").unwrap();
        let args = ServeArgs {
            api_key: vec!["one".to_string(), "two,three-and-more".to_string()],
            api_key_file: Some(file.path().display().to_string()),
            trusted_proxy: vec!["127.0.0.1".to_string(), "10.0.0.0/8, fd00::/8".to_string()],
            rate_limit_other: Some("0".to_string()),
            file_retention: Some("1h30m".to_string()),
            output_urls: Some("data".to_string()),
            ..ServeArgs::default()
        };
        let config = args.resolve().unwrap();
        assert_eq!(config.api_keys, ["one", "two", "three-and-more", "three", "four"]);
        let proxies: Vec<String> = config.trusted_proxies.iter().map(|net| net.to_string()).collect();
        assert_eq!(proxies, ["127.0.0.1/32", "10.0.0.0/8", "fd00::/8"]);
        assert_eq!((config.rate_limit_create, config.rate_limit_other), (600, 0));
        assert_eq!((config.file_retention.as_secs(), config.output_urls), (5400, OutputUrls::Data));
        assert_eq!(file_retention("60"), Ok(Duration::from_secs(60)));
        assert_eq!((file_retention("24h"), file_retention("2d")), (Ok(DAY), Ok(2 * DAY)));
        for wrong in ["0", "59s", "-1h", "99999h", "99999999999d", "soon", "d", ""] {
            assert!(file_retention(wrong).is_err(), "{wrong}");
        }
        std::fs::write(file.path(), "good\nnot good\n").unwrap();
        let wrong = keys_in(&file.path().display().to_string()).unwrap_err();
        assert!(wrong.contains("line 2") && !wrong.contains("not good"), "{wrong}");
        std::fs::write(file.path(), "# none\n").unwrap();
        assert!(keys_in(&file.path().display().to_string()).is_err());
    }

    #[test]
    fn every_mistake_is_reported_at_once_and_secrets_are_not() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "lisen = 'x'\nqueue-limit = 0\n").unwrap();
        let wrong = |text: &str| Some(text.to_string());
        let args = ServeArgs {
            config: Some(file.path().into()),
            listen: wrong("nowhere"),
            device: wrong("cuda:x"),
            dtype: wrong("int8"),
            public_url: wrong("ftp://x"),
            api_key: vec!["sesame,,open".to_string()],
            api_key_file: wrong("/no/such/file"),
            trusted_proxy: vec!["10.0.0.0/99".to_string()],
            output_urls: wrong("ftp"),
            rate_limit_create: wrong("-1"),
            rate_limit_other: wrong("many"),
            file_retention: wrong("1s"),
            drain_seconds: wrong("-1"),
            offline: wrong("maybe"),
            threads: wrong("0"),
            retention: wrong("0"),
            run_limit: wrong("soon"),
            webhook_retry: wrong("-5s"),
            allow_private_network: wrong("perhaps"),
            max_prompt_chars: wrong("many"),
            max_megapixel_steps: wrong("0"),
            ..ServeArgs::default()
        };
        let report = args.resolve().unwrap_err().to_string();
        let names: Vec<&str> = report.lines().filter_map(|line| line.split(':').next()).collect();
        let expected = "api-key-file listen device dtype public-url output-urls trusted-proxy api-key \
            rate-limit-create rate-limit-other file-retention queue-limit max-prompt-chars \
            max-megapixel-steps threads drain-seconds offline run-limit \
            retention webhook-retry allow-private-network lisen";
        assert_eq!(names, expected.split(' ').collect::<Vec<_>>(), "{report}");
        assert!(!report.contains("sesame"));
    }
}
