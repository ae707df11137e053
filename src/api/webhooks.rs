//! What a create call says about webhooks, and the secret that their receivers check signatures with.

use axum::Json;
use axum::extract::State;
use serde_json::{Map, Value, json};

use super::ApiState;
use super::token::Tokens;
use super::view::{Origin, PredictionView};
use crate::domain::{FieldError, Prediction, Webhook, WebhookEvent};
use crate::fetch::Fetcher;

/// Characters that a webhook's URL may have.
const URL_LIMIT: usize = 4096;

/// `GET /webhooks/default/secret`
pub async fn secret(State(state): State<ApiState>) -> Json<Value> {
    Json(json!({"key": state.webhook_secret}))
}

/// The body of a webhook: what `GET` would answer to whoever created the prediction.
pub fn webhook_body(
    prediction: Prediction,
    public_url: Option<&str>,
    tokens: &Tokens,
) -> Result<Vec<u8>, serde_json::Error> {
    let origin = Origin::new(public_url.unwrap_or(&prediction.origin));
    serde_json::to_vec(&PredictionView::new(prediction, &origin, tokens))
}

/// Takes the keys about webhooks out of a request body. `webhook_completed` is an old way to ask for the end only;
/// `webhook` wins over it.
pub fn take_webhook(json: &mut Map<String, Value>, errors: &mut Vec<FieldError>) -> Option<Webhook> {
    let url = take_text(json, "webhook", errors);
    let legacy = take_text(json, "webhook_completed", errors);
    let events_filter = take_events(json, errors);
    match (url, legacy) {
        (Some(url), _) => Some(Webhook { url, events_filter }),
        (None, Some(url)) => Some(Webhook { url, events_filter: Some(vec![WebhookEvent::Completed]) }),
        (None, None) => None,
    }
}

/// Why this webhook could never be sent, as far as its address tells.
pub fn refusal(fetcher: &Fetcher, webhook: &Webhook) -> Option<FieldError> {
    let wrong = |kind, description| FieldError { kind, field: "webhook".to_string(), description };
    if webhook.url.chars().count() > URL_LIMIT {
        return Some(wrong("string_lte", format!("String length must be less than or equal to {URL_LIMIT}")));
    }
    let refused = fetcher.check(&webhook.url).err()?;
    Some(wrong("format", format!("Does not match format 'uri': {refused}")))
}

fn take_text(json: &mut Map<String, Value>, key: &str, errors: &mut Vec<FieldError>) -> Option<String> {
    match json.remove(key)? {
        Value::Null => None,
        // Some clients send an empty text for none.
        Value::String(text) => Some(text).filter(|text| !text.is_empty()),
        other => {
            errors.push(FieldError::invalid_type(key, "string", &other));
            None
        }
    }
}

fn take_events(json: &mut Map<String, Value>, errors: &mut Vec<FieldError>) -> Option<Vec<WebhookEvent>> {
    const KEY: &str = "webhook_events_filter";
    let items = match json.remove(KEY)? {
        Value::Null => return None,
        Value::Array(items) => items,
        other => {
            errors.push(FieldError::invalid_type(KEY, "array", &other));
            return None;
        }
    };
    let mut events = Vec::new();
    for (index, item) in items.iter().enumerate() {
        match item.as_str().and_then(WebhookEvent::from_name) {
            Some(event) if events.contains(&event) => {}
            Some(event) => events.push(event),
            None => errors.push(FieldError {
                kind: "enum",
                field: format!("{KEY}.{index}"),
                description: format!("{KEY}.{index} must be one of the following: {}", event_names()),
            }),
        }
    }
    Some(events)
}

fn event_names() -> String {
    WebhookEvent::ALL.map(|event| format!("\"{}\"", event.name())).join(", ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn take(body: Value) -> (Option<Webhook>, Vec<String>) {
        let mut errors = Vec::new();
        let mut body = body.as_object().unwrap().clone();
        let webhook = take_webhook(&mut body, &mut errors);
        assert!(body.is_empty());
        (webhook, errors.into_iter().map(|e| e.field).collect())
    }

    #[test]
    fn both_ways_to_ask() {
        let url = || "https://example.org/hook".to_string();
        let webhook = |events_filter| Some(Webhook { url: url(), events_filter });
        assert_eq!(take(json!({"webhook": url()})).0, webhook(None));
        assert_eq!(take(json!({"webhook": url(), "webhook_completed": "https://other"})).0, webhook(None));
        let filter = json!({"webhook": url(), "webhook_events_filter": ["logs", "start", "logs"]});
        assert_eq!(take(filter).0, webhook(Some(vec![WebhookEvent::Logs, WebhookEvent::Start])));
        assert_eq!(take(json!({"webhook_completed": url()})).0, webhook(Some(vec![WebhookEvent::Completed])));
        let none = json!({"webhook": null, "webhook_completed": null, "webhook_events_filter": null});
        assert_eq!(take(none), (None, vec![]));
        assert_eq!(take(json!({"webhook": "", "webhook_events_filter": []})), (None, vec![]));
        let wrong = json!({"webhook": 1, "webhook_completed": [], "webhook_events_filter": ["start", "end", 3]});
        let fields = ["webhook", "webhook_completed", "webhook_events_filter.1", "webhook_events_filter.2"];
        assert_eq!(take(wrong), (None, fields.map(String::from).to_vec()));
        assert_eq!(take(json!({"webhook_events_filter": "start"})).1, ["webhook_events_filter"]);
    }

    #[test]
    fn addresses_that_cannot_be_reached_are_refused_at_once() {
        let of = |url: &str| refusal(&Fetcher::new(false), &Webhook { url: url.to_string(), events_filter: None });
        assert_eq!(of("https://example.org/hook"), None);
        for (url, kind) in [("nowhere", "format"), ("ftp://example.org", "format"), ("http://10.0.0.1", "format")] {
            assert_eq!(of(url).map(|e| (e.kind, e.field)), Some((kind, "webhook".to_string())), "{url}");
        }
        assert_eq!(of(&format!("https://example.org/{}", "x".repeat(URL_LIMIT))).unwrap().kind, "string_lte");
    }
}
