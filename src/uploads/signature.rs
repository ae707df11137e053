//! Signatures of download URLs: HMAC-SHA256 of `{owner} {id} {expiry}` in base64, as in Replicate's API.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use sha2::Sha256;

/// Whose files they are: a server has one owner.
pub const OWNER: &str = "stablehand";

/// What a download URL carries beside the id of the file.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
pub struct Signed {
    pub owner: String,
    /// Seconds since 1970.
    pub expiry: i64,
    pub signature: String,
}

/// The key of the signatures.
pub(super) struct Secret(Vec<u8>);

impl Secret {
    pub(super) fn new(bytes: Vec<u8>) -> Secret {
        Secret(bytes)
    }

    pub(super) fn sign(&self, owner: &str, id: &str, expiry: i64) -> Signed {
        let digest = self.mac(owner, id, expiry).map(|mac| STANDARD.encode(mac.finalize().into_bytes()));
        Signed { owner: owner.to_string(), expiry, signature: digest.unwrap_or_default() }
    }

    /// Compares in constant time.
    pub(super) fn signed(&self, id: &str, signed: &Signed) -> bool {
        // A plus that was not encoded in the URL arrives as a space.
        let Ok(given) = STANDARD.decode(signed.signature.replace(' ', "+")) else { return false };
        self.mac(&signed.owner, id, signed.expiry).is_some_and(|mac| mac.verify_slice(&given).is_ok())
    }

    /// `None` never happens: a key of any length will do.
    fn mac(&self, owner: &str, id: &str, expiry: i64) -> Option<Hmac<Sha256>> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).ok()?;
        mac.update(format!("{owner} {id} {expiry}").as_bytes());
        Some(mac)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_signed_is_signed() {
        let secret = Secret::new(vec![7; 32]);
        let good = secret.sign("me", "file", 100);
        assert!(secret.signed("file", &good));
        assert!(secret.signed("file", &Signed { signature: good.signature.replace('+', " "), ..good.clone() }));
        assert!(!secret.signed("other", &good));
        assert!(!secret.signed("file", &Signed { expiry: 101, ..good.clone() }));
        assert!(!secret.signed("file", &Signed { owner: "you".to_string(), ..good.clone() }));
        for signature in ["", "!", "AAAA"] {
            assert!(!secret.signed("file", &Signed { signature: signature.to_string(), ..good.clone() }));
        }
        assert!(!Secret::new(vec![8; 32]).signed("file", &good));
    }

    /// Made with `openssl dgst -sha256 -hmac key -binary | base64`.
    #[test]
    fn a_known_signature() {
        let signed = Secret::new(b"key".to_vec()).sign("mattt", "cneqzikepnug6xezperrr4z55o", 1_708_515_345);
        assert_eq!(signed.signature, "OzmiYhYyC8krWrDslKDnp4wlR4ZLH8EbkVvi9qRPUVI=");
    }
}
