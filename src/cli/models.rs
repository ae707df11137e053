//! `stablehand models`: which models there are, what they are, and getting them before they are needed.

use anyhow::{Result, bail};
use clap::{Args, Subcommand};

use super::hub;
use crate::domain::{ModelManifest, Source};
use crate::weights::{self, hub as weights_hub, manifests};

/// List, describe and download models
#[derive(Debug, Args)]
pub struct ModelsArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The models that can be served by name
    List,
    /// What is known of a model
    Show {
        /// A name from the list, or a model's repository
        name: String,
    },
    /// Bring a model here, or up to date; a download that broke off is continued
    Pull {
        /// A name from the list, or a model's repository
        name: String,
        /// Do not download: only say whether it is here
        #[arg(long)]
        offline: bool,
    },
}

impl ModelsArgs {
    pub fn run(self) -> Result<()> {
        match self.command {
            Command::List => list(),
            Command::Show { name } => show(&name),
            Command::Pull { name, offline } => pull(&name, offline),
        }
    }
}

fn list() -> Result<()> {
    for manifest in manifests::known()? {
        let names = std::iter::once(&manifest.name).chain(&manifest.aliases).map(String::as_str);
        println!("{}\n    {}\n    {}", names.collect::<Vec<_>>().join(", "), manifest.description, place(&manifest)?);
    }
    Ok(())
}

fn show(name: &str) -> Result<()> {
    let manifest = named(name)?;
    println!("name      {}", manifest.name);
    println!("aliases   {}", manifest.aliases.join(", "));
    println!("about     {}", manifest.description);
    println!("license   {}", manifest.license.as_deref().unwrap_or("not known"));
    println!("files     {}", place(&manifest)?);
    if let Source::Hub { repository, revision, mirror_of, sha256 } = &manifest.source {
        println!("source    {repository} at {revision}");
        if let Some(gone) = mirror_of {
            println!("mirrors   {gone}, which is gone from the hub");
        }
        let mut hashes: Vec<_> = sha256.iter().collect();
        hashes.sort();
        hashes.iter().for_each(|(file, hash)| println!("sha256    {hash} {file}"));
    }
    for version in &manifest.versions {
        println!("version   {}", version.id);
    }
    Ok(())
}

fn pull(name: &str, offline: bool) -> Result<()> {
    let manifest = named(name)?;
    let folder = match &manifest.source {
        Source::Hub { .. } => hub::with_bar(|report| weights_hub::pull(&manifest, &hub::options(offline), report))?,
        _ => {
            println!("{}: {}", manifest.name, place(&manifest)?);
            return Ok(());
        }
    };
    println!("{}", folder.display());
    Ok(())
}

/// The manifest of a name; a note about a mirror goes to stderr.
fn named(name: &str) -> Result<ModelManifest> {
    let Some((manifest, note)) = weights::find(name)? else {
        bail!("{name} is not a known model; `stablehand models list` shows them");
    };
    note.iter().for_each(|note| eprintln!("{note}"));
    Ok(manifest)
}

/// Where a model's files are, for people.
fn place(manifest: &ModelManifest) -> Result<String> {
    Ok(match &manifest.source {
        Source::Builtin => "built in".to_string(),
        Source::Directory { path } => path.display().to_string(),
        Source::Hub { .. } => match weights_hub::cached(manifest, &hub::options(true))? {
            Some(folder) => folder.display().to_string(),
            None => "not downloaded".to_string(),
        },
    })
}
