//! The user's own values over a template's, in its text: comments and order stay. Lines are replaced or added, and the
//! result is then compared with what a merge of the two trees gives: either it is exactly that, or it is refused.

use crate::env::document::{self, Key, Kind, Node};
use crate::env::reader::parse_boolean;
use anyhow::{Context, Result, anyhow, bail};
use serde_yaml::{Mapping, Value};

/// The largest text that is merged, in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// Puts the values of one YAML mapping over those of another.
///
/// # Errors
/// One of them is not a mapping, or the template is written so that its lines cannot be told apart.
pub fn merge(template: &str, extra: &str) -> Result<String> {
    let values = parse(extra)?;
    let root = parse(template).context("the template cannot be read")?;
    let mut lines: Vec<String> = template.lines().map(str::to_owned).collect();
    merge_mapping(&mut lines, &root, &values, 0)?;
    let text = format!("{}\n", lines.join("\n"));
    let wanted = merged(&root, &values);
    match parse(&text) {
        Ok(got) if value_of(&got) == value_of(&wanted) => Ok(text),
        _ => bail!("the template's lines cannot be told apart; write its mappings with one key per line"),
    }
}

fn parse(text: &str) -> Result<Node> {
    let root = document::parse(text.as_bytes(), MAX_BYTES)
        .map_err(|problem| anyhow!("line {}, column {}: {}", problem.line, problem.column, problem.message))?;
    match &*root.kind {
        Kind::Mapping(_) => Ok(root),
        _ => bail!("it must hold a mapping of keys, not {}", root.what()),
    }
}

/// What the trees give: mappings are merged, everything else is replaced.
fn merged(old: &Node, new: &Node) -> Node {
    let (Kind::Mapping(before), Kind::Mapping(over)) = (&*old.kind, &*new.kind) else { return new.clone() };
    let mut entries = before.clone();
    for (key, value) in over {
        match entries.iter_mut().find(|(known, _)| known.text == key.text) {
            Some((_, known)) => *known = merged(known, value),
            None => entries.push((key.clone(), value.clone())),
        }
    }
    old.with_kind(Kind::Mapping(entries))
}

/// A tree as values that YAML's writer takes: booleans, whole numbers and nothing are told from texts.
fn value_of(node: &Node) -> Value {
    match &*node.kind {
        Kind::Scalar { .. } if node.is_null() => Value::Null,
        Kind::Scalar { text, plain: false } => Value::String(text.clone()),
        Kind::Scalar { text, .. } => match (parse_boolean(text), text.parse::<i64>()) {
            (Some(value), _) => Value::Bool(value),
            // Not `0640`, which is a mode.
            (_, Ok(number)) if number.to_string() == *text => Value::from(number),
            _ => Value::String(text.clone()),
        },
        Kind::Sequence(items) => Value::Sequence(items.iter().map(value_of).collect()),
        Kind::Mapping(entries) => Value::Mapping(
            entries.iter().map(|(key, value)| (Value::from(key.text.as_str()), value_of(value))).collect(),
        ),
    }
}

/// Changes the lines of one mapping.
fn merge_mapping(lines: &mut Vec<String>, old: &Node, new: &Node, indent: usize) -> Result<()> {
    let entries = old.entries();
    let find = |name: &str| entries.iter().find(|(key, _)| key.text == name);
    // New keys go behind the last one; from the end to the beginning, so that line numbers stay true.
    let end =
        entries.iter().max_by_key(|(key, _)| key.place.line).map_or(lines.len(), |(key, _)| last_line(lines, key));
    for (key, value) in new.entries().iter().rev().filter(|(key, _)| find(&key.text).is_none()) {
        insert(lines, end, &key.text, value, indent)?;
    }
    let mut known: Vec<(&Key, &Node, &Node)> =
        new.entries().iter().filter_map(|(key, value)| find(&key.text).map(|(old, node)| (old, node, value))).collect();
    known.sort_by_key(|(key, ..)| std::cmp::Reverse(key.place.line));
    for (key, node, value) in known {
        let column = key.place.column as usize - 1;
        let first = node.entries().first().map(|(first, _)| first.place);
        match (first, &*value.kind) {
            (Some(first), Kind::Mapping(_)) if first.line > key.place.line => {
                merge_mapping(lines, node, value, first.column as usize - 1)?;
            }
            (Some(_), Kind::Mapping(_)) => {
                bail!("line {}: write the template's mappings with one key per line", key.place.line)
            }
            _ => {
                let (start, end) = (key.place.line as usize - 1, last_line(lines, key));
                lines.drain(start..end);
                insert(lines, start, &key.text, value, column)?;
            }
        }
    }
    Ok(())
}

/// The number of the last line that belongs to a key's value: everything below that is deeper, without the blank and
/// comment lines at its end (a block of text keeps its own).
fn last_line(lines: &[String], key: &Key) -> usize {
    let (start, column) = (key.place.line as usize, key.place.column as usize - 1);
    let indent = |line: &str| line.chars().take_while(|c| *c == ' ').count();
    let belongs = |line: &&String| {
        line.trim().is_empty()
            || indent(line) > column
            || (indent(line) == column && line.trim_start().starts_with("- "))
    };
    let mut end = start + lines[start..].iter().take_while(belongs).count();
    let is_block = lines[start - 1].trim_end().ends_with(['|', '>', '-', '+']) && lines[start - 1].contains([':']);
    let passes = |line: &str| line.trim().is_empty() || (!is_block && line.trim_start().starts_with('#'));
    while end > start && passes(&lines[end - 1]) {
        end -= 1;
    }
    end
}

fn insert(lines: &mut Vec<String>, at: usize, name: &str, value: &Node, indent: usize) -> Result<()> {
    let mut one = Mapping::new();
    one.insert(Value::from(name), value_of(value));
    // Empty lines at the end of a block could not be told from the template's own.
    let text = if ends_in_blank_lines(value) {
        format!("{}: {}", serde_json::to_string(name)?, serde_json::to_string(&one[name])?)
    } else {
        serde_yaml::to_string(&one).context("a value cannot be written")?
    };
    let padding = " ".repeat(indent);
    let new = text.lines().map(|line| if line.is_empty() { String::new() } else { format!("{padding}{line}") });
    lines.splice(at..at, new);
    Ok(())
}

fn ends_in_blank_lines(node: &Node) -> bool {
    match &*node.kind {
        Kind::Scalar { text, .. } => text.ends_with("\n\n"),
        Kind::Sequence(items) => items.iter().any(ends_in_blank_lines),
        Kind::Mapping(entries) => entries.iter().any(|(_, value)| ends_in_blank_lines(value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEMPLATE: &str = "#cloud-config\n# first\nappliance:\n  # a hint\n  domain: a.de # why\n  sub:\n    x: 1\n    # a hint at the end\n  key: |\n    # no comment\n    text\n\napp:\n  name: shop\n  list:\n  - a\n  - b\n";

    #[test]
    fn values_are_replaced_and_added_and_comments_stay() {
        let extra = "appliance:\n  sub: {x: 2, y: [1]}\n  key: 'k'\n  new: {a: \"t\\n\\nu\\n\"}\n  more: [{mode: 0640}]\napp: {list: [c]}\nusers: ~\n";
        let text = merge(TEMPLATE, extra).expect("it can be merged");
        for kept in ["# first", "  # a hint", "  domain: a.de # why", "    # a hint at the end", "  name: shop"] {
            assert!(text.lines().any(|line| line == kept), "{kept:?} is gone:\n{text}");
        }
        assert!(!text.contains("no comment"), "{text}");
        merge(TEMPLATE, "appliance: {key: \"a\\n\\n\\n\", sub: {x: \"b\\n\\n\"}, new: [\"c\\n\\n\"]}\n")
            .expect("blank lines are kept");
    }

    #[test]
    fn what_cannot_be_merged_in_place_is_refused() {
        assert!(merge("a: {b: 1}\n", "a: {b: 2}\n").is_err());
        assert!(merge("a:\n  b: 1\n", "- a\n").is_err());
        assert!(merge("a:\n  b: 1\n", "a: [\n").is_err());
        assert_eq!(merge("a: {}\n", "a: {b: 2}\n").expect("it can be merged"), "a:\n  b: 2\n");
    }
}
