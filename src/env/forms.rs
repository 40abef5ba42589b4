//! Two forms of YAML that other readers take and the scanner does not: a closing bracket that stands in the column of its key, and a tab
//! behind a key's colon. Where the scanner stops at one of them, white space is changed in that line, and the text is read again.

use super::diagnostic::Diagnostic;
use std::borrow::Cow;

/// How many lines of one file are changed: more than people write.
const MAX_CHANGES: usize = 200;
/// How far a closing bracket is moved to the right: further than any key stands.
const INDENT: usize = 200;

type Read<T> = std::result::Result<T, Box<Diagnostic>>;

/// Reads a text, changed where it must be. Places in a line that was changed may be off.
pub fn read<T>(text: &str, parse: impl Fn(&str) -> Read<T>) -> Read<T> {
    let mut text = Cow::Borrowed(text);
    for _ in 0..MAX_CHANGES {
        let problem = match parse(&text) {
            Ok(read) => return Ok(read),
            Err(problem) => problem,
        };
        match changed(&text, problem.line) {
            Some(better) => text = Cow::Owned(better),
            None => return Err(problem),
        }
    }
    parse(&text)
}

/// The text with one of the forms written in another way, in the line at which the scanner stopped or in the one before it.
fn changed(text: &str, line: u32) -> Option<String> {
    let stopped = usize::try_from(line).ok()?.checked_sub(1)?;
    [Some(stopped), stopped.checked_sub(1)].into_iter().flatten().find_map(|index| {
        let (start, old) = lines(text).nth(index)?;
        let better = better(old)?;
        Some(format!("{}{better}{}", &text[..start], &text[start + old.len()..]))
    })
}

/// Lines and where they begin.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut start = 0;
    text.split_inclusive('\n').map(move |line| {
        let here = start;
        start += line.len();
        (here, line.trim_end_matches(['\n', '\r']))
    })
}

fn better(line: &str) -> Option<String> {
    let content = line.trim_start_matches(' ');
    let indent = line.len() - content.len();
    if content.starts_with([']', '}']) && indent < INDENT {
        return Some(format!("{}{content}", " ".repeat(INDENT)));
    }
    // Behind the first colon alone: a value may hold what it likes.
    let colon = line.find(":\t")?;
    let is_key = !line[..colon].contains(['"', '\'', '#', '{', '[']);
    let value = line[colon + 1..].trim_start_matches('\t');
    let tabs = line.len() - colon - 1 - value.len();
    is_key.then(|| format!("{}:{}{value}", &line[..colon], " ".repeat(tabs)))
}

#[cfg(test)]
mod tests {
    use crate::env::document::{Kind, Node, parse};

    fn words(node: &Node) -> Vec<String> {
        match &*node.kind {
            Kind::Scalar { text, .. } => vec![text.clone()],
            Kind::Sequence(items) => items.iter().flat_map(words).collect(),
            Kind::Mapping(entries) => {
                entries.iter().flat_map(|(key, value)| [vec![key.text.clone()], words(value)].concat()).collect()
            }
        }
    }

    fn read(text: &str) -> Result<Vec<String>, String> {
        parse(text.as_bytes(), 1 << 20).map(|node| words(&node)).map_err(|problem| problem.message)
    }

    #[test]
    fn brackets_in_their_keys_column_and_tabs_behind_colons_are_read() {
        let many = "a: [\n  \"x\",\n]\n".to_owned()
            + &(0..50).map(|n| format!("k{n}: {{\n  \"y\": 1\n}}\n")).collect::<String>();
        assert_eq!(read(&many).expect("it is read").len(), 2 + 50 * 3);
        assert_eq!(
            read("a:\n  b: [\n    \"x\"\n  ]\n  c:\td\n"),
            Ok(["a", "b", "x", "c", "d"].map(str::to_owned).to_vec())
        );
        // What stands in a block of text stays as it is.
        assert_eq!(
            read("a: |\n  {\n  }\n  k:\tv\nb: 1\n"),
            Ok(["a", "{\n}\nk:\tv\n", "b", "1"].map(str::to_owned).to_vec())
        );
        for broken in ["a: ]\n", "]\n", "a: [\n", "a:\n\tb: c\n", "a: 'x:\ty\n"] {
            assert!(read(broken).is_err(), "{broken}");
        }
    }
}
