use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// One subject token of the contract: a model, version, lane or reply name matching `[A-Za-z0-9_-]{1,64}`.
///
/// Cheap to clone. Being a token, it can neither widen a subscription (`*`, `>`) nor add a level (`.`).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(Arc<str>);

/// A text that is no [`Token`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a token: 1 to 64 characters of A-Z, a-z, 0-9, '_' and '-'")]
pub struct InvalidToken(String);

impl Token {
    /// Longest token, in bytes.
    pub const MAX_BYTES: usize = 64;

    /// The token as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The token's text, which is shared.
impl From<&Token> for Arc<str> {
    fn from(token: &Token) -> Self {
        Self::clone(&token.0)
    }
}

impl FromStr for Token {
    type Err = InvalidToken;

    fn from_str(text: &str) -> Result<Self, InvalidToken> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        if (1..=Self::MAX_BYTES).contains(&text.len()) && text.bytes().all(allowed) {
            Ok(Self(text.into()))
        } else {
            Err(InvalidToken(text.chars().take(80).collect()))
        }
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl<'de> Deserialize<'de> for Token {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Serialize for Token {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_one_subject_level() {
        for good in ["a", "digits", "v1-2_3", &"x".repeat(64)] {
            assert!(good.parse::<Token>().is_ok(), "{good}");
        }
        for bad in ["", "a.b", "*", ">", "a b", "é", "a\r\n", &"x".repeat(65)] {
            assert!(bad.parse::<Token>().is_err(), "{bad:?}");
        }
    }
}
