//! Secrets and configs: the top-level keys, and what a service sees of them as files (Compose Specification, "Secrets",
//! "Configs").

use super::{Context, scalar};
use crate::env::document::{self, Kind, Node};
use crate::env::reader::{Fields, Unknown};
use crate::stack::model::{Content, Grant};
use crate::stack::ports;
use std::collections::BTreeMap;

/// The longest content that a compose file or a variable may hold, in bytes.
const MAX_CONTENT: usize = 500 * 1024;

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kinds {
    Secrets,
    Configs,
}

impl Kinds {
    fn key(self) -> &'static str {
        match self {
            Kinds::Secrets => "secrets",
            Kinds::Configs => "configs",
        }
    }

    /// Where a file is put that the service names no place for.
    fn target(self, name: &str) -> String {
        match self {
            Kinds::Secrets => format!("/run/secrets/{name}"),
            Kinds::Configs => format!("/{name}"),
        }
    }
}

/// Reads the top-level `secrets:` or `configs:`; `None` stands for one whose problem was reported.
pub fn read_top(root: &Fields, kinds: Kinds, context: &Context) -> BTreeMap<String, Option<Content>> {
    let mut all = BTreeMap::new();
    for (key, value) in root.value(kinds.key()).map(Node::entries).unwrap_or_default() {
        let path = format!("{}.{}", kinds.key(), document::shown(&key.text));
        if !ports::is_volume_name(&key.text) {
            root.error(key.place, format!("'{path}' is not a name"));
            continue;
        }
        let fields = Fields::of(root.reading, Some(value), &path);
        // Without Swarm they say nothing.
        fields.text("name");
        fields.value("labels");
        let content = read_content(&fields, kinds, context).or_else(|| {
            let what = if kinds == Kinds::Secrets { "file or environment" } else { "file, content or environment" };
            fields.error(key.place, format!("'{path}' needs one of {what}; external ones exist in a swarm only"));
            None
        });
        if fields.boolean("external") != Some(true) {
            fields.finish(Unknown::Refuse);
        }
        all.insert(key.text.clone(), content);
    }
    all
}

fn read_content(fields: &Fields, kinds: Kinds, context: &Context) -> Option<Content> {
    let file = fields.value("file").zip(fields.text("file"));
    let text = if kinds == Kinds::Configs { fields.text("content") } else { None };
    let variable = fields.text("environment");
    match (file, text, variable) {
        (Some((node, path)), None, None) => Some(Content::File(context.sources.absolute(node.place, &path))),
        (None, Some(text), None) if text.len() <= MAX_CONTENT => Some(Content::Text(text)),
        (None, None, Some(name)) => match context.variables.get(&name) {
            Some(value) => Some(Content::Text(value.clone())),
            None => {
                fields.error(
                    fields.place(),
                    format!(
                        "'{}' names the variable {}, which is not set",
                        fields.path("environment"),
                        document::shown(&name)
                    ),
                );
                // Reported already.
                Some(Content::Text(String::new()))
            }
        },
        _ => None,
    }
}

/// Reads a service's `secrets:` or `configs:`.
pub fn read(service: &Fields, kinds: Kinds, context: &Context) -> Vec<Grant> {
    let known = if kinds == Kinds::Secrets { &context.secrets } else { &context.configs };
    let Some(node) = service.value(kinds.key()) else { return Vec::new() };
    let path = service.path(kinds.key());
    let Kind::Sequence(items) = &*node.kind else {
        service.error(node.place, format!("'{path}' must be a list"));
        return Vec::new();
    };
    let mut all: Vec<Grant> = Vec::new();
    for item in items {
        let fields = match &*item.kind {
            Kind::Mapping(_) => Some(Fields::of(service.reading, Some(item), &path)),
            _ => None,
        };
        let source = match &fields {
            Some(fields) => fields.text("source"),
            None => service.reading.text(item, &path),
        };
        let Some(name) = source else {
            service.error(item.place, format!("'{path}.source' is missing"));
            continue;
        };
        let Some(content) = known.get(&name) else {
            let name = document::shown(&name);
            service.error(item.place, format!("'{path}' names {name}, which is not under '{}'", kinds.key()));
            continue;
        };
        let target = fields.as_ref().and_then(|fields| fields.text("target"));
        let target = match target {
            Some(target) if target.starts_with('/') => target,
            Some(target) => kinds.target(&target),
            None => kinds.target(&name),
        };
        if target.contains(':') || target.split('/').any(|part| part == "..") || target.chars().any(char::is_control) {
            service.error(item.place, format!("'{path}.target' is not a path that can be mounted"));
        }
        let number = |key| fields.as_ref().and_then(|fields| read_number(fields, key));
        let (uid, gid) = (number("uid"), number("gid"));
        let mode = fields.as_ref().and_then(|fields| fields.value("mode")).and_then(|node| {
            let mode = scalar::mode(node).filter(|mode| *mode <= 0o777);
            if mode.is_none() {
                service.error(node.place, format!("'{path}.mode' must be an octal mode like 0440"));
            }
            mode
        });
        fields.into_iter().for_each(|fields| fields.finish(Unknown::Refuse));
        // The later of two at one place wins.
        all.retain(|grant| grant.target != target);
        all.extend(content.clone().map(|content| Grant {
            is_secret: kinds == Kinds::Secrets,
            name,
            target,
            content,
            uid,
            gid,
            mode,
        }));
    }
    all
}

fn read_number(fields: &Fields, key: &'static str) -> Option<u32> {
    let text = fields.text(key)?;
    let number = text.parse().ok();
    if number.is_none() {
        let text = document::shown(&text);
        fields.error(fields.place(), format!("'{}' is '{text}', but must be a number", fields.path(key)));
    }
    number
}
