//! What the user has said about the hub, with huggingface_hub's names and defaults.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where the hub is, who asks, and where its files go.
#[derive(Clone, PartialEq, Eq)]
pub struct HubOptions {
    /// Without a slash at the end.
    pub endpoint: String,
    /// A secret: never shown.
    pub token: Option<String>,
    /// The folder with `models--owner--name`.
    pub cache: PathBuf,
    /// Ask no server at all.
    pub offline: bool,
    /// How long the hub may be silent.
    pub timeout: Duration,
    /// How often a transfer that broke off is taken up again before it fails.
    pub retries: u32,
}

impl HubOptions {
    /// From environment variables as `get` knows them: `HF_ENDPOINT`, `HF_TOKEN` (or the file that `hf auth login`
    /// writes), `HF_HUB_CACHE`, `HF_HOME`, `HF_HUB_OFFLINE`.
    pub fn from_variables(get: impl Fn(&str) -> Option<String>) -> HubOptions {
        let set = |name: &str| get(name).filter(|value| !value.trim().is_empty());
        let caches = set("XDG_CACHE_HOME").map(PathBuf::from);
        let home = set("HOME").or_else(|| set("USERPROFILE")).map(|home| Path::new(&home).join(".cache"));
        let default = caches.or(home).unwrap_or_else(|| PathBuf::from(".cache")).join("huggingface");
        let hf_home = set("HF_HOME").map_or(default, PathBuf::from);
        let token_file = set("HF_TOKEN_PATH").map_or_else(|| hf_home.join("token"), PathBuf::from);
        let written = || std::fs::read_to_string(token_file).ok();
        let token = set("HF_TOKEN").or_else(written).map(|token| token.trim().to_string());
        let endpoint = set("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_string());
        let yes = |value: String| ["1", "ON", "YES", "TRUE"].contains(&value.to_uppercase().as_str());
        HubOptions {
            endpoint: endpoint.trim_end_matches('/').to_string(),
            token: token.filter(|token| !token.is_empty()),
            cache: set("HF_HUB_CACHE").map_or_else(|| hf_home.join("hub"), PathBuf::from),
            offline: set("HF_HUB_OFFLINE").is_some_and(yes),
            timeout: Duration::from_secs(30),
            retries: 5,
        }
    }
}

impl fmt::Debug for HubOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubOptions")
            .field("endpoint", &self.endpoint)
            .field("token", &self.token.as_ref().map(|_| "…"))
            .field("cache", &self.cache)
            .field("offline", &self.offline)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(variables: &[(&str, &str)]) -> HubOptions {
        let find = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| value.to_string());
        HubOptions::from_variables(find)
    }

    #[test]
    fn defaults_are_those_of_huggingface_hub() {
        let options = options(&[("HOME", "/home/a")]);
        assert_eq!(options.endpoint, "https://huggingface.co");
        assert_eq!(options.cache, Path::new("/home/a/.cache/huggingface/hub"));
        assert!(!options.offline && options.token.is_none());
    }

    #[test]
    fn variables_are_honoured_and_empty_ones_ignored() {
        let set = [
            ("HF_HOME", "/hf"),
            ("HF_ENDPOINT", "http://mirror/"),
            ("HF_TOKEN", " hf_secret\n"),
            ("HF_HUB_OFFLINE", "1"),
        ];
        let options = options(&set);
        assert_eq!((options.endpoint.as_str(), options.offline), ("http://mirror", true));
        assert_eq!((options.cache.as_path(), options.token.as_deref()), (Path::new("/hf/hub"), Some("hf_secret")));
        assert!(!format!("{options:?}").contains("secret"));
        let other =
            self::options(&[("HF_HOME", " "), ("HF_HUB_OFFLINE", "0"), ("XDG_CACHE_HOME", "/x"), ("HF_TOKEN", "")]);
        assert_eq!((other.cache.as_path(), other.offline, other.token), (Path::new("/x/huggingface/hub"), false, None));
        assert_eq!(self::options(&[("HF_HUB_CACHE", "/c"), ("HF_HOME", "/hf")]).cache, Path::new("/c"));
    }
}
