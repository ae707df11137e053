//! Where a page of a list begins: opaque to clients.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// The side of a row, by its place in the order of creation, on which a page lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cursor {
    /// Rows created before this one.
    Older(i64),
    /// Rows created after this one.
    Newer(i64),
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = match self {
            Cursor::Older(seq) => format!("o{seq}"),
            Cursor::Newer(seq) => format!("n{seq}"),
        };
        f.write_str(&URL_SAFE_NO_PAD.encode(plain))
    }
}

/// The text is no cursor that we gave out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the cursor is not one that this server gave out")]
pub struct CursorError;

impl FromStr for Cursor {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Cursor, CursorError> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| CursorError)?;
        let plain = String::from_utf8(bytes).map_err(|_| CursorError)?;
        let seq = |digits: &str| digits.parse().map_err(|_| CursorError);
        match (plain.strip_prefix('o'), plain.strip_prefix('n')) {
            (Some(digits), _) => Ok(Cursor::Older(seq(digits)?)),
            (_, Some(digits)) => Ok(Cursor::Newer(seq(digits)?)),
            _ => Err(CursorError),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn cursors_survive_the_way_to_the_client_and_back() {
        for cursor in [Cursor::Older(1), Cursor::Newer(i64::MAX), Cursor::Older(-5)] {
            assert_eq!(cursor.to_string().parse(), Ok(cursor));
        }
        for wrong in ["", "o1", "////", "bzE=", "eA", "b28"] {
            assert_eq!(wrong.parse::<Cursor>(), Err(CursorError), "{wrong}");
        }
    }
}
