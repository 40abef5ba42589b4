//! Where `appliance.storage.setup` is written: a mapping, or a YAML string that holds one, as an ECS-Appliance had it. What its keys mean is
//! `layout.rs`.

use super::document::{self, Block, Kind, Node, Place};
use super::layout::Layout;
use super::layout_read;
use super::reader::Reading;

/// Reads the layout; `None`: there is none, or it cannot be read, which is reported. Places inside of a block of text are counted from
/// where the block stands.
pub(super) fn read_setup(reading: &Reading, node: &Node) -> Option<Layout> {
    let path = "appliance.storage.setup";
    let Kind::Scalar { text, .. } = &*node.kind else {
        return is_mapping(reading, node, node, path).then(|| layout_read::read(reading, node, path));
    };
    if text.trim().is_empty() {
        return None;
    }
    let here = |line: u32, column: u32| match node.block {
        Block::Literal => Place {
            file: node.place.file,
            line: (node.place.line + line - 1).min(node.end.line),
            column: node.place.column + column - 1,
        },
        _ => node.place,
    };
    let inner = match document::parse(text.as_bytes(), super::MAX_BYTES) {
        Ok(inner) => inner,
        Err(problem) => {
            let place = here(problem.line, problem.column);
            reading.error(place, format!("the text of '{path}' cannot be read: {}", problem.message));
            return None;
        }
    };
    if !is_mapping(reading, node, &inner, path) {
        return None;
    }
    // Read by itself: which of its values are no secrets is known by their places, and those are not the file's.
    let own = Reading::of_env();
    let layout = layout_read::read(&own, &inner, path);
    reading.take_over(own.finish(), here);
    Some(layout)
}

fn is_mapping(reading: &Reading, node: &Node, inner: &Node, path: &str) -> bool {
    let is = matches!(&*inner.kind, Kind::Mapping(_));
    if !is {
        reading.error(
            node.place,
            format!("'{path}' must be a mapping, or a string that holds one as YAML, not {}", inner.what()),
        );
    }
    is
}
