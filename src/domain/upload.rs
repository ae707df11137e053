//! A file that a client uploaded, to be used as an input.

use jiff::Timestamp;
use serde_json::{Map, Value};

/// Characters of a file id.
const ID_LENGTH: usize = 48;

/// An uploaded file as the store holds it.
#[derive(Debug, Clone, PartialEq)]
pub struct Upload {
    pub id: String,
    /// The file's name on the client's side; for show only.
    pub name: String,
    /// As the client said.
    pub content_type: String,
    /// In bytes.
    pub size: u64,
    /// In lower-case hexadecimal, as `md5` is.
    pub sha256: String,
    pub md5: String,
    /// As sent.
    pub metadata: Map<String, Value>,
    /// The blob folder of its bytes.
    pub folder: String,
    pub created_at: Timestamp,
    pub expires_at: Timestamp,
}

/// Whether this could be the id of a file: [`super::new_file_id`] makes such.
pub fn is_file_id(text: &str) -> bool {
    text.len() == ID_LENGTH && text.chars().all(|c| c.is_ascii_alphanumeric())
}

/// The id in an `urls.get` of the files API, whatever origin and base the client knew us by. Ids cannot be guessed, so
/// a URL with the id of a file that we have is ours.
pub fn file_id_of_url(url: &str) -> Option<&str> {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"))?;
    let (path, id) = rest.trim_end_matches('/').rsplit_once('/')?;
    (path.ends_with("/files") && is_file_id(id)).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::new_file_id;

    #[test]
    fn file_urls_are_known_by_their_id() {
        let id = new_file_id();
        assert!(is_file_id(&id));
        for base in ["http://h:8000/v1", "https://x.org/replicate/v1", "http://[::1]:8000"] {
            assert_eq!(file_id_of_url(&format!("{base}/files/{id}")), Some(id.as_str()), "{base}");
        }
        let other = [
            format!("http://h/files/{id}/download"),
            format!("http://h/files/{id}?x"),
            format!("http://h/models/{id}"),
            format!("ftp://h/files/{id}"),
            format!("/v1/files/{id}"),
            "http://h/files/".to_string(),
            "http://h/files/short".to_string(),
            "data:image/png;base64,AAAA".to_string(),
        ];
        for url in other {
            assert_eq!(file_id_of_url(&url), None, "{url}");
        }
    }
}
