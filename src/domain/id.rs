//! Names for predictions, messages and files.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// The lower-case alphabet of Crockford's base32: sorts as the number does.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// A new prediction id: a UUID v7 as 26 lower-case base32 characters, so ids sort by creation time.
pub fn new_prediction_id() -> String {
    encode(uuid::Uuid::now_v7().as_u128())
}

/// A new webhook id, the same for every attempt to deliver one message.
pub fn new_message_id() -> String {
    format!("msg_{}", new_prediction_id())
}

/// A new file id, as Replicate's are: the text of a random UUID in base64, which comes out as 48 letters and digits.
pub fn new_file_id() -> String {
    STANDARD.encode(uuid::Uuid::new_v4().to_string())
}

/// 128 bits as 26 characters, most significant first.
fn encode(number: u128) -> String {
    (0..26).rev().map(|place| char::from(ALPHABET[(number >> (5 * place)) as usize & 31])).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn known_numbers() {
        assert_eq!(encode(0), "0".repeat(26));
        assert_eq!(encode(31), format!("{}z", "0".repeat(25)));
        assert_eq!(encode(u128::MAX), format!("7{}", "z".repeat(25)));
    }

    #[test]
    fn ids_are_distinct_and_sort_by_time() {
        let ids: Vec<String> = (0..1000).map(|_| new_prediction_id()).collect();
        let mut sorted = ids.clone();
        sorted.sort();
        sorted.dedup();
        assert_eq!(ids, sorted);
        assert!(ids.iter().all(|id| id.len() == 26));
    }
}
