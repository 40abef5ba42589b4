//! The user's own values over a template's, in its text: comments and order stay. Lines are replaced or added, and the
//! result is then compared with what a merge of the two trees gives: either it is exactly that, or it is refused.

use crate::env::document::{self, Key, Kind, Node};
use anyhow::{Context, Result, anyhow, bail};
use serde_yaml::{Mapping, Value};

/// The largest text that is merged, in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// Puts the values of one YAML mapping over those of another.
///
/// # Errors
/// One of them is not a mapping, or the template is written so that its lines cannot be told apart.
pub fn merge(template: &str, extra: &str) -> Result<String> {
    let values: Value = serde_yaml::from_str(extra).context("it is not valid YAML")?;
    let Value::Mapping(values) = values else { bail!("it must hold a mapping of keys") };
    let root = document::parse(template.as_bytes(), MAX_BYTES)
        .map_err(|problem| anyhow!("the template is not valid YAML: line {}: {}", problem.line, problem.message))?;
    let mut lines: Vec<String> = template.lines().map(str::to_owned).collect();
    merge_mapping(&mut lines, &root, &values, 0)?;
    let text = format!("{}\n", lines.join("\n"));
    let mut wanted: Value = serde_yaml::from_str(template).context("the template is not valid YAML")?;
    merge_values(&mut wanted, Value::Mapping(values));
    match serde_yaml::from_str::<Value>(&text) {
        Ok(got) if got == wanted => Ok(text),
        _ => bail!("the template's lines cannot be told apart; write its mappings with one key per line"),
    }
}

/// What the trees give: mappings are merged, everything else is replaced.
fn merge_values(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Mapping(into), Value::Mapping(from)) => {
            for (key, value) in from {
                match into.get_mut(&key) {
                    Some(old) => merge_values(old, value),
                    None => drop(into.insert(key, value)),
                }
            }
        }
        (into, from) => *into = from,
    }
}

fn merge_mapping(lines: &mut Vec<String>, node: &Node, values: &Mapping, indent: usize) -> Result<()> {
    let entries = node.entries();
    let text_of = |key: &Value| key.as_str().map(str::to_owned).context("its keys must be plain words");
    let mut missing = Vec::new();
    let mut known: Vec<(&Key, &Node, &Value)> = Vec::new();
    for (key, value) in values {
        let name = text_of(key)?;
        match entries.iter().find(|(known, _)| known.text == name) {
            Some((key, node)) => known.push((key, node, value)),
            None => missing.push((name, value)),
        }
    }
    // New keys go behind the last one; from the end to the beginning, so that line numbers stay true.
    let end = match entries.last() {
        Some((last, _)) => last_line(lines, last),
        None => lines.len(),
    };
    for (name, value) in missing.into_iter().rev() {
        insert(lines, end, &name, value, indent)?;
    }
    known.sort_by_key(|(key, ..)| std::cmp::Reverse(key.place.line));
    for (key, node, value) in known {
        let column = key.place.column as usize - 1;
        match (&*node.kind, value) {
            (Kind::Mapping(inner), Value::Mapping(values))
                if inner.first().is_some_and(|(first, _)| first.place.line > key.place.line) =>
            {
                let indent = inner.first().map_or(column + 2, |(first, _)| first.place.column as usize - 1);
                merge_mapping(lines, node, values, indent)?;
            }
            (Kind::Mapping(inner), Value::Mapping(_)) if !inner.is_empty() => {
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

fn insert(lines: &mut Vec<String>, at: usize, name: &str, value: &Value, indent: usize) -> Result<()> {
    let mut one = Mapping::new();
    one.insert(Value::from(name), value.clone());
    let text = serde_yaml::to_string(&one).context("a value cannot be written")?;
    let padding = " ".repeat(indent);
    let new = text.lines().map(|line| if line.is_empty() { String::new() } else { format!("{padding}{line}") });
    lines.splice(at..at, new);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEMPLATE: &str = "#cloud-config\n# first\nappliance:\n  # a hint\n  domain: a.de # why\n  sub:\n    x: 1\n    # a hint at the end\n  key: |\n    # no comment\n    text\n\napp:\n  name: shop\n  list:\n  - a\n  - b\n";

    #[test]
    fn values_are_replaced_and_added_and_comments_stay() {
        let extra = "appliance:\n  sub: {x: 2, y: [1]}\n  key: 'k'\n  new: {a: |\n    t\n\n    u\n  }\napp: {list: [c]}\nusers: ~\n";
        let extra = extra.replace("{a: |\n    t\n\n    u\n  }", "{a: \"t\\n\\nu\\n\"}");
        let text = merge(TEMPLATE, &extra).expect("it can be merged");
        for kept in ["# first", "  # a hint", "  domain: a.de # why", "    # a hint at the end", "  name: shop"] {
            assert!(text.lines().any(|line| line == kept), "{kept:?} is gone:\n{text}");
        }
        assert!(!text.contains("no comment"), "{text}");
    }

    #[test]
    fn what_cannot_be_merged_in_place_is_refused() {
        assert!(merge("a: {b: 1}\n", "a: {b: 2}\n").is_err());
        assert!(merge("a:\n  b: 1\n", "- a\n").is_err());
        assert!(merge("a:\n  b: 1\n", "a: [\n").is_err());
        assert_eq!(merge("a: {}\n", "a: {b: 2}\n").expect("it can be merged"), "a:\n  b: 2\n");
    }
}
