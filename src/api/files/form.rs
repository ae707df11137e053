//! The form of an upload, read part by part as it arrives: the file goes to the disk, the rest is small.
//!
//! Parts are known by their names, in any order; whether one came as a field or as a file does not matter, and parts of
//! other names are passed over.

use std::time::Duration;

use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use bytes::Bytes;
use multer::Field;
use serde_json::{Map, Value};
use tokio::time::timeout;

use super::super::ApiState;
use super::super::problem::Problem;
use super::parts::{Parts, PartsError};
use super::too_large;
use crate::domain::FieldError;
use crate::uploads::{Description, Incoming, Uploads};

/// Bytes of the parts beside the file.
const TEXT_LIMIT: usize = 64 * 1024;

/// Bytes of a file's name.
const NAME_LIMIT: usize = 255;

/// Characters of a part's name that an error repeats.
const SHOWN: usize = 100;

/// For a whole request to arrive.
const FORM_TIMEOUT: Duration = Duration::from_secs(30 * 60);

const UNKNOWN_TYPE: &str = "application/octet-stream";

/// An upload that has not been read.
pub struct Form(Parts);

impl FromRequest<ApiState> for Form {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &ApiState) -> Result<Form, Problem> {
        Parts::of(request).map(Form).ok_or_else(|| {
            Problem::bad_request(
                "Send a form as multipart/form-data with a boundary, and the file in its part \"content\".",
            )
        })
    }
}

/// What was found so far.
#[derive(Default)]
struct Found {
    content: Option<Incoming>,
    /// Of the content part itself; fields of their own win.
    part_name: Option<String>,
    part_type: Option<String>,
    filename: Option<String>,
    kind: Option<String>,
    metadata: Option<Bytes>,
    /// From parts named `metadata[key]`, as generated clients send them; one object in a part of its own wins.
    entries: Map<String, Value>,
    entry_bytes: usize,
}

impl Form {
    /// Reads all parts. The file is on disk then, but not kept yet.
    pub async fn read(mut self, uploads: &Uploads) -> Result<(Incoming, Description), Problem> {
        let mut found = Found::default();
        let read = timeout(FORM_TIMEOUT, self.read_parts(uploads, &mut found)).await;
        match read.unwrap_or_else(|_| Err(unreadable("The form", PartsError::TooSlow))) {
            Ok(()) => found.checked(),
            Err(problem) => {
                // The client may not listen before it has sent everything.
                self.0.pass_over().await;
                Err(problem)
            }
        }
    }

    async fn read_parts(&mut self, uploads: &Uploads, found: &mut Found) -> Result<(), Problem> {
        let mut before: Option<String> = None;
        loop {
            let next = self.0.next().await.map_err(|error| match &before {
                None => unreadable("The beginning of the form", error),
                Some(name) => unreadable(&format!("What follows the part {name:?} of the form"), error),
            })?;
            let Some(mut part) = next else { return Ok(()) };
            let name: String = part.name().unwrap_or_default().chars().take(SHOWN).collect();
            match name.as_str() {
                "content" if found.content.is_some() => {
                    return Err(wrong("array_max_items", "content", "content must be given only once"));
                }
                "content" => {
                    found.part_name = part.file_name().map(str::to_string);
                    found.part_type = part.content_type().map(|kind| kind.to_string());
                    found.content = Some(self.content(&mut part, uploads).await?);
                }
                "metadata" => found.metadata = Some(self.small(&mut part, "metadata").await?),
                "filename" => found.filename = self.text(&mut part, "filename").await?,
                "type" => found.kind = self.text(&mut part, "type").await?,
                _ => match metadata_key(&name) {
                    Some(key) => {
                        let value = self.text(&mut part, &name).await?.unwrap_or_default();
                        found.entry(key, value)?;
                    }
                    None => while self.piece(&mut part, &name).await?.is_some() {},
                },
            }
            before = Some(name);
        }
    }

    /// The file itself.
    async fn content(&self, part: &mut Field<'static>, uploads: &Uploads) -> Result<Incoming, Problem> {
        let mut incoming = uploads.begin().await?;
        while let Some(bytes) = self.piece(part, "content").await? {
            incoming.write(bytes).await?;
        }
        Ok(incoming)
    }

    /// A part that is held in memory.
    async fn small(&self, part: &mut Field<'static>, name: &str) -> Result<Bytes, Problem> {
        let mut whole = Vec::new();
        while let Some(bytes) = self.piece(part, name).await? {
            whole.extend_from_slice(&bytes);
            if whole.len() > TEXT_LIMIT {
                return Err(Problem::invalid(vec![too_long(name, TEXT_LIMIT)]));
            }
        }
        Ok(whole.into())
    }

    /// A part of text; an empty one is none.
    async fn text(&self, part: &mut Field<'static>, name: &str) -> Result<Option<String>, Problem> {
        let bytes = self.small(part, name).await?;
        let text = std::str::from_utf8(&bytes).map_err(|_| Problem::invalid(vec![format_error(name, "utf-8")]))?;
        Ok(Some(text.trim().to_string()).filter(|text| !text.is_empty()))
    }

    async fn piece(&self, part: &mut Field<'static>, name: &str) -> Result<Option<Bytes>, Problem> {
        let piece = self.0.piece(part).await;
        piece.map_err(|error| unreadable(&format!("The part {name:?} of the form"), error))
    }
}

/// `key` of a part named `metadata[key]`.
fn metadata_key(name: &str) -> Option<&str> {
    name.strip_prefix("metadata[")?.strip_suffix(']').filter(|key| !key.is_empty() && !key.contains(['[', ']']))
}

impl Found {
    /// Keeps one entry of the metadata, of which all together are no longer than one text.
    fn entry(&mut self, key: &str, value: String) -> Result<(), Problem> {
        self.entry_bytes += key.len() + value.len();
        if self.entry_bytes > TEXT_LIMIT {
            return Err(Problem::invalid(vec![too_long("metadata", TEXT_LIMIT)]));
        }
        self.entries.insert(key.to_string(), value.into());
        Ok(())
    }

    /// What the parts say, or everything that is wrong with them.
    fn checked(self) -> Result<(Incoming, Description), Problem> {
        let mut errors = Vec::new();
        let given = self.filename.or(self.part_name).unwrap_or_default();
        // Some clients send a path; only its end is a name.
        let name = given.rsplit(['/', '\\']).next().unwrap_or_default();
        if name.len() > NAME_LIMIT {
            errors.push(too_long("filename", NAME_LIMIT));
        }
        if name.chars().any(char::is_control) {
            errors.push(format_error("filename", "filename"));
        }
        let is_type = |text: &String| text.len() <= NAME_LIMIT && text.parse::<mime::Mime>().is_ok();
        if self.kind.as_ref().is_some_and(|given| !is_type(given)) {
            errors.push(format_error("type", "mime"));
        }
        let content_type = self.kind.or(self.part_type).filter(is_type).unwrap_or_else(|| UNKNOWN_TYPE.to_string());
        let metadata = match self.metadata.as_deref().map(<[u8]>::trim_ascii) {
            None | Some([]) => Value::Object(self.entries),
            Some(json) => serde_json::from_slice(json).unwrap_or_else(|_| {
                errors.push(format_error("metadata", "json"));
                Value::Object(Default::default())
            }),
        };
        let metadata = match metadata {
            Value::Object(metadata) => metadata,
            Value::Null => Default::default(),
            other => {
                errors.push(FieldError::invalid_type("metadata", "object", &other));
                Default::default()
            }
        };
        let name = if name.is_empty() { "file" } else { name }.to_string();
        match self.content {
            Some(content) if errors.is_empty() => Ok((content, Description { name, content_type, metadata })),
            Some(_) => Err(Problem::invalid(errors)),
            None => {
                errors.insert(0, FieldError::required("", "content"));
                Err(Problem::invalid(errors))
            }
        }
    }
}

fn unreadable(place: &str, error: PartsError) -> Problem {
    let detail = format!("{place} cannot be read: {error}");
    match error {
        PartsError::TooLarge => too_large(),
        PartsError::TooSlow => Problem::new(StatusCode::REQUEST_TIMEOUT, "Request timeout", detail),
        PartsError::Endless | PartsError::Broken | PartsError::Malformed(_) => Problem::bad_request(detail),
    }
}

fn wrong(kind: &'static str, name: &str, description: &str) -> Problem {
    let (field, description) = (name.to_string(), description.to_string());
    Problem::invalid(vec![FieldError { kind, field, description }])
}

fn too_long(name: &str, limit: usize) -> FieldError {
    let description = format!("String length must be less than or equal to {limit}");
    FieldError { kind: "string_lte", field: name.to_string(), description }
}

fn format_error(name: &str, format: &str) -> FieldError {
    let description = format!("Does not match format '{format}'");
    FieldError { kind: "format", field: name.to_string(), description }
}
