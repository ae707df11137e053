//! Capability tokens: the right to watch one prediction without a key, derived from its id under the server's secret.

use hmac::{Hmac, Mac};
use sha2::Sha256;

/// Bytes of the digest that a token carries: 128 bits cannot be guessed.
const DIGEST: usize = 16;

/// What a token is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The stream of outputs, in `urls.stream`.
    Stream,
    /// Previews and state, for the prediction's page.
    Previews,
}

impl Purpose {
    /// How its tokens begin. Ids of the Files API have no hyphen, so both can share a path.
    fn prefix(self) -> &'static str {
        match self {
            Purpose::Stream => "stream-",
            Purpose::Previews => "previews-",
        }
    }
}

/// Makes and checks tokens.
#[derive(Clone)]
pub struct Tokens(Hmac<Sha256>);

impl Tokens {
    pub fn new(secret: &[u8; 32]) -> Tokens {
        // A key of the block's size, zeros behind the secret, is what HMAC makes of a shorter one.
        let mut key = [0; 64];
        key[..32].copy_from_slice(secret);
        Tokens(Hmac::new(&key.into()))
    }

    /// The token of a prediction: letters, digits and hyphens.
    pub fn token(&self, purpose: Purpose, id: &str) -> String {
        let digest = self.digest(purpose, id).finalize().into_bytes();
        let digits: String = digest.iter().take(DIGEST).map(|byte| format!("{byte:02x}")).collect();
        format!("{}{id}-{digits}", purpose.prefix())
    }

    /// The id of the prediction that a token of ours is for.
    pub fn prediction<'t>(&self, purpose: Purpose, token: &'t str) -> Option<&'t str> {
        let (id, digits) = token.strip_prefix(purpose.prefix())?.rsplit_once('-')?;
        if digits.len() != 2 * DIGEST || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        let digest: Option<Vec<u8>> =
            (0..DIGEST).map(|i| u8::from_str_radix(&digits[2 * i..2 * i + 2], 16).ok()).collect();
        self.digest(purpose, id).verify_truncated_left(&digest?).ok()?;
        Some(id)
    }

    fn digest(&self, purpose: Purpose, id: &str) -> Hmac<Sha256> {
        self.0.clone().chain_update(purpose.prefix()).chain_update(id)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_token_is_good_for_its_prediction_and_purpose_only() {
        let tokens = Tokens::new(&[7; 32]);
        let token = tokens.token(Purpose::Stream, "0abc");
        assert!(token.starts_with("stream-0abc-") && token.len() == 12 + 32);
        assert_eq!(tokens.prediction(Purpose::Stream, &token), Some("0abc"));
        assert_eq!(tokens.prediction(Purpose::Previews, &token), None);
        assert_eq!(tokens.prediction(Purpose::Previews, &token.replace("stream", "previews")), None);
        assert_eq!(Tokens::new(&[8; 32]).prediction(Purpose::Stream, &token), None);
        let other = token.replace("0abc", "0abd");
        let (short, odd) = (&token[..token.len() - 2], token.replace("-0abc-", "-0abc-+"));
        for wrong in [other.as_str(), short, &odd, "stream-", "stream--", "", "0abc", "stream-0abc-ÿÿÿÿÿÿÿÿÿÿÿÿÿÿÿÿ"]
        {
            assert_eq!(tokens.prediction(Purpose::Stream, wrong), None, "{wrong}");
        }
    }

    /// Known answer, from Python's `hmac` with the secret as it is.
    #[test]
    fn the_digest_is_hmac_of_the_secret() {
        let token = Tokens::new(&[7; 32]).token(Purpose::Stream, "0abc");
        assert_eq!(token, "stream-0abc-f706fa9e2f7ab28da52aef6a753f8ae3");
    }
}
