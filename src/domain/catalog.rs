//! What this process has on offer, and which model a request means.

use super::{InputLimits, InputTable, ModelManifest, Version};

/// The model this process serves, the names it answers to, and what it runs on.
#[derive(Debug, Clone)]
pub struct Catalog {
    served: ModelManifest,
    /// Manifests of the models that it stands in for.
    stood_in: Vec<ModelManifest>,
    hardware: Hardware,
}

/// What a model runs on, as clients are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hardware {
    /// For people: `CPU`.
    pub name: String,
    /// For programs: `cpu`.
    pub sku: String,
}

/// What a model reference in a request came out as.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Resolved<'a> {
    /// `owner/name` as the client knows it.
    pub model: &'a str,
    /// The version id.
    pub version: &'a str,
    pub table: &'a InputTable,
    /// The served model draws the pictures of another one.
    pub stands_in: bool,
}

impl Catalog {
    /// Serves `served`; of `known`, those it stands in for lend their versions and tables.
    pub fn new(served: ModelManifest, known: &[ModelManifest]) -> Catalog {
        let stood_in =
            known.iter().filter(|m| m.name != served.name && served.stands_in_for.contains(&m.name)).cloned().collect();
        let hardware = Hardware { name: "CPU".to_string(), sku: "cpu".to_string() };
        Catalog { served, stood_in, hardware }
    }

    /// The same on other hardware than a CPU.
    pub fn on(self, hardware: Hardware) -> Catalog {
        Catalog { hardware, ..self }
    }

    /// The same within the operator's limits.
    pub fn limited(mut self, limits: InputLimits) -> Catalog {
        for model in std::iter::once(&mut self.served).chain(&mut self.stood_in) {
            let versions = model.versions.iter_mut().filter_map(|version| version.input.as_mut());
            versions.chain([&mut model.input]).for_each(|table| table.limit(limits));
        }
        self
    }

    /// The model whose weights are loaded.
    pub fn served(&self) -> &ModelManifest {
        &self.served
    }

    /// Every model that requests may name; the one whose weights are loaded first.
    pub fn models(&self) -> impl Iterator<Item = &ModelManifest> {
        std::iter::once(&self.served).chain(&self.stood_in)
    }

    /// The model of this `owner/name`, in any case.
    pub fn model(&self, name: &str) -> Option<&ModelManifest> {
        self.models().find(|model| model.name.eq_ignore_ascii_case(name))
    }

    pub fn hardware(&self) -> &Hardware {
        &self.hardware
    }

    /// Finds a version by `id`, `owner/name:id` or `owner/name`.
    pub fn resolve(&self, reference: &str) -> Option<Resolved<'_>> {
        if !reference.contains('/') {
            return self.models().find_map(|model| self.pick(model, |v| v.id == reference));
        }
        let (name, version) = match reference.split_once(':') {
            Some((name, version)) => (name, Some(version)),
            None => (reference, None),
        };
        let model = self.model(name)?;
        self.pick(model, |v| version.is_none_or(|wanted| v.id == wanted))
    }

    fn pick<'a>(&self, model: &'a ModelManifest, wanted: impl Fn(&Version) -> bool) -> Option<Resolved<'a>> {
        let version = model.versions.iter().find(|v| wanted(v))?;
        Some(Resolved {
            model: &model.name,
            version: &version.id,
            table: model.table(&version.id),
            stands_in: model.name != self.served.name,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn manifest(name: &str, ids: &[&str], stands_in_for: &[&str]) -> ModelManifest {
        let mut manifest = ModelManifest::of_directory("/x".into());
        manifest.name = name.to_string();
        manifest.versions =
            ids.iter().map(|id| Version { id: id.to_string(), created_at: None, input: None }).collect();
        manifest.stands_in_for = stands_in_for.iter().map(|s| s.to_string()).collect();
        manifest
    }

    #[test]
    fn all_forms_of_a_reference() {
        let catalog = Catalog::new(
            manifest("stablehand/shapes", &["aa"], &["s/sd"]),
            &[manifest("s/sd", &["bb", "cc"], &[]), manifest("s/other", &["dd"], &[])],
        );
        let found = |reference| catalog.resolve(reference).map(|r| (r.model, r.version, r.stands_in));
        assert_eq!(found("aa"), Some(("stablehand/shapes", "aa", false)));
        assert_eq!(found("cc"), Some(("s/sd", "cc", true)));
        assert_eq!(found("s/sd"), Some(("s/sd", "bb", true)));
        assert_eq!(found("S/SD:cc"), Some(("s/sd", "cc", true)));
        assert_eq!(found("stablehand/shapes"), Some(("stablehand/shapes", "aa", false)));
        for unknown in ["dd", "s/other", "s/sd:aa", "s/sd:", "", "/", ":", "s/sd:bb:cc"] {
            assert_eq!(found(unknown), None, "{unknown}");
        }
    }
}
