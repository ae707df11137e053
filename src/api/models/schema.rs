//! The OpenAPI 3.0 document of a version, as Replicate serves it with every model: clients read `Input` and `Output`
//! from it. Made from the table that validates, so that both say the same.

use serde_json::{Map, Value, json};

use crate::domain::{Field, InputTable, Rule};

/// A complete document with this `Input`.
pub fn openapi_schema(table: &InputTable) -> Value {
    let mut schemas = input_schemas(table);
    let Value::Object(others) = cog_schemas() else { return Value::Null };
    schemas.extend(others);
    json!({
        "openapi": "3.0.2",
        "info": {"title": "Cog", "version": "0.1.0"},
        "paths": cog_paths(),
        "components": {"schemas": schemas},
    })
}

/// `Input`, and the enumerations that it refers to, by name.
pub fn input_schemas(table: &InputTable) -> Map<String, Value> {
    let mut schemas = Map::new();
    let mut properties = Map::new();
    for (order, field) in table.fields().iter().enumerate() {
        let (property, choices) = property(field, order);
        properties.insert(field.name.to_string(), property);
        schemas.extend(choices.map(|choices| (field.name.to_string(), choices)));
    }
    schemas.insert("Input".to_string(), json!({"type": "object", "title": "Input", "properties": properties}));
    schemas
}

/// A property of `Input`, and what it may be when that is an enumeration.
fn property(field: &Field<'_>, order: usize) -> (Value, Option<Value>) {
    let enumeration = |default: Value, kind: &str, values: Vec<Value>| {
        let reference = format!("#/components/schemas/{}", field.name);
        let choices = json!({"enum": values, "type": kind, "title": field.name, "description": "An enumeration."});
        (json!({"allOf": [{"$ref": reference}], "default": default}), Some(choices))
    };
    let plain = |property: Value| (property, None);
    let (mut property, choices) = match field.rule {
        Rule::Text(rule) => {
            let mut property = json!({"type": "string", "maxLength": rule.max_length});
            if let Some(default) = &rule.default {
                property["default"] = json!(default);
            }
            plain(property)
        }
        Rule::Side(rule) => {
            enumeration(json!(rule.default), "integer", rule.allowed().into_iter().map(Value::from).collect())
        }
        Rule::Dimensions(rule) => {
            enumeration(json!(rule.default), "string", rule.values.iter().map(|s| json!(s)).collect())
        }
        Rule::Scheduler(rule) => {
            let names = rule.values.iter().map(|s| json!(rule.spelling(*s))).collect();
            enumeration(json!(rule.spelling(rule.default)), "string", names)
        }
        Rule::Integer(rule) => {
            plain(json!({"type": "integer", "default": rule.default, "minimum": rule.min, "maximum": rule.max}))
        }
        Rule::Number(rule) => plain(json!({
            "type": "number", "default": number(rule.default), "minimum": number(rule.min), "maximum": number(rule.max),
        })),
        Rule::Seed => plain(json!({"type": "integer"})),
    };
    if choices.is_none() {
        property["title"] = json!(title(field.name));
    }
    property["x-order"] = json!(order);
    property["description"] = json!(field.description);
    (property, choices)
}

/// A whole number without `.0`.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e15 { json!(value as i64) } else { json!(value) }
}

/// `num_outputs` as `Num Outputs`.
fn title(name: &str) -> String {
    let capital = |word: &str| word.chars().take(1).flat_map(char::to_uppercase).chain(word.chars().skip(1)).collect();
    name.split('_').map(capital).collect::<Vec<String>>().join(" ")
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

/// What a model's own server offers in Cog's convention; strict readers want paths.
fn cog_paths() -> Value {
    let answer = |schema: Value| json!({"description": "Successful Response", "content": {"application/json": {"schema": schema}}});
    let responses = json!({
        "200": answer(reference("PredictionResponse")),
        "422": {"description": "Validation Error",
                "content": {"application/json": {"schema": reference("HTTPValidationError")}}},
    });
    let body = json!({"required": true, "content": {"application/json": {"schema": reference("PredictionRequest")}}});
    let prefer = json!({"in": "header", "name": "prefer", "required": false, "schema": {"type": "string"}});
    let id = json!({"in": "path", "name": "prediction_id", "required": true, "schema": {"type": "string"}});
    json!({
        "/": {"get": {"summary": "Root", "operationId": "root__get", "responses": {"200": answer(json!({}))}}},
        "/health-check": {"get": {"summary": "Healthcheck", "operationId": "healthcheck_health_check_get",
                                  "responses": {"200": answer(json!({}))}}},
        "/predictions": {"post": {
            "summary": "Predict", "operationId": "predict_predictions_post",
            "description": "Run a single prediction on the model",
            "parameters": [prefer], "requestBody": body, "responses": responses,
        }},
        "/predictions/{prediction_id}": {"put": {
            "summary": "Predict Idempotent", "operationId": "predict_idempotent_predictions__prediction_id__put",
            "description": "Run a single prediction on the model (idempotent creation).",
            "parameters": [id, prefer], "requestBody": body, "responses": responses,
        }},
        "/predictions/{prediction_id}/cancel": {"post": {
            "summary": "Cancel", "operationId": "cancel_predictions__prediction_id__cancel_post",
            "description": "Cancel a running prediction",
            "parameters": [id], "responses": {"200": answer(json!({}))},
        }},
    })
}

/// Everything but `Input` and its enumerations.
fn cog_schemas() -> Value {
    let (text, time) = (json!({"type": "string"}), json!({"type": "string", "format": "date-time"}));
    let events = json!({"type": "array", "items": reference("WebhookEvent")});
    json!({
        "Output": {"type": "array", "title": "Output", "items": {"type": "string", "format": "uri"}},
        "Status": {"type": "string", "title": "Status", "description": "An enumeration.",
                   "enum": ["starting", "processing", "succeeded", "canceled", "failed"]},
        "WebhookEvent": {"type": "string", "title": "WebhookEvent", "description": "An enumeration.",
                         "enum": ["start", "output", "logs", "completed"]},
        "PredictionRequest": {"type": "object", "title": "PredictionRequest", "properties": {
            "id": text, "input": reference("Input"), "created_at": time, "output_file_prefix": text,
            "webhook": {"type": "string", "format": "uri", "minLength": 1, "maxLength": 65536},
            "webhook_events_filter": events,
        }},
        "PredictionResponse": {"type": "object", "title": "PredictionResponse", "properties": {
            "id": text, "input": reference("Input"), "output": reference("Output"), "version": text,
            "status": reference("Status"), "logs": {"type": "string", "default": ""}, "error": text,
            "metrics": {"type": "object"}, "created_at": time, "started_at": time, "completed_at": time,
        }},
        "ValidationError": {"type": "object", "title": "ValidationError", "required": ["loc", "msg", "type"],
            "properties": {
                "loc": {"type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "integer"}]}},
                "msg": text, "type": text,
            }},
        "HTTPValidationError": {"type": "object", "title": "HTTPValidationError",
            "properties": {"detail": {"type": "array", "items": reference("ValidationError")}}},
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::domain::Input;

    fn older() -> InputTable {
        toml::from_str(
            "image_dimensions = { default = '768x768', values = ['512x512', '768x768'] }
             prompt = { max_length = 20 }
             scheduler = { default = 'KLMS', values = ['DDIM', 'KLMS'], spelled = { KLMS = 'K-LMS' } }",
        )
        .unwrap()
    }

    #[test]
    fn the_default_model_is_described_as_replicate_does() {
        let schema = openapi_schema(&InputTable::default());
        let schemas = &schema["components"]["schemas"];
        let input = &schemas["Input"]["properties"];
        assert_eq!(
            input["num_outputs"],
            json!({"type": "integer", "title": "Num Outputs", "default": 1, "minimum": 1, "maximum": 4, "x-order": 4,
                   "description": "Number of pictures"})
        );
        assert_eq!(input["guidance_scale"]["maximum"].to_string(), "20");
        assert_eq!(input["width"]["allOf"], json!([{"$ref": "#/components/schemas/width"}]));
        assert_eq!((&input["width"]["default"], &schemas["width"]["enum"][15]), (&json!(768), &json!(1024)));
        assert_eq!((&schemas["scheduler"]["title"], input["scheduler"].get("title")), (&json!("scheduler"), None));
        assert_eq!(schemas["Output"]["items"]["format"], "uri");
        let mut names: Vec<(u64, &String)> =
            input.as_object().unwrap().iter().map(|(name, p)| (p["x-order"].as_u64().unwrap(), name)).collect();
        names.sort();
        let names: Vec<&str> = names.into_iter().map(|(_, name)| name.as_str()).collect();
        let expected =
            "prompt height width negative_prompt num_outputs num_inference_steps guidance_scale scheduler seed";
        assert_eq!(names.join(" "), expected);
    }

    #[test]
    fn older_versions_are_described_by_their_own_keys() {
        let schemas = input_schemas(&older());
        let input = &schemas["Input"]["properties"];
        assert_eq!((&input["image_dimensions"]["default"], input.get("width")), (&json!("768x768"), None));
        assert_eq!(schemas["image_dimensions"]["enum"], json!(["512x512", "768x768"]));
        assert_eq!(
            (&input["scheduler"]["default"], &schemas["scheduler"]["enum"][1]),
            (&json!("K-LMS"), &json!("K-LMS"))
        );
    }

    #[test]
    fn every_reference_leads_somewhere() {
        fn check(value: &Value, schemas: &Value) {
            match value {
                Value::Object(map) => map.iter().for_each(|(key, value)| match (key.as_str(), value.as_str()) {
                    ("$ref", Some(to)) => assert!(schemas.get(to.rsplit('/').next().unwrap()).is_some(), "{to}"),
                    _ => check(value, schemas),
                }),
                Value::Array(items) => items.iter().for_each(|item| check(item, schemas)),
                _ => {}
            }
        }
        for table in [InputTable::default(), older()] {
            let schema = openapi_schema(&table);
            check(&schema, &schema["components"]["schemas"]);
        }
    }

    /// What the description permits is accepted, and what it forbids is refused, at every bound of every key.
    #[test]
    fn the_description_and_the_validation_agree() {
        for table in [InputTable::default(), older()] {
            let schemas = input_schemas(&table);
            let verdict = |name: &str, value: Value| {
                let input: Map<String, Value> = [(name.to_string(), value)].into_iter().collect();
                match Input::parse(&table, &input) {
                    Ok(_) => true,
                    Err(errors) => {
                        assert_eq!(
                            errors.iter().map(|e| e.field.as_str()).collect::<Vec<_>>(),
                            [format!("input.{name}")]
                        );
                        false
                    }
                }
            };
            for (name, property) in schemas["Input"]["properties"].as_object().unwrap() {
                assert!(!verdict(name, json!({"no": "such thing"})), "{name}");
                property.get("default").iter().for_each(|default| assert!(verdict(name, (*default).clone()), "{name}"));
                if let Some(choices) = schemas.get(name) {
                    let values = choices["enum"].as_array().unwrap();
                    assert!(values.iter().all(|value| verdict(name, value.clone())), "{name}");
                    assert!(!verdict(name, json!("no such choice")) && !verdict(name, json!(65)), "{name}");
                }
                if let Some(longest) = property["maxLength"].as_u64() {
                    assert!(verdict(name, json!("ö".repeat(longest as usize))), "{name}");
                    assert!(!verdict(name, json!("ö".repeat(longest as usize + 1))), "{name}");
                }
                for (bound, outwards) in [("minimum", -1.0), ("maximum", 1.0)] {
                    let Some(limit) = property.get(bound).and_then(Value::as_f64) else { continue };
                    assert!(verdict(name, json!(limit)) && !verdict(name, json!(limit + outwards)), "{name} {bound}");
                }
            }
        }
    }
}
