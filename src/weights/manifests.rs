//! The manifests that come with the program: `models/*.toml`.

use crate::domain::{ManifestError, ModelManifest};

const FILES: [(&str, &str); 3] = [
    ("models/stablehand-shapes.toml", include_str!("../../models/stablehand-shapes.toml")),
    ("models/stable-diffusion-1-5.toml", include_str!("../../models/stable-diffusion-1-5.toml")),
    ("models/stable-diffusion-2-1.toml", include_str!("../../models/stable-diffusion-2-1.toml")),
];

/// All of them; the built-in model's first.
pub fn known() -> Result<Vec<ModelManifest>, ManifestError> {
    FILES.into_iter().map(|(file, text)| ModelManifest::parse(file, text)).collect()
}

/// The one of this name or alias, in any case.
pub fn named(name: &str) -> Result<Option<ModelManifest>, ManifestError> {
    let same = |other: &String| other.eq_ignore_ascii_case(name);
    Ok(known()?.into_iter().find(|m| same(&m.name) || m.aliases.iter().any(same)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::domain::{Catalog, Source};

    #[test]
    fn every_manifest_reads_and_no_name_is_taken_twice() {
        let known = known().unwrap();
        assert!(matches!(known[0].source, Source::Builtin));
        let mut names: Vec<&String> = known.iter().flat_map(|m| m.aliases.iter().chain([&m.name])).collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
        assert_eq!(named("SD-2.1").unwrap().unwrap().name, "stability-ai/stable-diffusion");
        assert_eq!(named("sd-9").unwrap(), None);
    }

    #[test]
    fn the_built_in_model_answers_for_stable_diffusion() {
        let known = known().unwrap();
        let catalog = Catalog::new(known[0].clone(), &known);
        let asked = "stability-ai/stable-diffusion:ac732df83cea7fff18b8472768c88ad041fa750ff7682a21affe81863cbe77e4";
        let found = catalog.resolve(asked).unwrap();
        assert!(found.stands_in && found.table.width.default == 768);
    }
}
