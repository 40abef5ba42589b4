//! From nodes to checked types, collecting every problem on the way. Shared by env.yml and compose files;
//! the keys themselves are in their own files.

use super::diagnostic::{Diagnostic, Report, Severity, nearest};
use super::document::{Key, Kind, Node, Place, shown};
use crate::value::{Calendar, Invalid, Secret};
use std::cell::RefCell;
use std::collections::{BTreeSet, HashSet};
use std::str::FromStr;

/// What is being read: the problems found so far, and what was learnt on the way.
#[derive(Debug, Default)]
pub struct Reading {
    /// Whether an empty text counts as nothing.
    empty_is_unset: bool,
    report: RefCell<Report>,
    open: RefCell<HashSet<Place>>,
    asked: RefCell<BTreeSet<String>>,
    calendars: RefCell<Vec<(Place, Calendar)>>,
}

/// What a reading leaves.
pub struct Read {
    /// The problems, in the order of their places.
    pub report: Report,
    /// Where the values stand that are certainly no secrets: names, numbers, booleans. All others may be.
    pub open: HashSet<Place>,
    /// The path of every key that was looked for, whether it was there or not; list items are `[]`.
    pub asked: BTreeSet<String>,
    /// Calendar expressions, of which only systemd knows whether it takes them.
    pub calendars: Vec<(Place, Calendar)>,
}

impl Reading {
    /// For an env.yml: an empty text counts as nothing there, since old ones have "default empty" values.
    pub fn of_env() -> Reading {
        Reading { empty_is_unset: true, ..Reading::default() }
    }

    pub fn finish(self) -> Read {
        Read {
            report: self.report.into_inner().sorted(),
            open: self.open.into_inner(),
            asked: self.asked.into_inner(),
            calendars: self.calendars.into_inner(),
        }
    }

    /// Takes over the problems of a text that stands inside of this file, and what was asked for in it. `here` tells where its lines and
    /// columns are in the file.
    pub fn take_over(&self, inner: Read, here: impl Fn(u32, u32) -> Place) {
        self.asked.borrow_mut().extend(inner.asked);
        for found in inner.report.all() {
            let place = here(found.line, found.column);
            match found.severity {
                Severity::Error => self.error(place, found.message.clone()),
                Severity::Warning => self.warning(place, found.message.clone()),
            }
        }
    }

    pub fn error(&self, place: Place, message: impl Into<String>) {
        self.report.borrow_mut().push(Diagnostic::error(place, message));
    }

    pub fn warning(&self, place: Place, message: impl Into<String>) {
        self.report.borrow_mut().push(Diagnostic::warning(place, message));
    }

    /// Whether so many problems were found, errors among them, that further ones would not be told.
    pub fn is_lost(&self) -> bool {
        let report = self.report.borrow();
        report.is_full() && report.all().iter().all(|found| found.severity == Severity::Error)
    }

    /// The value at this place is no secret and may be shown.
    pub fn mark_open(&self, node: &Node) {
        self.open.borrow_mut().insert(node.place);
    }

    /// A calendar expression that systemd has to judge.
    pub fn ask_systemd(&self, place: Place, calendar: Calendar) {
        self.calendars.borrow_mut().push((place, calendar));
    }

    /// The text of a scalar; numbers and booleans count by how they are written.
    pub fn text(&self, node: &Node, path: &str) -> Option<String> {
        match &*node.kind {
            Kind::Scalar { text, .. } if !node.is_null() => Some(text.clone()),
            _ => {
                self.error(node.place, format!("'{path}' must be a string, not {}", node.what()));
                None
            }
        }
    }

    /// A text that is parsed into its checked type. The offending text is shown.
    pub fn checked<T: FromStr<Err = Invalid>>(&self, node: &Node, path: &str) -> Option<T> {
        self.mark_open(node);
        let text = self.text(node, path)?;
        match text.trim().parse() {
            Ok(value) => Some(value),
            Err(right) => {
                self.error(node.place, format!("'{path}' is '{}', but must be {right}", shown(text.trim())));
                None
            }
        }
    }

    /// Like [`Reading::checked`], for keys whose text may hold a secret: it is not shown.
    pub fn checked_secretly<T: FromStr<Err = Invalid>>(&self, node: &Node, path: &str) -> Option<T> {
        let text = self.text(node, path)?;
        match text.trim().parse() {
            Ok(value) => Some(value),
            Err(right) => {
                self.error(node.place, format!("'{path}' must be {right}"));
                None
            }
        }
    }

    pub fn secret(&self, node: &Node, path: &str) -> Option<Secret> {
        self.text(node, path).map(Secret::new)
    }

    /// A boolean as YAML 1.1 has them, plain or quoted, in any case.
    pub fn boolean(&self, node: &Node, path: &str) -> Option<bool> {
        self.mark_open(node);
        let value = match &*node.kind {
            Kind::Scalar { text, .. } => parse_boolean(text.trim()),
            _ => None,
        };
        if value.is_none() {
            let what = match &*node.kind {
                Kind::Scalar { text, .. } if !node.is_null() => format!("'{}'", shown(text.trim())),
                _ => node.what().to_owned(),
            };
            self.error(node.place, format!("'{path}' is {what}, but must be true or false"));
        }
        value
    }

    /// A whole number in a range.
    pub fn number(&self, node: &Node, path: &str, range: std::ops::RangeInclusive<i64>) -> Option<i64> {
        self.mark_open(node);
        let text = self.text(node, path)?;
        match text.parse::<i64>() {
            Ok(value) if range.contains(&value) => Some(value),
            _ => {
                let (low, high) = (range.start(), range.end());
                self.error(
                    node.place,
                    format!("'{path}' is '{}', but must be a whole number from {low} to {high}", shown(&text)),
                );
                None
            }
        }
    }
}

/// `a.files[3].path` as `a.files[].path`.
fn without_indices(path: &str) -> String {
    let mut parts = path.split('[');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |all, part| format!("{all}[]{}", part.split_once(']').map_or("", |(_, rest)| rest)))
}

/// YAML 1.1's words for true and false.
pub fn parse_boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" => Some(true),
        "false" | "no" | "off" => Some(false),
        _ => None,
    }
}

/// Reads one value; `None` means a problem was reported.
pub type Reader<T> = fn(&Reading, &Node, &str) -> Option<T>;

/// A mapping whose keys are taken one by one; what is left at the end is unknown.
pub struct Fields<'a> {
    pub reading: &'a Reading,
    node: Option<&'a Node>,
    path: String,
    taken: RefCell<Vec<&'static str>>,
}

/// What is said of keys that nobody took.
pub enum Unknown {
    /// Handed on all the same, but probably a slip.
    Warn,
    /// Not supported, so the file cannot be used.
    Refuse,
}

impl<'a> Fields<'a> {
    /// The root of a file, which must be a mapping.
    pub fn root(reading: &'a Reading, node: &'a Node, right: &str) -> Option<Self> {
        match &*node.kind {
            Kind::Mapping(_) => Some(Fields::at(reading, Some(node), String::new())),
            _ => {
                reading.error(node.place, format!("the file holds {}, but must hold {right}", node.what()));
                None
            }
        }
    }

    /// A mapping inside a file. A missing or null one has no keys; anything else but a mapping is reported.
    pub fn of(reading: &'a Reading, node: Option<&'a Node>, path: &str) -> Self {
        let node = node.filter(|node| !node.is_null());
        match node.map(|node| &*node.kind) {
            None | Some(Kind::Mapping(_)) => Fields::at(reading, node, path.to_owned()),
            Some(_) => {
                let node = node.filter(|node| {
                    reading.error(node.place, format!("'{path}' must be a mapping, not {}", node.what()));
                    false
                });
                Fields::at(reading, node, path.to_owned())
            }
        }
    }

    fn at(reading: &'a Reading, node: Option<&'a Node>, path: String) -> Self {
        Fields { reading, node, path, taken: RefCell::new(Vec::new()) }
    }

    pub fn path(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    pub fn place(&self) -> Place {
        self.node.map_or(Place::START, |node| node.place)
    }

    /// The value under a key, null included; marks the key as known.
    pub fn node(&self, key: &'static str) -> Option<&'a Node> {
        self.taken.borrow_mut().push(key);
        self.reading.asked.borrow_mut().insert(without_indices(&self.path(key)));
        self.node.and_then(|node| node.get(key))
    }

    /// The mapping itself, if it is there.
    pub fn mapping(&self) -> Option<&'a Node> {
        self.node
    }

    /// The place of a key itself (not of its value), for problems with its presence.
    pub fn key_place(&self, key: &str) -> Option<Place> {
        self.node?.entries().iter().find(|(name, _)| name.text == key).map(|(name, _)| name.place)
    }

    /// A key that is there and was probably meant to be the one that is not.
    pub fn misspelt(&self, key: &str) -> Option<(Place, String)> {
        let entries = self.node?.entries().iter();
        let near = |name: &str| name != key && nearest(name, [key]).is_some();
        entries
            .take(1000)
            .map(|(name, _)| name)
            .find(|name| near(&name.text))
            .map(|name| (name.place, shown(&name.text)))
    }

    /// The place of an item in the list under a key.
    pub fn item_place(&self, key: &str, index: usize) -> Option<Place> {
        match &*self.node?.get(key)?.kind {
            Kind::Sequence(items) => items.get(index).map(|item| item.place),
            _ => None,
        }
    }

    /// The value under a key, unless it is missing or null.
    pub fn value(&self, key: &'static str) -> Option<&'a Node> {
        let is_empty = |node: &Node| matches!(&*node.kind, Kind::Scalar { text, .. } if text.trim().is_empty());
        self.node(key).filter(|node| !(node.is_null() || self.reading.empty_is_unset && is_empty(node)))
    }

    pub fn get<T>(&self, key: &'static str, read: Reader<T>) -> Option<T> {
        self.value(key).and_then(|node| read(self.reading, node, &self.path(key)))
    }

    pub fn checked<T: FromStr<Err = Invalid>>(&self, key: &'static str) -> Option<T> {
        self.get(key, |reading, node, path| reading.checked(node, path))
    }

    /// A calendar expression, which systemd will be asked about.
    pub fn calendar(&self, key: &'static str) -> Option<Calendar> {
        let calendar: Calendar = self.checked(key)?;
        if let Some(node) = self.value(key) {
            self.reading.ask_systemd(node.place, calendar.clone());
        }
        Some(calendar)
    }

    pub fn text(&self, key: &'static str) -> Option<String> {
        self.get(key, |reading, node, path| reading.text(node, path))
    }

    pub fn secret(&self, key: &'static str) -> Option<Secret> {
        self.get(key, |reading, node, path| reading.secret(node, path))
    }

    pub fn boolean(&self, key: &'static str) -> Option<bool> {
        self.get(key, |reading, node, path| reading.boolean(node, path))
    }

    /// A list; a single scalar counts as a list of one where `single` readers need it, so it does not here.
    pub fn list<T>(&self, key: &'static str, read: Reader<T>) -> Option<Vec<T>> {
        let node = self.value(key)?;
        let path = self.path(key);
        let Kind::Sequence(items) = &*node.kind else {
            self.reading.error(node.place, format!("'{path}' must be a list, not {}", node.what()));
            return None;
        };
        let each = items.iter().enumerate().take_while(|_| !self.reading.is_lost());
        Some(each.filter_map(|(index, item)| read(self.reading, item, &format!("{path}[{index}]"))).collect())
    }

    /// A space separated text, or a list.
    pub fn words<T: FromStr<Err = Invalid>>(&self, key: &'static str) -> Option<Vec<T>> {
        let node = self.value(key)?;
        if let Kind::Scalar { .. } = &*node.kind {
            let path = self.path(key);
            self.reading.mark_open(node);
            let words = node.words();
            let read = words
                .iter()
                .take_while(|_| !self.reading.is_lost())
                .filter_map(|word| self.reading.checked(word, &path));
            return Some(read.collect());
        }
        self.list(key, |reading, node, path| reading.checked(node, path))
    }

    /// A mapping under a key.
    pub fn fields(&self, key: &'static str) -> Fields<'a> {
        let node = self.node(key);
        Fields::of(self.reading, node, &self.path(key))
    }

    pub fn is_present(&self) -> bool {
        self.node.is_some()
    }

    pub fn error(&self, place: Place, message: impl Into<String>) {
        self.reading.error(place, message);
    }

    pub fn warning(&self, place: Place, message: impl Into<String>) {
        self.reading.warning(place, message);
    }

    /// All keys, whatever they are, with their values; none where it is no mapping.
    pub fn entries(&self) -> &'a [(Key, Node)] {
        self.node.map(Node::entries).unwrap_or_default()
    }

    /// Says what is to be said of the keys that were not taken. `x-` keys are the user's own in compose files.
    pub fn finish(self, unknown: Unknown) {
        let taken = self.taken.borrow();
        let Some(node) = self.node else { return };
        for (key, _) in node.entries() {
            if taken.contains(&key.text.as_str()) {
                continue;
            }
            let path = self.path(&shown(&key.text));
            // Beyond the problems that are told, looking for what was meant would only take time.
            let room = !self.reading.report.borrow().is_full();
            let near = room.then(|| nearest(&key.text, taken.iter().copied())).flatten();
            let hint = near.map(|near| format!("; did you mean '{near}'?")).unwrap_or_default();
            match unknown {
                Unknown::Warn => self.reading.warning(key.place, format!("'{path}' is not a known key{hint}")),
                Unknown::Refuse if key.text.starts_with("x-") => {}
                Unknown::Refuse => {
                    self.reading.error(key.place, format!("'{path}' is not supported{hint}"));
                }
            }
        }
    }
}
