//! `appliance.storage.setup`: a mapping, or a text holding one. What its keys mean is the step storage's.

use super::diagnostic::nearest;
use super::document::{self, Block, Kind, Node, Place};
use super::reader::Reading;

/// What `storage.setup` may hold (spec/prepare.md, "Storage").
const SETUP_KEYS: [&str; 7] = ["parted", "mdadm", "crypt", "lvm", "format", "mount", "swap"];

/// A mapping, or a text holding one, as an ECS-Appliance had it. Places inside of a block of text are counted from where
/// the block stands.
pub(super) fn read_setup(reading: &Reading, node: &Node) -> Option<Node> {
    let path = "appliance.storage.setup";
    let inner = match &*node.kind {
        Kind::Scalar { text, .. } if text.trim().is_empty() => return None,
        Kind::Scalar { text, .. } => match document::parse(text.as_bytes(), super::MAX_BYTES) {
            Ok(inner) => inner,
            Err(problem) => {
                let place = match node.block {
                    Block::Literal => Place {
                        file: 0,
                        line: (node.place.line + problem.line - 1).min(node.end.line),
                        column: node.place.column + problem.column - 1,
                    },
                    _ => node.place,
                };
                reading.error(place, format!("the text of '{path}' cannot be read: {}", problem.message));
                return None;
            }
        },
        _ => node.clone(),
    };
    if !matches!(&*inner.kind, Kind::Mapping(_)) {
        reading.error(node.place, format!("'{path}' must be a mapping, or a text holding one, not {}", inner.what()));
        return None;
    }
    for (key, _) in inner.entries() {
        if !SETUP_KEYS.contains(&key.text.as_str()) {
            let hint =
                nearest(&key.text, SETUP_KEYS).map(|near| format!("; did you mean '{near}'?")).unwrap_or_default();
            let from_text = matches!(&*node.kind, Kind::Scalar { .. });
            let place = if from_text { node.place } else { key.place };
            reading.warning(place, format!("'{path}.{}' is not a key that is known{hint}", document::shown(&key.text)));
        }
    }
    Some(inner)
}
