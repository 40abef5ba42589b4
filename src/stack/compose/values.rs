//! The forms in which a value may be written: a text or a list, a mapping or a list of pairs, a command as words or as a string.

use super::{Context, scalar, words};
use crate::env::document::Kind;
use crate::env::reader::Fields;
use std::collections::BTreeMap;

/// A text that says something: what a variable leaves empty is not set.
pub(super) fn said(fields: &Fields, key: &'static str) -> Option<String> {
    fields.text(key).filter(|text| !text.is_empty())
}

/// A text or a list of texts.
pub(super) fn texts(fields: &Fields, key: &'static str) -> Vec<String> {
    match fields.value(key).map(|node| &*node.kind) {
        None => Vec::new(),
        Some(Kind::Scalar { text, .. }) => vec![text.clone()],
        Some(_) => fields.list(key, |reading, node, path| reading.text(node, path)).unwrap_or_default(),
    }
}

/// `NAME: value` or `- NAME=value`. In an environment and in build arguments a name without a value takes the variable of that name,
/// if it is set; elsewhere its value is empty.
pub(super) fn pairs(fields: &Fields, key: &'static str, context: &Context) -> BTreeMap<String, String> {
    named_pairs(fields, key, context).into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

/// [`pairs`], with those that have no value, since they take it from outside and it is not set there.
pub(super) fn named_pairs(fields: &Fields, key: &'static str, context: &Context) -> BTreeMap<String, Option<String>> {
    let Some(node) = fields.value(key) else { return BTreeMap::new() };
    let path = fields.path(key);
    let mut all = BTreeMap::new();
    let without_value = |name: &str| match key {
        "environment" | "args" => {
            let value = context.variables.get(name).cloned();
            context.hide(value.as_deref());
            value
        }
        _ => Some(String::new()),
    };
    match &*node.kind {
        Kind::Mapping(entries) => {
            for (name, value) in entries {
                if value.is_null() {
                    all.insert(name.text.clone(), without_value(&name.text));
                } else if let Some(text) = fields.reading.text(value, &path).and_then(|_| scalar::text(value)) {
                    all.insert(name.text.clone(), Some(text));
                }
            }
        }
        Kind::Sequence(items) => {
            for item in items {
                let Some(text) = fields.reading.text(item, &path) else { continue };
                match text.split_once('=') {
                    Some((name, value)) => all.insert(name.to_owned(), Some(value.to_owned())),
                    None => all.insert(text.clone(), without_value(&text)),
                };
            }
        }
        Kind::Scalar { .. } => fields.error(node.place, format!("'{path}' must be a mapping or a list, not a string")),
    }
    all
}

/// A command as a list, or as a string that is split as docker compose splits it.
pub(super) fn read_command(fields: &Fields, key: &'static str) -> Option<Vec<String>> {
    let node = fields.value(key)?;
    let Kind::Scalar { text, .. } = &*node.kind else {
        return fields.list(key, |reading, node, path| reading.text(node, path));
    };
    let path = fields.path(key);
    match words::split(text) {
        Ok((words, None)) => Some(words),
        Ok((words, Some(sign))) => {
            let text = format!("'{path}' ends at '{sign}', which no shell reads here; write a list, or quote it");
            fields.warning(node.place, text);
            Some(words)
        }
        Err(problem) => {
            fields.error(node.place, format!("'{path}' {problem}"));
            None
        }
    }
}
