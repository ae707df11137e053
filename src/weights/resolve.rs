//! From what a user calls a model (`--model NAME|DIR`) to its checkpoint.

use std::path::Path;

use super::hub::{self, HubOptions, Progress};
use super::{Checkpoint, WeightsError, manifests};
use crate::domain::{ModelManifest, Source};

/// A model that was found.
#[derive(Debug, Clone)]
pub struct Resolved {
    pub manifest: ModelManifest,
    pub checkpoint: Checkpoint,
    /// Something that the user should be told, such as that a mirror is used.
    pub note: Option<String>,
}

/// Finds a model by directory, name, alias, version, or repository on the hub, dead ones included; downloads it if it is
/// of the hub and not here. Once here, no server is asked again: `models pull` is for that.
pub fn resolve(
    model: &str,
    options: &HubOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<Resolved, WeightsError> {
    let directory = Path::new(model);
    let (manifest, note) = match find(model)? {
        Some(found) => found,
        None if directory.exists() || looks_like_a_path(model) => {
            (ModelManifest::of_directory(directory.to_path_buf()), None)
        }
        None => return Err(unknown(model)?),
    };
    let checkpoint = match &manifest.source {
        Source::Builtin => Checkpoint::builtin(),
        Source::Directory { path } => Checkpoint::open(path)?,
        Source::Hub { .. } => match hub::cached(&manifest, options)? {
            Some(folder) => Checkpoint::open(&folder)?,
            None => Checkpoint::open(&hub::pull(&manifest, options, progress)?)?,
        },
    };
    Ok(Resolved { manifest, checkpoint, note })
}

/// The known model of this name, and a note where the name is of a repository that is gone.
pub fn find(model: &str) -> Result<Option<(ModelManifest, Option<String>)>, WeightsError> {
    if let Some(manifest) = manifests::named(model)? {
        return Ok(Some((manifest, None)));
    }
    let version = model.rsplit_once(':').map_or(model, |(_, version)| version);
    for manifest in manifests::known()? {
        if manifest.versions.iter().any(|v| v.id == version) {
            return Ok(Some((manifest, None)));
        }
        let Source::Hub { repository, mirror_of, .. } = &manifest.source else { continue };
        if repository.eq_ignore_ascii_case(model) {
            return Ok(Some((manifest, None)));
        }
        if mirror_of.as_ref().is_some_and(|gone| gone.eq_ignore_ascii_case(model)) {
            let note = format!("{model} is gone from the hub; its mirror {repository} is used");
            return Ok(Some((manifest, Some(note))));
        }
    }
    Ok(None)
}

fn looks_like_a_path(model: &str) -> bool {
    model.starts_with(['/', '.', '~']) || model.contains('\\') || model.ends_with(".safetensors")
}

fn unknown(model: &str) -> Result<WeightsError, WeightsError> {
    let names = manifests::known()?.into_iter().flat_map(|m| std::iter::once(m.name).chain(m.aliases));
    Ok(WeightsError::UnknownModel { model: model.to_string(), known: names.collect::<Vec<_>>().join(", ") })
}
