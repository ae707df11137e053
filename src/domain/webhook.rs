//! What a prediction's creator wants to be told, and what each message shows.

use serde::{Deserialize, Serialize};

use super::{Prediction, Status};

/// Something that a webhook may tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WebhookEvent {
    /// Work has begun.
    Start,
    /// There is new output.
    Output,
    /// There are new logs.
    Logs,
    /// A terminal state is reached.
    Completed,
}

impl WebhookEvent {
    pub const ALL: [WebhookEvent; 4] =
        [WebhookEvent::Start, WebhookEvent::Output, WebhookEvent::Logs, WebhookEvent::Completed];

    /// The word in Replicate's API.
    pub fn name(self) -> &'static str {
        match self {
            WebhookEvent::Start => "start",
            WebhookEvent::Output => "output",
            WebhookEvent::Logs => "logs",
            WebhookEvent::Completed => "completed",
        }
    }

    /// The event of that name.
    pub fn from_name(name: &str) -> Option<WebhookEvent> {
        WebhookEvent::ALL.into_iter().find(|e| e.name() == name)
    }

    /// Told at most once per half second; the newest state wins.
    pub fn is_throttled(self) -> bool {
        matches!(self, WebhookEvent::Output | WebhookEvent::Logs)
    }

    /// Told again when the receiver fails: only the end is.
    pub fn is_retried(self) -> bool {
        self == WebhookEvent::Completed
    }
}

/// Whom to tell of a prediction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook {
    /// As sent.
    pub url: String,
    /// As sent; absent or empty: new output and the end.
    pub events_filter: Option<Vec<WebhookEvent>>,
}

impl Webhook {
    /// Whether this event is to be told.
    pub fn wants(&self, event: WebhookEvent) -> bool {
        match &self.events_filter {
            Some(events) if !events.is_empty() => events.contains(&event),
            _ => matches!(event, WebhookEvent::Output | WebhookEvent::Completed),
        }
    }

    /// Host and port, by which receivers are told apart.
    pub fn host(&self) -> &str {
        let rest = self.url.split_once("://").map_or(self.url.as_str(), |(_, rest)| rest);
        let authority = rest.split(['/', '?', '#', '\\']).next().unwrap_or_default();
        authority.rsplit('@').next().unwrap_or_default()
    }
}

impl Prediction {
    /// What a message about `event` shows, however late it is sent: a start shows no results yet, new output no end.
    pub fn as_of(mut self, event: WebhookEvent) -> Prediction {
        match event {
            WebhookEvent::Start => {
                self.status = if self.started_at.is_some() { Status::Processing } else { Status::Starting };
                self.logs.clear();
                (self.output, self.error, self.completed_at) = (None, None, None);
            }
            WebhookEvent::Output if self.status == Status::Succeeded => {
                self.status = Status::Processing;
                self.completed_at = None;
            }
            WebhookEvent::Output | WebhookEvent::Logs | WebhookEvent::Completed => {}
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn webhook(url: &str, filter: Option<&[WebhookEvent]>) -> Webhook {
        Webhook { url: url.to_string(), events_filter: filter.map(<[WebhookEvent]>::to_vec) }
    }

    #[test]
    fn without_a_filter_output_and_end_are_told() {
        for filter in [None, Some(&[][..])] {
            let wanted = WebhookEvent::ALL.map(|event| webhook("http://x", filter).wants(event));
            assert_eq!(wanted, [false, true, false, true]);
        }
        let wanted = WebhookEvent::ALL.map(|event| webhook("http://x", Some(&[WebhookEvent::Logs])).wants(event));
        assert_eq!(wanted, [false, false, true, false]);
        for event in WebhookEvent::ALL {
            assert_eq!(WebhookEvent::from_name(event.name()), Some(event));
        }
    }

    #[test]
    fn receivers_are_told_apart_by_host_and_port() {
        for (url, host) in [
            ("https://example.org/a?b#c", "example.org"),
            ("http://user:p@ss@example.org:8080", "example.org:8080"),
            ("http://[::1]:9/x@y", "[::1]:9"),
            ("https://example.org?x=http://other", "example.org"),
            ("nonsense", "nonsense"),
        ] {
            assert_eq!(webhook(url, None).host(), host, "{url}");
        }
    }
}
