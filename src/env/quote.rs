//! The line of a problem, fit to be printed: what may be a secret is left out. Values are shown only where the reading
//! knows that they are none; of a text that could not be parsed only its structure is shown.

use super::diagnostic::{Quote, Report};
use super::document::{Block, Kind, Node, Place, lines};
use std::collections::{BTreeMap, HashSet};

/// What stands for a part that is left out.
const LEFT_OUT: char = '…';
/// The longest quote, in characters.
const MAX_WIDTH: usize = 100;

/// The parts of one line that must not be shown, and where its last value ends; columns from 0.
#[derive(Default)]
struct Line {
    hidden: Vec<(usize, usize)>,
    last: usize,
}

/// The quotes of places in a parsed file. `open` are the places of values that are no secrets.
pub fn quotes_of(places: &[Place], text: &str, root: &Node, open: &HashSet<Place>) -> Vec<Option<Quote>> {
    let mut touched: BTreeMap<u32, Line> = places.iter().map(|place| (place.line, Line::default())).collect();
    if !touched.is_empty() {
        collect(root, open, &mut touched);
    }
    touched.values_mut().for_each(|line| line.hidden.sort_unstable());
    let raw = raw_lines(text, touched.keys().copied());
    let quote = |place: &Place| Some(quote_line(raw.get(&place.line)?, touched.get(&place.line)?, place.column));
    places.iter().map(quote).collect()
}

/// Gives every problem of a parsed file its quote.
pub fn quote_parsed(report: &mut Report, text: &str, root: &Node, open: &HashSet<Place>) {
    let places: Vec<Place> =
        report.all().iter().map(|found| Place { file: 0, line: found.line, column: found.column }).collect();
    let quotes = quotes_of(&places, text, root, open);
    for (found, quote) in report.all_mut().iter_mut().zip(quotes) {
        found.quote = quote;
    }
}

/// Gives the problem of a file that is no YAML its quote: everything but keys and what is at the caret is hidden.
pub fn quote_raw(report: &mut Report, bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for found in report.all_mut() {
        let raw = raw_lines(&text, [found.line].into_iter());
        let Some(raw) = raw.get(&found.line) else { continue };
        let (shown_until, caret) = (key_end(raw), found.column as usize - 1);
        let is_shown =
            |at: usize, c: char| at < shown_until || c.is_whitespace() || at == caret && !c.is_alphanumeric();
        let masked: String = raw.chars().enumerate().map(|(at, c)| if is_shown(at, c) { c } else { 'x' }).collect();
        found.quote = Some(window(&masked, caret));
    }
}

/// The lines of those numbers, which come in order, without a byte order mark.
fn raw_lines(text: &str, numbers: impl Iterator<Item = u32>) -> BTreeMap<u32, &str> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut wanted = numbers.peekable();
    (1..).zip(lines(text)).filter(|(number, _)| wanted.next_if_eq(number).is_some()).collect()
}

/// How many characters of a line are certainly structure: indentation, dashes, and a key with its colon.
fn key_end(line: &str) -> usize {
    let start = line.chars().take_while(|c| matches!(c, ' ' | '-' | '\t')).count();
    let key = line.chars().skip(start).take_while(|c| c.is_ascii_alphanumeric() || *c == '_').count();
    let rest: String = line.chars().skip(start + key).take(2).collect();
    if key > 0 && (rest == ":" || rest == ": ") { start + key + 1 } else { start }
}

/// Every scalar that touches one of the lines.
fn collect(node: &Node, open: &HashSet<Place>, lines: &mut BTreeMap<u32, Line>) {
    match &*node.kind {
        Kind::Scalar { .. } => {
            // A block of text ends at the beginning of the line behind it.
            let last = if node.block == Block::No { node.end.line } else { node.end.line.saturating_sub(1) };
            for (number, line) in lines.range_mut(node.place.line..=last.max(node.place.line)) {
                let from = if *number == node.place.line { node.place.column as usize - 1 } else { 0 };
                let to = if *number == node.end.line && node.block == Block::No {
                    node.end.column as usize - 1
                } else {
                    usize::MAX
                };
                if to <= from {
                    continue;
                }
                line.last = line.last.max(to);
                if !open.contains(&node.place) {
                    line.hidden.push((from, to));
                }
            }
        }
        Kind::Sequence(items) => items.iter().for_each(|item| collect(item, open, lines)),
        Kind::Mapping(entries) => entries.iter().for_each(|(_, value)| collect(value, open, lines)),
    }
}

fn quote_line(raw: &str, line: &Line, column: u32) -> Quote {
    let column = column as usize - 1;
    // What is far from the caret would be cut off anyway.
    let start = column.saturating_sub(MAX_WIDTH);
    let mut shown = String::new();
    let mut length = 0;
    if start > 0 {
        shown.push(LEFT_OUT);
        length += 1;
    }
    let mut parts = line.hidden.iter().peekable();
    let (mut caret, mut in_hidden, mut before) = (None, false, ' ');
    for (at, c) in raw.chars().enumerate().skip(start).take(3 * MAX_WIDTH) {
        if at >= column && caret.is_none() && !in_hidden {
            caret = Some(length);
        }
        // A comment behind the last value may be a commented-out secret.
        if c == '#' && before.is_whitespace() && at >= line.last {
            break;
        }
        before = c;
        // The parts are in order and do not overlap, but for aliases, which stand for one place.
        while parts.next_if(|(_, to)| *to <= at).is_some() {}
        let hidden = parts.peek().is_some_and(|(from, _)| *from <= at);
        if hidden && !in_hidden {
            caret = caret.or((at >= column).then_some(length));
            shown.push(LEFT_OUT);
            length += 1;
        }
        if !hidden {
            shown.push(c);
            length += 1;
        }
        in_hidden = hidden;
    }
    let end = shown.trim_end().chars().count();
    window(shown.trim_end(), caret.unwrap_or(end))
}

/// The part of a line around the caret that fits, without control characters.
fn window(line: &str, caret: usize) -> Quote {
    let clean = |c: char| match c {
        '\t' => '→',
        c if c.is_control() => '\u{fffd}',
        c => c,
    };
    let characters: Vec<char> = line.chars().map(clean).collect();
    let caret = caret.min(characters.len());
    let start = if characters.len() <= MAX_WIDTH { 0 } else { caret.saturating_sub(MAX_WIDTH / 2) };
    let mut text: String = characters.iter().skip(start).take(MAX_WIDTH).collect();
    let mut caret = caret - start;
    if start > 0 {
        text.insert(0, LEFT_OUT);
        caret += 1;
    }
    if characters.len() > start + MAX_WIDTH {
        text.push(LEFT_OUT);
    }
    Quote { text, caret }
}

#[cfg(test)]
mod tests {
    use crate::env::Env;

    fn quotes(text: &str) -> String {
        Env::parse(text.as_bytes()).report.render_quoted("f")
    }

    #[test]
    fn the_line_is_quoted_with_a_caret() {
        let said = quotes("appliance:\n  domain: a.de\n  standby: maybe\napp: {name: x, git: {source: /srv/x}}\n");
        assert!(said.ends_with("\n  3 |   standby: maybe\n    |            ^"), "{said}");
    }

    #[test]
    fn secrets_on_the_line_are_left_out() {
        let head = "appliance:\n  domain: a.de\n";
        let tail = "app: {name: x, git: {source: /srv/x}}\n";
        for text in [
            format!("{head}  backup: {{url: 'sftp://me:hunter2@h/x', mount: {{source: hunter2}}}}\n{tail}"),
            format!("{head}  sentry: {{dsn: hunter2}}\n{tail}"),
            format!("{head}  standby: maybe # hunter2\n{tail}"),
            format!("{head}  stan: hunter2\n{tail}"),
            format!("{head}  backup: {{url: \"hunter2\n{tail}"),
            format!("{head}  sentry: [hunter2, hunter2\n{tail}"),
            format!("{head}{tail}hunter2: [\n"),
            format!("{head}  dkim: {{key: [hunter2]}}\n{tail}"),
            format!("{head}  stan: |\n    a\n    hunter2: y\n   hunter2\n{tail}"),
        ] {
            let said = quotes(&text);
            assert!(said.contains(" | "), "nothing is quoted: {said}");
            assert!(!said.replace("hunter2: [", "").contains("hunter2"), "{said}");
        }
    }

    #[test]
    fn a_long_line_is_cut_around_the_caret() {
        let text = format!("appliance: {{domain: a.de, allowed_hosts: [{}'a b']}}\napp: {{}}\n", "a.de, ".repeat(100));
        let said = quotes(&text);
        let quoted = said.lines().nth(1).expect("the line is quoted");
        assert!(quoted.chars().count() < 120 && quoted.contains("'a b'"), "{said}");
    }
}
