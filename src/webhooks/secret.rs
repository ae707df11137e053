//! The key that webhooks are signed with, and signatures (the scheme of Standard Webhooks).

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use sha2::Sha256;

const PREFIX: &str = "whsec_";

/// Bytes of a new key.
const LENGTH: usize = 24;

/// A key and its text. Clients split the text at `_`, so its base64 is the standard one.
#[derive(Clone)]
pub struct Secret {
    text: String,
    /// With the key and nothing else in it.
    mac: Hmac<Sha256>,
}

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error("a webhook secret is whsec_ and base64")]
    Malformed,
    #[error("the system gave no random numbers: {0}")]
    Random(getrandom::Error),
}

impl Secret {
    /// A random one.
    pub fn fresh() -> Result<Secret, SecretError> {
        let mut bytes = [0u8; LENGTH];
        getrandom::fill(&mut bytes).map_err(SecretError::Random)?;
        Secret::parse(&format!("{PREFIX}{}", STANDARD.encode(bytes)))
    }

    /// The one of this text.
    pub fn parse(text: &str) -> Result<Secret, SecretError> {
        let bytes = text.strip_prefix(PREFIX).and_then(|base64| STANDARD.decode(base64).ok());
        let bytes = bytes.filter(|bytes| !bytes.is_empty()).ok_or(SecretError::Malformed)?;
        let mac = Hmac::new_from_slice(&bytes).map_err(|_| SecretError::Malformed)?;
        Ok(Secret { text: text.to_string(), mac })
    }

    /// `whsec_…`, for those who check signatures.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The value of the `webhook-signature` header. `timestamp` is in seconds since 1970.
    pub fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        let mut mac = self.mac.clone();
        mac.update(format!("{id}.{timestamp}.").as_bytes());
        mac.update(body);
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    }
}

/// Never shows the key.
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Accepted by the official Python and JavaScript validators.
    #[test]
    fn known_signatures() {
        for (secret, signature) in [
            ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="),
            ("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD", "v1,78nXHjpFP0tVJQW5D0SBwmVyyW87BV/rL6MgfM/Bw44="),
        ] {
            let secret = Secret::parse(secret).unwrap();
            let body = br#"{"test": 2432232314}"#;
            assert_eq!(secret.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body), signature);
        }
    }

    #[test]
    fn fresh_secrets_are_what_clients_can_read() {
        let secret = Secret::fresh().unwrap();
        assert_ne!(secret.text(), Secret::fresh().unwrap().text());
        let parts: Vec<&str> = secret.text().split('_').collect();
        assert_eq!((parts.len(), parts[0]), (2, "whsec"));
        assert_eq!(STANDARD.decode(parts[1]).unwrap().len(), LENGTH);
        assert!(!format!("{secret:?}").contains(parts[1]));
        for wrong in ["", "whsec_", "whsec_%", "C2FVsBQIhrscChlQIMV+b5sSYspob7oD", "whsec_a-b_"] {
            assert!(Secret::parse(wrong).is_err(), "{wrong}");
        }
    }
}
