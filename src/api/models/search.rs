//! Finding models by words and by collection.

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::Method;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use super::view::{ModelView, Page};
use super::views;
use crate::api::ApiState;
use crate::api::create::RawBody;
use crate::api::problem::Problem;
use crate::api::view::Origin;
use crate::domain::ModelManifest;

/// The only collection: every model that is served makes pictures of text.
const TEXT_TO_IMAGE: Collection =
    Collection { name: "Text to image", slug: "text-to-image", description: "Models that draw what a text describes" };

const REFERENCE: FoundPage = FoundPage { name: "API reference", href: "/docs" };

/// Models in an answer to `GET /search`, unless it says otherwise.
const DEFAULT_LIMIT: usize = 20;

#[derive(Debug, Clone, Copy, Serialize)]
pub struct Collection {
    name: &'static str,
    slug: &'static str,
    description: &'static str,
}

/// The models whose name, aliases or description contain every word.
fn matching<'a>(state: &'a ApiState, words: &str) -> Vec<&'a ModelManifest> {
    let known = |model: &&ModelManifest| {
        let (name, aliases, about) = (&model.name, model.aliases.join(" "), &model.description);
        has_all(&format!("{name} {aliases} {about} {}", TEXT_TO_IMAGE.slug), words)
    };
    state.catalog.models().filter(known).collect()
}

fn has_all(text: &str, words: &str) -> bool {
    let text = text.to_lowercase();
    words.split_whitespace().all(|word| text.contains(&word.to_lowercase()))
}

/// `QUERY /models`, the method that few libraries know by name; whatever else comes here is not served.
pub async fn query(
    method: Method,
    State(state): State<ApiState>,
    origin: Origin,
    RawBody(body): RawBody,
) -> Result<Response, Problem> {
    match method.as_str() {
        "QUERY" => {}
        "POST" => return Err(Problem::not_found()),
        _ => return Err(Problem::method_not_allowed()),
    }
    let text = str::from_utf8(&body).map_err(|_| Problem::bad_request("The request body is not UTF-8 text."))?;
    // JavaScript's client sends the text as JSON.
    let text = text.trim();
    let words = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    let found = matching(&state, words);
    Ok(Json(Page::only(views(&state, found, &origin).await?)).into_response())
}

#[derive(Debug, Deserialize)]
pub struct SearchQuery {
    query: Option<String>,
    limit: Option<String>,
}

#[derive(Debug, Serialize)]
pub struct SearchView {
    query: String,
    models: Vec<FoundModel>,
    collections: Vec<FoundCollection>,
    pages: Vec<FoundPage>,
}

#[derive(Debug, Serialize)]
struct FoundModel {
    model: ModelView,
    metadata: Metadata,
}

#[derive(Debug, Serialize)]
struct Metadata {
    generated_description: Option<String>,
    tags: [&'static str; 1],
    score: Option<f64>,
}

#[derive(Debug, Serialize)]
struct FoundCollection {
    #[serde(flatten)]
    collection: Collection,
    models: Vec<String>,
}

#[derive(Debug, Serialize)]
struct FoundPage {
    name: &'static str,
    href: &'static str,
}

/// `GET /search`
pub async fn search(
    State(state): State<ApiState>,
    Query(search): Query<SearchQuery>,
    origin: Origin,
) -> Result<Json<SearchView>, Problem> {
    let missing = || Problem::bad_request("Query parameter \"query\" is required");
    let query = search.query.filter(|query| !query.trim().is_empty()).ok_or_else(missing)?;
    let limit = match search.limit.map(|limit| limit.parse()) {
        None => DEFAULT_LIMIT,
        Some(Ok(limit @ 1..=50)) => limit,
        Some(_) => {
            return Err(Problem::bad_request("Query parameter \"limit\" must be a whole number from 1 to 50"));
        }
    };
    let mut found = matching(&state, &query);
    found.truncate(limit);
    let names: Vec<String> = found.iter().map(|model| model.name.clone()).collect();
    let metadata = || Metadata { generated_description: None, tags: [TEXT_TO_IMAGE.slug], score: None };
    let models = views(&state, found, &origin).await?;
    Ok(Json(SearchView {
        models: models.into_iter().map(|model| FoundModel { model, metadata: metadata() }).collect(),
        collections: if names.is_empty() {
            Vec::new()
        } else {
            vec![FoundCollection { collection: TEXT_TO_IMAGE, models: names }]
        },
        pages: if has_all("api reference docs openapi", &query) { vec![REFERENCE] } else { Vec::new() },
        query,
    }))
}

#[derive(Debug, Serialize)]
pub struct CollectionView {
    #[serde(flatten)]
    collection: Collection,
    full_description: Option<String>,
    models: Vec<ModelView>,
}

/// `GET /collections`
pub async fn collections() -> Json<Page<Collection>> {
    Json(Page::only(vec![TEXT_TO_IMAGE]))
}

/// `GET /collections/{slug}`
pub async fn collection(
    State(state): State<ApiState>,
    Path(slug): Path<String>,
    origin: Origin,
) -> Result<Json<CollectionView>, Problem> {
    if slug != TEXT_TO_IMAGE.slug {
        return Err(Problem::not_found());
    }
    let models = views(&state, state.catalog.models(), &origin).await?;
    Ok(Json(CollectionView { collection: TEXT_TO_IMAGE, full_description: None, models }))
}
