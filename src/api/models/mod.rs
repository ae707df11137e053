//! What can be run: models, versions, deployments, and the lists that Replicate has beside them.
//!
//! All of it comes from the catalog and none of it can be changed over HTTP: whoever tries gets Replicate's 404.

mod schema;
mod search;
mod view;

use axum::extract::{Path, Query, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::images::with_openai_models;
use super::problem::Problem;
use super::view::Origin;
use super::{ApiState, create};
use crate::domain::ModelManifest;

pub use schema::input_schemas;
use view::{Account, DeploymentView, ModelView, Page, VersionView};

/// The routes, by their normalised paths.
pub fn routes() -> Router<ApiState> {
    Router::new()
        .route("/models", get(list).fallback(search::query))
        .route("/models/{owner}/{name}", get(model).patch(not_served).delete(not_served))
        .route("/models/{owner}/{name}/versions", get(versions))
        .route("/models/{owner}/{name}/versions/{id}", get(version).delete(not_served))
        .route("/models/{owner}/{name}/examples", get(examples))
        .route("/models/{owner}/{name}/readme", get(readme))
        .route("/deployments", get(deployments).post(not_served))
        .route("/deployments/{owner}/{name}", get(deployment).patch(not_served).delete(not_served))
        .route("/deployments/{owner}/{name}/predictions", post(create::by_deployment))
        .route("/collections", get(search::collections))
        .route("/collections/{slug}", get(search::collection))
        .route("/search", get(search::search))
        .route("/account", get(account))
        .route("/hardware", get(hardware))
}

/// What Replicate has and a server for one model has not.
async fn not_served() -> Problem {
    Problem::not_found()
}

fn find<'a>(state: &'a ApiState, owner: &str, name: &str) -> Result<&'a ModelManifest, Problem> {
    state.catalog.model(&format!("{owner}/{name}")).ok_or_else(Problem::not_found)
}

async fn views<'a>(
    state: &ApiState,
    models: impl IntoIterator<Item = &'a ModelManifest>,
    origin: &Origin,
) -> Result<Vec<ModelView>, Problem> {
    let mut views = Vec::new();
    for model in models {
        let runs = state.store.count_runs(&model.name).await?;
        views.push(ModelView::new(&state.catalog, model, runs, origin));
    }
    Ok(views)
}

/// How a list of models is sorted.
#[derive(Debug, Default, Deserialize)]
struct Sorting {
    sort_by: Option<String>,
    sort_direction: Option<String>,
}

impl Sorting {
    fn sort(&self, models: &mut [&ModelManifest]) -> Result<(), Problem> {
        let newest = |model: &&ModelManifest| model.latest().map(view::made_at);
        match self.sort_by.as_deref() {
            None | Some("latest_version_created_at") => models.sort_by_key(newest),
            Some("model_created_at") => models.sort_by_key(|model| view::first_made_at(model)),
            Some(_) => return Err(one_of("sort_by", "model_created_at, latest_version_created_at")),
        }
        match self.sort_direction.as_deref() {
            None | Some("desc") => models.reverse(),
            Some("asc") => {}
            Some(_) => return Err(one_of("sort_direction", "asc, desc")),
        }
        Ok(())
    }
}

fn one_of(parameter: &str, choices: &str) -> Problem {
    Problem::bad_request(format!("Query parameter \"{parameter}\" must be one of the following: {choices}"))
}

/// `GET /models`
async fn list(
    State(state): State<ApiState>,
    Query(sorting): Query<Sorting>,
    origin: Origin,
) -> Result<Json<Value>, Problem> {
    let mut models: Vec<&ModelManifest> = state.catalog.models().collect();
    sorting.sort(&mut models)?;
    let page = serde_json::to_value(Page::only(views(&state, models, &origin).await?)).map_err(Problem::internal)?;
    Ok(Json(with_openai_models(page)))
}

/// `GET /models/{owner}/{name}`
async fn model(
    State(state): State<ApiState>,
    Path((owner, name)): Path<(String, String)>,
    origin: Origin,
) -> Result<Json<ModelView>, Problem> {
    let model = find(&state, &owner, &name)?;
    let runs = state.store.count_runs(&model.name).await?;
    Ok(Json(ModelView::new(&state.catalog, model, runs, &origin)))
}

/// `GET /models/{owner}/{name}/versions`
async fn versions(
    State(state): State<ApiState>,
    Path((owner, name)): Path<(String, String)>,
) -> Result<Json<Page<VersionView>>, Problem> {
    let model = find(&state, &owner, &name)?;
    Ok(Json(Page::only(model.versions.iter().map(|version| VersionView::new(model, version)).collect())))
}

/// `GET /models/{owner}/{name}/versions/{id}`
async fn version(
    State(state): State<ApiState>,
    Path((owner, name, id)): Path<(String, String, String)>,
) -> Result<Json<VersionView>, Problem> {
    let model = find(&state, &owner, &name)?;
    let unknown = || Problem::new(StatusCode::NOT_FOUND, "Not found", "Not found.");
    let version = model.versions.iter().find(|version| version.id == id).ok_or_else(unknown)?;
    Ok(Json(VersionView::new(model, version)))
}

/// `GET /models/{owner}/{name}/examples`: none are kept.
async fn examples(
    State(state): State<ApiState>,
    Path((owner, name)): Path<(String, String)>,
) -> Result<Json<Page<()>>, Problem> {
    find(&state, &owner, &name)?;
    Ok(Json(Page::only(Vec::new())))
}

/// `GET /models/{owner}/{name}/readme`
async fn readme(
    State(state): State<ApiState>,
    Path((owner, name)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let model = find(&state, &owner, &name)?;
    let mut text = format!("# {}\n\n{}\n", model.name, view::description(&state.catalog, model));
    if let Some(license) = &model.license {
        text.push_str(&format!("\nLicence of the weights: {license}\n"));
    }
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    Ok(([(header::CONTENT_TYPE, plain)], text).into_response())
}

/// `GET /deployments`
async fn deployments(State(state): State<ApiState>) -> Json<Page<DeploymentView>> {
    let view = |model| DeploymentView::new(model, state.catalog.hardware());
    Json(Page::only(state.catalog.models().filter_map(view).collect()))
}

/// `GET /deployments/{owner}/{name}`
async fn deployment(
    State(state): State<ApiState>,
    Path((owner, name)): Path<(String, String)>,
) -> Result<Json<DeploymentView>, Problem> {
    let model = find(&state, &owner, &name)?;
    DeploymentView::new(model, state.catalog.hardware()).map(Json).ok_or_else(Problem::not_found)
}

/// `GET /account`
async fn account() -> Json<Account> {
    Json(Account::OPERATOR)
}

#[derive(Debug, Serialize)]
struct HardwareView {
    name: String,
    sku: String,
}

/// `GET /hardware`: a bare array.
async fn hardware(State(state): State<ApiState>) -> Json<[HardwareView; 1]> {
    let hardware = state.catalog.hardware();
    Json([HardwareView { name: hardware.name.clone(), sku: hardware.sku.clone() }])
}
