//! Models, versions and deployments as clients see them.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::schema::openapi_schema;
use crate::api::view::Origin;
use crate::domain::{Catalog, Hardware, ModelManifest, Version};

/// Clients check that it is one whose array outputs are plain arrays.
const COG_VERSION: &str = "0.9.5";

/// All of a list on one page: there are few models.
#[derive(Debug, Serialize)]
pub struct Page<T> {
    next: Option<String>,
    previous: Option<String>,
    results: Vec<T>,
}

impl<T> Page<T> {
    pub fn only(results: Vec<T>) -> Page<T> {
        Page { next: None, previous: None, results }
    }
}

#[derive(Debug, Serialize)]
pub struct VersionView {
    id: String,
    created_at: String,
    cog_version: &'static str,
    openapi_schema: Value,
}

impl VersionView {
    pub fn new(model: &ModelManifest, version: &Version) -> VersionView {
        VersionView {
            id: version.id.clone(),
            created_at: made_at(version).to_string(),
            cog_version: COG_VERSION,
            openapi_schema: openapi_schema(model.table(&version.id)),
        }
    }
}

#[derive(Debug, Serialize)]
pub struct ModelView {
    url: String,
    owner: String,
    name: String,
    description: String,
    visibility: &'static str,
    is_official: bool,
    github_url: Option<String>,
    paper_url: Option<String>,
    license_url: Option<String>,
    cover_image_url: Option<String>,
    run_count: u64,
    created_at: String,
    default_example: Option<Value>,
    latest_version: Option<VersionView>,
}

impl ModelView {
    pub fn new(catalog: &Catalog, model: &ModelManifest, run_count: u64, origin: &Origin) -> ModelView {
        let (owner, name) = model.parts();
        ModelView {
            url: origin.url(&format!("/v1/models/{}", model.name)),
            owner: owner.to_string(),
            name: name.to_string(),
            description: description(catalog, model),
            visibility: "public",
            is_official: false,
            github_url: None,
            paper_url: None,
            license_url: None,
            cover_image_url: None,
            run_count,
            created_at: first_made_at(model).to_string(),
            default_example: None,
            latest_version: model.latest().map(|version| VersionView::new(model, version)),
        }
    }
}

#[derive(Debug, Serialize)]
pub struct DeploymentView {
    owner: String,
    name: String,
    current_release: Release,
}

#[derive(Debug, Serialize)]
struct Release {
    number: u32,
    model: String,
    version: String,
    created_at: String,
    created_by: Account,
    configuration: Configuration,
}

#[derive(Debug, Serialize)]
struct Configuration {
    hardware: String,
    min_instances: u32,
    max_instances: u32,
}

impl DeploymentView {
    /// The deployment that every model is: its newest version, always on.
    pub fn new(model: &ModelManifest, hardware: &Hardware) -> Option<DeploymentView> {
        let version = model.latest()?;
        let (owner, name) = model.parts();
        Some(DeploymentView {
            owner: owner.to_string(),
            name: name.to_string(),
            current_release: Release {
                number: 1,
                model: model.name.clone(),
                version: version.id.clone(),
                created_at: made_at(version).to_string(),
                created_by: Account::OPERATOR,
                configuration: Configuration { hardware: hardware.sku.clone(), min_instances: 1, max_instances: 1 },
            },
        })
    }
}

#[derive(Debug, Serialize)]
pub struct Account {
    #[serde(rename = "type")]
    kind: &'static str,
    username: &'static str,
    name: &'static str,
}

impl Account {
    /// Whoever runs the server: there is no other account.
    pub const OPERATOR: Account = Account { kind: "user", username: "stablehand", name: "Stablehand" };
}

/// When a version was made; the beginning of Unix time where that is not known, since clients want a time.
pub fn made_at(version: &Version) -> Timestamp {
    version.created_at.as_ref().and_then(|time| time.parse().ok()).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// When the first version was made.
pub fn first_made_at(model: &ModelManifest) -> Timestamp {
    model.versions.iter().map(made_at).min().unwrap_or(Timestamp::UNIX_EPOCH)
}

/// What the model is, and what draws in its place.
pub fn description(catalog: &Catalog, model: &ModelManifest) -> String {
    let served = catalog.served();
    match model.name == served.name {
        true => model.description.clone(),
        false => {
            format!("{} On this server {} stands in for it: {}", model.description, served.name, served.description)
        }
    }
}
