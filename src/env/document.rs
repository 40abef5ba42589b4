//! YAML text into a tree whose every node knows its place. Bounds on size, depth and alias expansion are held here;
//! duplicate keys and wrong bytes are errors. What the keys mean is not known here.

use super::diagnostic::Diagnostic;
pub use super::diagnostic::Place;
use super::forms;
use saphyr_parser::{Event, Parser, ScalarStyle, Span};
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

/// A node of the tree. Aliased subtrees are shared, so a tree costs no more memory than its text.
#[derive(Debug, Clone)]
pub struct Node {
    pub place: Place,
    /// Where its text ends (behind the last character); for lists and mappings, where they begin.
    pub end: Place,
    pub kind: Arc<Kind>,
    /// Whether it is a block of text: one behind `|`, line by line, or one behind `>`.
    pub block: Block,
    /// What a compose file's tag says about merging it (Compose Specification, "Merge").
    pub mark: Option<Mark>,
    /// How much this one stands for once aliases are expanded; bounded by [`MAX_NODES`].
    size: u32,
}

/// How a scalar's text stands in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Block {
    No,
    /// Behind `|`: its first line is its place.
    Literal,
    /// Behind `>`.
    Folded,
}

/// A compose file's own tags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// `!reset`: the value of the file below is taken away.
    Reset,
    /// `!override`: the value of the file below is replaced, not merged.
    Override,
}

#[derive(Debug)]
pub enum Kind {
    Scalar { text: String, plain: bool },
    Sequence(Vec<Node>),
    Mapping(Vec<(Key, Node)>),
}

/// A mapping's key with its own place.
#[derive(Debug, Clone)]
pub struct Key {
    pub text: String,
    pub place: Place,
}

/// The deepest nesting that is read.
const MAX_DEPTH: usize = 64;
/// The most nodes a file may stand for, aliases expanded; a long text counts as more than one.
const MAX_NODES: u32 = 100_000;

type Result<T> = std::result::Result<T, Box<Diagnostic>>;

fn error<T>(place: Place, message: impl Into<String>) -> Result<T> {
    Err(Box::new(Diagnostic::error(place, message)))
}

/// Parses one YAML document. An empty document is an empty plain scalar (null).
///
/// # Errors
/// The first problem of the text itself, with its place: the parser cannot go on behind it.
pub fn parse(bytes: &[u8], max_bytes: u64) -> Result<Node> {
    let mut documents = parse_as(bytes, max_bytes, false)?;
    Ok(documents.swap_remove(0))
}

/// [`parse`] for compose files, which have the tags `!reset` and `!override`, and may hold several documents; there is at least one.
///
/// # Errors
/// As for [`parse`].
pub fn parse_with_marks(bytes: &[u8], max_bytes: u64) -> Result<Vec<Node>> {
    parse_as(bytes, max_bytes, true)
}

fn parse_as(bytes: &[u8], max_bytes: u64, with_marks: bool) -> Result<Vec<Node>> {
    if bytes.len() as u64 > max_bytes {
        return error(Place::START, format!("the file is larger than {max_bytes} bytes, the most that is read"));
    }
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text.strip_prefix('\u{feff}').unwrap_or(text),
        Err(broken) => {
            let good = String::from_utf8_lossy(&bytes[..broken.valid_up_to()]).into_owned();
            return error(place_at_end(&good), "the file is not UTF-8 text from here on; save it as UTF-8");
        }
    };
    if let Some(at) = text.find('\0') {
        return error(place_at_end(&text[..at]), "there is a NUL byte here; remove it");
    }
    forms::read(text, |text| {
        Builder { parser: Parser::new_from_str(text), anchors: HashMap::new(), with_marks, text }.documents()
    })
}

/// What a text counts for: copies of a long one are as dear as many short ones.
fn weight(text: &str) -> u32 {
    // A text that is longer than a u32 can say is far beyond every bound.
    u32::try_from(1 + text.len() / 64).unwrap_or(u32::MAX)
}

/// A count of the parser's; beyond four thousand million there is no file.
fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// The lines of a text as YAML counts them: a carriage return alone ends one too (YAML 1.2.2, 5.4).
pub(super) fn lines(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let Some(end) = text.find(['\n', '\r']) else {
            rest = None;
            return Some(text);
        };
        let skip = if text[end..].starts_with("\r\n") { 2 } else { 1 };
        rest = Some(&text[end + skip..]);
        Some(&text[..end])
    })
}

fn place_at_end(text: &str) -> Place {
    let (number, last) = lines(text).enumerate().last().unwrap_or_default();
    Place { file: 0, line: count(number + 1), column: count(last.chars().count() + 1) }
}

fn at(marker: &saphyr_parser::Marker) -> Place {
    Place { file: 0, line: count(marker.line().max(1)), column: count(marker.col() + 1) }
}

fn place(span: &Span) -> Place {
    at(&span.start)
}

struct Builder<'a> {
    parser: Parser<'a, saphyr_parser::StrInput<'a>>,
    anchors: HashMap<usize, Node>,
    with_marks: bool,
    text: &'a str,
}

impl<'a> Builder<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Span)> {
        match self.parser.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(scan)) => self.explain(at(scan.marker()), scan.info()),
            None => error(Place::START, "the file ends in the middle of a value"),
        }
    }

    /// A parser's words, with the remedy where the cause is a common one.
    fn explain<T>(&self, at: Place, info: &str) -> Result<T> {
        // The scanner stumbles over a tab in the line itself or at the end of the one before it.
        for (index, line) in lines(self.text).enumerate().skip(at.line as usize - 1).take(2) {
            let indent = line.chars().take_while(|c| c.is_whitespace());
            if let Some(tab) = indent.clone().position(|c| c == '\t') {
                let place = Place { file: 0, line: count(index + 1), column: count(tab + 1) };
                return error(place, "a tab in the indentation; YAML takes only spaces");
            }
        }
        if info.contains("recursion limit") {
            return error(at, format!("nested deeper than {MAX_DEPTH} levels; flatten it"));
        }
        error(at, format!("this is not valid YAML: {info}"))
    }

    fn documents(mut self) -> Result<Vec<Node>> {
        let mut roots = Vec::new();
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamStart | Event::DocumentEnd | Event::Nothing => {}
                Event::StreamEnd if roots.is_empty() => {
                    return Ok(vec![Node::scalar(Place::START, String::new(), true)]);
                }
                Event::StreamEnd => return Ok(roots),
                Event::DocumentStart(_) if !roots.is_empty() && !self.with_marks => {
                    return error(place(&span), "a second YAML document starts here; the file must hold one");
                }
                Event::DocumentStart(_) => {}
                other => roots.push(self.node(other, span, 0)?),
            }
        }
    }

    fn node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<Node> {
        let at = place(&span);
        if depth > MAX_DEPTH {
            return error(at, format!("nested deeper than {MAX_DEPTH} levels; flatten it"));
        }
        let end = self::at(&span.end);
        let (mut event, mut mark) = (event, None);
        if let Event::Scalar(.., tag) | Event::SequenceStart(_, tag) | Event::MappingStart(_, tag) = &mut event {
            mark = self.take_mark(tag);
        }
        let (node, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let tag = check_tag(tag.as_deref(), at, &["str", "int", "bool", "float", "null", "merge", "binary"])?;
                let text = if tag == Some("binary") { Cow::Owned(binary(&text, at)?) } else { text };
                let forced_text = matches!(tag, Some("str" | "binary"));
                if text.contains('\0') {
                    return error(at, "the value holds a NUL byte; remove it");
                }
                let plain = style == ScalarStyle::Plain && !forced_text;
                let block = match style {
                    ScalarStyle::Literal => Block::Literal,
                    ScalarStyle::Folded => Block::Folded,
                    _ => Block::No,
                };
                (Node { end, block, ..Node::scalar(at, text.into_owned(), plain) }, anchor)
            }
            Event::SequenceStart(anchor, tag) => {
                check_tag(tag.as_deref(), at, &["seq"])?;
                (self.sequence(at, depth)?, anchor)
            }
            Event::MappingStart(anchor, tag) => {
                check_tag(tag.as_deref(), at, &["map"])?;
                (self.mapping(at, depth)?, anchor)
            }
            Event::Alias(id) => match self.anchors.get(&id) {
                Some(target) => (Node { place: at, end, block: Block::No, ..target.clone() }, 0),
                None => return error(at, "this alias stands inside the value it names"),
            },
            _ => return error(at, "unexpected end of a value"),
        };
        let node = Node { mark, ..node };
        if node.size > MAX_NODES {
            return error(at, format!("aliases expand to more than {MAX_NODES} values here; write them out"));
        }
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn take_mark(&self, tag: &mut Option<Cow<'a, saphyr_parser::Tag>>) -> Option<Mark> {
        let mark = match tag.as_deref().filter(|tag| self.with_marks && tag.handle == "!")?.suffix.as_str() {
            "reset" => Mark::Reset,
            "override" => Mark::Override,
            _ => return None,
        };
        *tag = None;
        Some(mark)
    }

    fn sequence(&mut self, at: Place, depth: usize) -> Result<Node> {
        let mut items = Vec::new();
        let mut size = 1;
        loop {
            let (event, span) = self.next()?;
            if event == Event::SequenceEnd {
                return Ok(Node {
                    place: at,
                    end: at,
                    kind: Arc::new(Kind::Sequence(items)),
                    block: Block::No,
                    mark: None,
                    size,
                });
            }
            let item = self.node(event, span, depth + 1)?;
            size = self.grown(size, &item)?;
            items.push(item);
        }
    }

    fn mapping(&mut self, at: Place, depth: usize) -> Result<Node> {
        let mut entries: Vec<(Key, Node)> = Vec::new();
        let mut merged: Vec<Node> = Vec::new();
        let mut seen: HashMap<String, Place> = HashMap::new();
        let mut size = 1_u32;
        loop {
            let (event, span) = self.next()?;
            if event == Event::MappingEnd {
                break;
            }
            let key_at = place(&span);
            let key_node = self.node(event, span, depth + 1)?;
            let Kind::Scalar { text, plain } = &*key_node.kind else {
                return error(key_at, "a key must be a plain word, not a list or a mapping");
            };
            let (key, is_merge) = (Key { text: text.clone(), place: key_at }, *plain && text == "<<");
            let (event, span) = self.next()?;
            let value = self.node(event, span, depth + 1)?;
            size = self.grown(size.saturating_add(weight(&key.text)), &value)?;
            if is_merge {
                merged.push(value);
                continue;
            }
            if let Some(first) = seen.insert(key.text.clone(), key_at) {
                return error(
                    key_at,
                    format!("the key '{}' stands here twice; it is first set in line {}", shown(&key.text), first.line),
                );
            }
            entries.push((key, value));
        }
        for source in merged {
            merge(&mut entries, &mut seen, &source)?;
        }
        Ok(Node { place: at, end: at, kind: Arc::new(Kind::Mapping(entries)), block: Block::No, mark: None, size })
    }

    fn grown(&self, size: u32, child: &Node) -> Result<u32> {
        let size = size.saturating_add(child.size);
        if size > MAX_NODES {
            return error(child.place, format!("the file stands for more than {MAX_NODES} values; make it smaller"));
        }
        Ok(size)
    }
}

/// YAML 1.1 merge: keys of the source that the mapping does not set itself; earlier sources win.
fn merge(entries: &mut Vec<(Key, Node)>, seen: &mut HashMap<String, Place>, source: &Node) -> Result<()> {
    match &*source.kind {
        Kind::Mapping(more) => {
            for (key, value) in more {
                if !seen.contains_key(&key.text) {
                    seen.insert(key.text.clone(), key.place);
                    entries.push((key.clone(), value.clone()));
                }
            }
            Ok(())
        }
        Kind::Sequence(list) if list.iter().all(|item| matches!(&*item.kind, Kind::Mapping(_))) => {
            list.iter().try_for_each(|item| merge(entries, seen, item))
        }
        _ => error(source.place, "'<<' takes a mapping or a list of mappings"),
    }
}

/// What `!!binary` holds, as text: base64, over lines or not.
fn binary(text: &str, at: Place) -> Result<String> {
    use base64::Engine;
    let packed: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    let bytes = base64::engine::general_purpose::STANDARD.decode(packed);
    match bytes.ok().map(String::from_utf8) {
        Some(Ok(text)) => Ok(text),
        _ => error(at, "the value behind '!!binary' must be base64, and text once it is unpacked"),
    }
}

/// Accepts the core schema's tags (`!!str` …); the name is given back. Others would ask for code or types we lack.
fn check_tag<'t>(tag: Option<&'t saphyr_parser::Tag>, at: Place, allowed: &[&str]) -> Result<Option<&'t str>> {
    let Some(tag) = tag else { return Ok(None) };
    if tag.is_yaml_core_schema() && allowed.contains(&tag.suffix.as_str()) {
        return Ok(Some(&tag.suffix));
    }
    // Somebody's secret may begin with '!' and lack its quotes.
    if tag.is_yaml_core_schema() {
        return error(at, format!("the tag '!!{}' is not supported here; remove it", shown(&tag.suffix)));
    }
    error(at, "a tag is not supported here; remove it, or put the value in quotes if it begins with '!'")
}

/// A text from the file, cut and without control characters, to be shown in a message.
pub fn shown(text: &str) -> String {
    let clean: String = text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).take(60).collect();
    if text.chars().count() > 60 { format!("{clean}…") } else { clean }
}

impl Node {
    pub fn scalar(place: Place, text: String, plain: bool) -> Node {
        let size = weight(&text);
        Node { place, end: place, kind: Arc::new(Kind::Scalar { text, plain }), block: Block::No, mark: None, size }
    }

    /// The words of a scalar, each at its own place where that is known: on one line and without escapes.
    pub fn words(&self) -> Vec<Node> {
        let Kind::Scalar { text, .. } = &*self.kind else { return Vec::new() };
        let (length, wide) = (text.chars().count(), self.end.column.saturating_sub(self.place.column) as usize);
        let in_quotes = match wide.checked_sub(length) {
            Some(more @ (0 | 2)) if self.place.line == self.end.line => Some(more / 2),
            _ => None,
        };
        let word = |word: &str| {
            // A word is a part of its text.
            let before = &text[..word.as_ptr() as usize - text.as_ptr() as usize];
            let offset = in_quotes.map_or(0, |quote| quote + before.chars().count());
            let place = Place { column: self.place.column + count(offset), ..self.place };
            Node { end: self.end, ..Node::scalar(place, word.to_owned(), true) }
        };
        text.split_whitespace().map(word).collect()
    }

    /// The same place with other contents of the same shape.
    pub fn with_kind(&self, kind: Kind) -> Node {
        Node { kind: Arc::new(kind), ..self.clone() }
    }

    /// The same contents in another file's place.
    pub fn in_file(&self, file: u16) -> Node {
        Node { place: Place { file, ..self.place }, ..self.clone() }
    }

    /// YAML's null: nothing, `~` or a plain `null`.
    pub fn is_null(&self) -> bool {
        matches!(&*self.kind, Kind::Scalar { text, plain: true } if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }

    /// The value under a key, where this is a mapping that has it.
    pub fn get(&self, key: &str) -> Option<&Node> {
        match &*self.kind {
            Kind::Mapping(entries) => entries.iter().find(|(name, _)| name.text == key).map(|(_, value)| value),
            _ => None,
        }
    }

    pub fn entries(&self) -> &[(Key, Node)] {
        match &*self.kind {
            Kind::Mapping(entries) => entries,
            _ => &[],
        }
    }

    /// What the node is, in words for a message.
    pub fn what(&self) -> &'static str {
        match &*self.kind {
            _ if self.is_null() => "nothing",
            Kind::Scalar { .. } => "a string",
            Kind::Sequence(_) => "a list",
            Kind::Mapping(_) => "a mapping",
        }
    }
}

#[cfg(test)]
#[path = "document_tests.rs"]
mod tests;
