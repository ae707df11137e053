//! Which keys the server asks for: the configured ones, one of its own making, or none on its own machine.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Random bytes of a key.
const KEY_BYTES: usize = 20;

/// Who may use the server.
#[derive(Clone, PartialEq, Eq)]
pub enum Access {
    /// Whoever reaches it, which only programs on its machine can.
    Anybody,
    /// Whoever has one of these keys.
    Configured(Vec<String>),
    /// Whoever has the key in this file, which was made at this start if it is `fresh`.
    Generated { key: String, file: PathBuf, fresh: bool },
}

impl Access {
    /// Decides by the keys in the settings and the address that is listened on; makes a key in `file` if one is needed
    /// and there is none yet.
    pub fn decide(configured: &[String], listening: IpAddr, file: PathBuf) -> Result<Access> {
        if !configured.is_empty() {
            return Ok(Access::Configured(configured.to_vec()));
        }
        if listening.to_canonical().is_loopback() {
            return Ok(Access::Anybody);
        }
        let (key, fresh) = match fs::read_to_string(&file) {
            Ok(text) => (text.trim().to_string(), false),
            Err(error) if error.kind() == ErrorKind::NotFound => (generate(&file)?, true),
            Err(error) => return Err(error).with_context(|| format!("{} cannot be read", file.display())),
        };
        if key.is_empty() || !key.chars().all(|c| c.is_ascii_graphic()) {
            bail!("{} holds no key: delete it, and the next start makes a new one", file.display());
        }
        Ok(Access::Generated { key, file, fresh })
    }

    pub fn keys(&self) -> Vec<&str> {
        match self {
            Access::Anybody => Vec::new(),
            Access::Configured(keys) => keys.iter().map(String::as_str).collect(),
            Access::Generated { key, .. } => vec![key],
        }
    }

    /// A line for who starts the server. Shows a key only when it was just made.
    pub fn describe(&self) -> String {
        match self {
            Access::Anybody => "none: whoever reaches this address may use it".to_string(),
            Access::Configured(keys) => format!("{} from the settings", keys.len()),
            Access::Generated { key, file, fresh: true } => {
                format!("{key}\n        made for you and kept in {}; it is not shown again", file.display())
            }
            Access::Generated { file, .. } => format!("the one in {}", file.display()),
        }
    }
}

/// A new key, durable in a file that only its owner may read.
fn generate(file: &Path) -> Result<String> {
    let mut bytes = [0u8; KEY_BYTES];
    getrandom::fill(&mut bytes).context("the system gave no random numbers")?;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let key = format!("sh_{hex}");
    let write = || {
        let mut options = File::options();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut out = options.open(file)?;
        writeln!(out, "{key}")?;
        out.sync_all()
    };
    write().with_context(|| format!("{} cannot be written", file.display()))?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn decide(keys: &[&str], address: &str, file: &Path) -> Result<Access> {
        let keys: Vec<String> = keys.iter().map(|key| key.to_string()).collect();
        Access::decide(&keys, address.parse().unwrap(), file.to_path_buf())
    }

    #[test]
    fn keys_are_asked_for_unless_only_this_machine_can_come() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("api-key");
        for local in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
            assert!(decide(&[], local, &file).unwrap() == Access::Anybody, "{local}");
        }
        assert!(!file.exists());
        assert_eq!(decide(&["a", "b"], "0.0.0.0", &file).unwrap().keys(), ["a", "b"]);
        assert_eq!(decide(&["a"], "::1", &file).unwrap().keys(), ["a"]);

        let first = decide(&[], "0.0.0.0", &file).unwrap();
        let key = first.keys()[0].to_string();
        assert!(key.len() == 43 && key.starts_with("sh_") && first.describe().contains(&key));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        }
        let second = decide(&[], "::", &file).unwrap();
        assert_eq!(second.keys(), [key.as_str()]);
        assert!(!second.describe().contains(&key));
        fs::write(&file, "\n").unwrap();
        assert!(decide(&[], "10.0.0.1", &file).is_err());
    }
}
