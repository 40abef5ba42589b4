//! An image that a release runs on: what it is called, and which one that was.

use serde::{Deserialize, Serialize};

/// A reference, and the id that it stood for when the release was made. A registry, or somebody at the keyboard, may move the
/// reference to another image later; the release goes on to mean the one that was tried.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "Stored")]
pub struct PinnedImage {
    pub reference: String,
    /// `sha256:` and 64 hex digits; none until the image is there.
    pub id: Option<String>,
}

impl PinnedImage {
    /// An image that may still have to be built or pulled.
    pub fn unknown(reference: String) -> PinnedImage {
        PinnedImage { reference, id: None }
    }
}

/// As it lies in a ledger; those written before ids were kept have the reference alone.
#[derive(Deserialize)]
#[serde(untagged)]
enum Stored {
    Reference(String),
    Pinned { reference: String, id: Option<String> },
}

impl From<Stored> for PinnedImage {
    fn from(stored: Stored) -> PinnedImage {
        match stored {
            Stored::Reference(reference) => PinnedImage { reference, id: None },
            Stored::Pinned { reference, id } => PinnedImage { reference, id },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ledgers_of_before_are_read() {
        let old: PinnedImage = serde_json::from_str(r#""a:1""#).expect("it is read");
        assert_eq!(old, PinnedImage::unknown("a:1".to_owned()));
        let new = PinnedImage { reference: "a:1".to_owned(), id: Some("sha256:1".to_owned()) };
        let text = serde_json::to_string(&new).expect("it is written");
        assert_eq!(serde_json::from_str::<PinnedImage>(&text).expect("it is read"), new);
    }
}
