//! Reading a layout of disks, in its own form and in the one that Salt's states took.

use super::document::{Key, Kind, Node, shown};
use super::layout::*;
use super::layout_rules;
use super::reader::{Fields, Reading, Unknown};
use super::words::split_words;
use crate::value::*;
use std::str::FromStr;

/// Reads the mapping; what does not fit together is reported too.
pub(super) fn read(reading: &Reading, node: &Node, path: &str) -> Layout {
    let fields = Fields::of(reading, Some(node), path);
    let lvm = fields.fields("lvm");
    let layout = Layout {
        tables: entries(&fields, "parted", read_table),
        raids: entries(&fields, "mdadm", read_raid),
        crypts: entries(&fields, "crypt", read_crypt),
        physical: lvm.list("pv", |reading, node, path| reading.checked(node, path)).unwrap_or_default(),
        groups: entries(&lvm, "vg", read_group),
        volumes: entries(&lvm, "lv", read_volume),
        formats: entries(&fields, "format", read_format),
        mounts: entries(&fields, "mount", read_mount),
        swaps: fields.list("swap", |reading, node, path| reading.checked(node, path)).unwrap_or_default(),
    };
    lvm.finish(Unknown::Warn);
    layout_rules::check(&fields, &layout);
    fields.finish(Unknown::Warn);
    layout
}

/// The entries of a mapping whose keys are the user's.
fn entries<T>(fields: &Fields, key: &'static str, read: fn(&Reading, &Key, &Fields) -> Option<T>) -> Vec<T> {
    let all = fields.fields(key);
    let Some(node) = all.mapping() else { return Vec::new() };
    let mut found = Vec::new();
    for (name, value) in node.entries().iter().take_while(|_| !fields.reading.is_lost()) {
        let path = format!("{}[{}]", fields.path(key), shown(&name.text));
        // Salt's form: a list of mappings with one key each.
        let merged = merged(value);
        let inner = Fields::of(fields.reading, Some(merged.as_ref().unwrap_or(value)), &path);
        found.extend(read(fields.reading, name, &inner));
        inner.finish(Unknown::Warn);
    }
    found
}

/// A list of mappings, or of words like `level=1`, as one mapping.
fn merged(node: &Node) -> Option<Node> {
    let Kind::Sequence(items) = &*node.kind else { return None };
    let mut all = Vec::new();
    for item in items {
        match &*item.kind {
            Kind::Mapping(entries) => all.extend(entries.iter().cloned()),
            Kind::Scalar { text, .. } => {
                let (key, value) = text.split_once('=')?;
                let key = Key { text: key.trim().to_owned(), place: item.place };
                all.push((key, Node::scalar(item.place, value.trim().to_owned(), true)));
            }
            Kind::Sequence(_) => return None,
        }
    }
    Some(node.with_kind(Kind::Mapping(all)))
}

/// A key that is a checked value.
fn key<T: FromStr<Err = Invalid>>(reading: &Reading, key: &Key, fields: &Fields) -> Option<T> {
    let read = key.text.parse();
    if let Err(right) = &read {
        reading.error(key.place, format!("'{}' must be {right}", fields.path("").trim_end_matches('.')));
    }
    read.ok()
}

/// A value that must be there.
fn needed<T: FromStr<Err = Invalid>>(fields: &Fields, name: &'static str) -> Option<T> {
    if fields.value(name).is_none() {
        fields.error(fields.place(), format!("'{}' is missing", fields.path(name)));
    }
    fields.checked(name)
}

fn devices(fields: &Fields, name: &'static str) -> Vec<Device> {
    if fields.value(name).is_none() {
        fields.error(fields.place(), format!("'{}' is missing; name at least one device", fields.path(name)));
    }
    fields.list(name, |reading, node, path| reading.checked(node, path)).unwrap_or_default()
}

fn read_table(reading: &Reading, name: &Key, fields: &Fields) -> Option<Table> {
    let disk = key(reading, name, fields);
    let kind = fields.checked("type");
    let parts = fields.list("parts", |reading, node, path| {
        let part = Fields::of(reading, Some(node), path);
        let (name, flags) = (part.checked("name"), part.words("flags").unwrap_or_default());
        let (start, end) = (needed(&part, "start"), needed(&part, "end"));
        part.finish(Unknown::Warn);
        Some(Part { name, start: start?, end: end?, flags })
    });
    Some(Table { disk: disk?, kind, parts: parts.unwrap_or_default() })
}

fn read_raid(reading: &Reading, name: &Key, fields: &Fields) -> Option<Raid> {
    let device = key(reading, name, fields);
    let (level, members) = (needed(fields, "level"), devices(fields, "devices"));
    Some(Raid { device: device?, level: level?, members })
}

fn read_crypt(reading: &Reading, name: &Key, fields: &Fields) -> Option<Crypt> {
    let device = key(reading, name, fields);
    let (password, file) = (fields.secret("password"), fields.checked("keyfile"));
    let target = needed(fields, "target");
    let key = match (password, file) {
        (Some(password), None) => CryptKey::Password(password),
        (None, Some(file)) => CryptKey::File(file),
        _ => {
            fields.error(
                fields.place(),
                format!("'{}' needs either 'password' or 'keyfile'", fields.path("").trim_end_matches('.')),
            );
            return None;
        }
    };
    Some(Crypt { device: device?, key, target: target? })
}

fn read_group(reading: &Reading, name: &Key, fields: &Fields) -> Option<Group> {
    let name = key(reading, name, fields);
    let devices = devices(fields, "devices");
    Some(Group { name: name?, devices })
}

fn read_volume(reading: &Reading, name: &Key, fields: &Fields) -> Option<Volume> {
    let name = key(reading, name, fields);
    let group = needed(fields, "vgname");
    let size = if fields.value("extents").is_some() { fields.checked("extents") } else { needed(fields, "size") };
    let expand = fields.boolean("expand").unwrap_or(false);
    // Nothing carries a signature that could be in the way: that is refused before.
    fields.boolean("wipesignatures");
    states_of_salt(fields);
    Some(Volume { name: name?, group: group?, size: size?, expand })
}

fn read_format(reading: &Reading, name: &Key, fields: &Fields) -> Option<Format> {
    // A key that only names it is taken where the device is given beside it.
    let device = if fields.value("device").is_some() { fields.checked("device") } else { key(reading, name, fields) };
    let (kind, options) = (needed(fields, "fstype"), words(fields, "options"));
    states_of_salt(fields);
    Some(Format { device: device?, kind: kind?, options })
}

fn read_mount(reading: &Reading, name: &Key, fields: &Fields) -> Option<Mount> {
    let target = key(reading, name, fields);
    let (source, kind) = (needed(fields, "device"), fields.checked("fstype"));
    let mut options = words(fields, "options");
    options.extend(words(fields, "opts"));
    let options = options.iter().flat_map(|word| word.split(',')).map(str::to_owned).collect();
    for ignored in ["mkmnt", "persist"] {
        fields.boolean(ignored);
    }
    for ignored in ["dump", "pass_num"] {
        fields.get(ignored, |reading, node, path| reading.number(node, path, 0..=9));
    }
    Some(Mount { target: target?, source: source?, kind, options })
}

/// A text that is split as a shell does, or a list of such.
fn words(fields: &Fields, name: &'static str) -> Vec<String> {
    let Some(node) = fields.value(name) else { return Vec::new() };
    let texts = match &*node.kind {
        Kind::Sequence(_) => fields.list(name, |reading, node, path| reading.text(node, path)).unwrap_or_default(),
        _ => fields.text(name).into_iter().collect(),
    };
    let split: Option<Vec<Vec<String>>> = texts.iter().map(|text| split_words(text)).collect();
    let plain = |word: &String| !word.is_empty() && !word.chars().any(char::is_control);
    match split.map(|words| words.concat()) {
        Some(words) if words.iter().all(plain) => words,
        _ => {
            fields.error(node.place, format!("'{}' must be words with their quotes closed", fields.path(name)));
            Vec::new()
        }
    }
}

/// Keys that ordered Salt's states; the order here is fixed.
fn states_of_salt(fields: &Fields) {
    for name in ["watch_in", "watch", "require_in", "require"] {
        if let Some(node) = fields.node(name) {
            fields.warning(node.place, format!("'{}' belongs to Salt and is not used any more", fields.path(name)));
        }
    }
}
