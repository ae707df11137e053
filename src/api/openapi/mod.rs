//! The OpenAPI document of this server, and the page that shows it.
//!
//! Paths and schemas are written by hand in the JSON files beside this one; what an `input` may be comes from the table
//! of the model that is served. `tests/suite/openapi.rs` keeps the paths and the routes the same.

pub mod page;

use axum::Json;
use axum::extract::State;
use serde_json::{Map, Value, json};

use super::ApiState;
use super::models::input_schemas;
use super::problem::Problem;
use crate::domain::Catalog;

/// Everything but paths and schemas.
const HEAD: &str = include_str!("head.json");
const PATHS: [&str; 3] = [include_str!("predictions.json"), include_str!("models.json"), include_str!("files.json")];
const SCHEMAS: &str = include_str!("schemas.json");

/// The whole document, as this process serves it.
fn build(catalog: &Catalog) -> Result<Value, serde_json::Error> {
    let mut document: Value = serde_json::from_str(HEAD)?;
    document["info"]["version"] = json!(env!("CARGO_PKG_VERSION"));
    let mut paths = Map::new();
    for part in PATHS {
        paths.extend(serde_json::from_str::<Map<String, Value>>(part)?);
    }
    document["paths"] = paths.into();
    let mut schemas: Map<String, Value> = serde_json::from_str(SCHEMAS)?;
    let served = catalog.served();
    schemas.extend(served.latest().map(|version| input_schemas(served.table(&version.id))).unwrap_or_default());
    schemas["Input"]["description"] = json!(format!(
        "Of {}; every version's own is in its `openapi_schema`. Other keys are ignored, `null` is absent.",
        served.name
    ));
    document["components"]["schemas"] = schemas.into();
    Ok(document)
}

/// `GET /openapi.json`
pub async fn document(State(state): State<ApiState>) -> Result<Json<Value>, Problem> {
    build(&state.catalog).map(Json).map_err(Problem::internal)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::domain::ModelManifest;

    pub fn example() -> Value {
        build(&Catalog::new(ModelManifest::of_directory("/x".into()), &[])).unwrap()
    }

    fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(map) => map.iter().for_each(|(key, value)| match (key.as_str(), value.as_str()) {
                ("$ref", Some(to)) => found.push(to),
                _ => references(value, found),
            }),
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }

    #[test]
    fn every_reference_leads_somewhere_and_no_schema_is_left_over() {
        let document = example();
        let mut found = Vec::new();
        references(&document, &mut found);
        for to in &found {
            assert!(document.pointer(to.trim_start_matches('#')).is_some(), "{to}");
        }
        for part in ["schemas", "parameters", "responses"] {
            for name in document["components"][part].as_object().unwrap().keys() {
                let to = format!("#/components/{part}/{name}");
                assert!(found.contains(&to.as_str()), "nothing refers to {to}");
            }
        }
    }

    #[test]
    fn every_operation_has_a_name_of_its_own_and_its_path_parameters() {
        let document = example();
        let mut names = Vec::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for operation in item.as_object().unwrap().values() {
                names.push(operation["operationId"].as_str().unwrap());
                let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
                let resolve = |p: &Value| match p["$ref"].as_str() {
                    Some(to) => document.pointer(to.trim_start_matches('#')).unwrap().clone(),
                    None => p.clone(),
                };
                let mut described: Vec<String> = parameters
                    .iter()
                    .map(resolve)
                    .filter(|p| p["in"] == "path")
                    .map(|p| p["name"].as_str().unwrap().to_string())
                    .collect();
                let mut named: Vec<String> =
                    path.split('{').skip(1).map(|rest| rest.split('}').next().unwrap().to_string()).collect();
                described.sort();
                named.sort();
                assert_eq!(described, named, "{path}");
            }
        }
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
