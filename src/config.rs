//! Every setting of the server, its default and its validation: flags over environment over file.
//!
//! All mistakes are reported at once. Knows nothing of what the settings are for.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

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
    /// Keys that clients may authenticate with, separated by commas [default: none, any token will do]
    #[arg(long, env = "STABLEHAND_API_KEYS", value_name = "KEYS", hide_env_values = true)]
    pub api_keys: Option<String>,
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
    /// Secrets: never shown.
    pub api_keys: Vec<String>,
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

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("listen", &self.listen)
            .field("data_dir", &self.data_dir)
            .field("model", &self.model)
            .field("device", &self.device)
            .field("dtype", &self.dtype)
            .field("public_url", &self.public_url)
            .field("api_keys", &format_args!("{} keys", self.api_keys.len()))
            .field("queue_limit", &self.queue_limit)
            .field("max_prompt_chars", &self.max_prompt_chars)
            .field("max_megapixel_steps", &self.max_megapixel_steps)
            .field("max_rows", &self.max_rows)
            .field("threads", &self.threads)
            .field("drain", &self.drain)
            .field("offline", &self.offline)
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
        let config = Config {
            listen: given.take("listen", self.listen, address).unwrap_or_else(|| ([127, 0, 0, 1], 8000).into()),
            data_dir: given.take("data-dir", self.data_dir, some_path).unwrap_or_else(|| "data".into()),
            model: given.take("model", self.model, |text| Ok::<_, &str>(text.to_string())),
            device: given.take("device", self.device, DeviceChoice::from_str).unwrap_or_default(),
            dtype: given.take("dtype", self.dtype, DtypeChoice::from_str).unwrap_or_default(),
            public_url: given.take("public-url", self.public_url, origin),
            api_keys: given.take("api-keys", self.api_keys, keys).unwrap_or_default(),
            queue_limit: given.take("queue-limit", self.queue_limit, at_least_one).unwrap_or(1000),
            max_prompt_chars: given.take("max-prompt-chars", self.max_prompt_chars, at_least_one).map(|n| n as usize),
            max_megapixel_steps: given.take("max-megapixel-steps", self.max_megapixel_steps, at_least_one),
            max_rows: given.take("max-rows", self.max_rows, at_least_one).unwrap_or(16) as usize,
            threads: given.take("threads", self.threads, at_least_one).map(|n| n as usize),
            drain: given.take("drain-seconds", self.drain_seconds, seconds).unwrap_or(Duration::from_secs(30)),
            offline: given.take("offline", self.offline, switch).unwrap_or(false),
        };
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
            Err(right) if name == "api-keys" => {
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

fn keys(text: &str) -> Result<Vec<String>, &'static str> {
    let keys: Vec<String> = text.split(',').map(|key| key.trim().to_string()).collect();
    if keys.iter().any(|key| key.is_empty() || key.contains(char::is_whitespace)) {
        return Err("one key, or several separated by single commas, without spaces in them");
    }
    Ok(keys)
}

fn at_least_one(text: &str) -> Result<u64, &'static str> {
    text.parse().ok().filter(|n| (1..=1_000_000_000).contains(n)).ok_or("a whole number of at least 1")
}

fn seconds(text: &str) -> Result<Duration, &'static str> {
    let number: Option<f64> = text.parse().ok().filter(|n| (0.0..=86_400.0).contains(n));
    number.map(Duration::from_secs_f64).ok_or("a number of seconds from 0 to 86400")
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
        assert_eq!((config.max_prompt_chars, config.max_megapixel_steps), (None, None));
        assert!(config.api_keys.is_empty() && !config.offline);
    }

    #[test]
    fn flags_win_over_the_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = "listen = '0.0.0.0:1'\nqueue-limit = 5\noffline = true\napi-keys = ['a', 'b']\ndevice = 'cuda:3'\n";
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
            api_keys: wrong("sesame,,open"),
            drain_seconds: wrong("-1"),
            offline: wrong("maybe"),
            threads: wrong("0"),
            max_prompt_chars: wrong("many"),
            max_megapixel_steps: wrong("0"),
            ..ServeArgs::default()
        };
        let report = args.resolve().unwrap_err().to_string();
        let names: Vec<&str> = report.lines().filter_map(|line| line.split(':').next()).collect();
        let expected = "listen device dtype public-url api-keys queue-limit max-prompt-chars \
                        max-megapixel-steps threads drain-seconds offline lisen";
        assert_eq!(names, expected.split(' ').collect::<Vec<_>>(), "{report}");
        assert!(!report.contains("sesame"));
    }
}
