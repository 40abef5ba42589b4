//! What a compose file says in words of its own where the model keeps only what they mean: for printing it as compose does.

use super::print_values::{self, doubled};
use super::{scalar, values};
use crate::env::document::{Key, Kind, Node};
use crate::env::reader::Fields;
use crate::stack::model::{Forms, Written};
use crate::stack::ports;
use crate::value::amount;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Keys of limits that `deploy.resources` can say as well.
const LIMITS: [&str; 4] = ["cpus", "mem_limit", "mem_reservation", "pids_limit"];
/// Printed as the file has them, but for the forms of their values.
const WHOLE: [&str; 9] =
    ["attach", "deploy", "develop", "healthcheck", "logging", "platform", "pull_policy", "restart", "ulimits"];
/// Lists of strings that are printed in the file's order, in the file's words.
const LISTS: [&str; 3] = ["expose", "links", "tmpfs"];

/// Reads them; what is wrong is the other readers' to report.
pub fn read(fields: &Fields, mounts: Forms) -> Written {
    let whole = WHOLE.into_iter().filter_map(|key| Some((key, part(key, fields.value(key)?))));
    let whole = whole.filter(|(_, value)| value != "");
    let lists = LISTS
        .into_iter()
        .map(|key| (key, values::texts(fields, key).iter().map(|text| Value::from(doubled(text))).collect::<Vec<_>>()));
    let lists = lists.filter(|(_, texts)| !texts.is_empty()).map(|(key, texts)| (key, Value::from(texts)));
    let says = |key: &&'static str| fields.value(key).is_some();
    Written {
        keys: whole.chain(lists).collect(),
        said: LIMITS.into_iter().chain(["scale", "stop_grace_period"]).filter(says).collect(),
        ports: fields.value("ports").map(port_words).unwrap_or_default(),
        networks: fields.value("networks").map(network_words).unwrap_or_default(),
        targets: ["secrets", "configs"].into_iter().flat_map(|key| targets(fields, key)).collect(),
        extensions: extensions(fields.entries()),
        mounts,
    }
}

/// Keys of the users' own, as they stand there.
pub fn extensions(entries: &[(Key, Node)]) -> BTreeMap<String, Value> {
    let own = entries.iter().filter(|(key, _)| key.text.starts_with("x-"));
    own.map(|(key, value)| (key.text.clone(), verbatim(value))).collect()
}

/// The variables that secrets and configs get their text from, by `secrets.NAME` or `configs.NAME`.
pub fn variables(root: &Fields) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for key in ["secrets", "configs"] {
        for (name, value) in root.value(key).map(Node::entries).unwrap_or_default() {
            let variable = value.get("environment").and_then(scalar::text);
            all.extend(variable.map(|variable| (format!("{key}.{}", name.text), variable)));
        }
    }
    all
}

/// As YAML takes it: plain numbers and booleans are such.
fn verbatim(node: &Node) -> Value {
    match &*node.kind {
        Kind::Scalar { .. } if node.is_null() => Value::Null,
        Kind::Scalar { plain: true, .. } => {
            let text = scalar::text(node).unwrap_or_default();
            match serde_json::from_str(&text) {
                Ok(value @ (Value::Bool(_) | Value::Number(_))) => value,
                _ => doubled(&text).into(),
            }
        }
        Kind::Scalar { text, .. } => doubled(text).into(),
        Kind::Sequence(items) => items.iter().map(verbatim).collect(),
        Kind::Mapping(entries) => {
            entries.iter().map(|(key, value)| (key.text.clone(), verbatim(value))).collect::<Map<_, _>>().into()
        }
    }
}

/// One value: sizes in bytes, durations as Go prints them, numbers as such.
fn part(key: &str, node: &Node) -> Value {
    match (&*node.kind, key) {
        (Kind::Mapping(entries), _) => {
            let is_empty = |node: &Node| matches!(&*node.kind, Kind::Sequence(items) if items.is_empty());
            // `disable: false` says nothing.
            let is_no =
                |key: &Key, node: &Node| key.text == "disable" && scalar::text(node).as_deref() == Some("false");
            let said = entries.iter().filter(|(key, value)| !(value.is_null() || is_empty(value) || is_no(key, value)));
            let form = |name: &Key, value: &Node| match key {
                // Names of the user's own, whatever they are called.
                "options" | "labels" => scalar::text(value).map(|text| doubled(&text).into()).unwrap_or_default(),
                "ulimits" => part("limit", value),
                _ => part(&name.text, value),
            };
            let mut all: Map<String, Value> =
                said.map(|(name, value)| (name.text.clone(), form(name, value))).collect();
            if key == "deploy" {
                // Compose prints both, whether they say something or not.
                for always in ["resources", "placement"] {
                    all.entry(always).or_insert_with(|| json!({}));
                }
            }
            all.into()
        }
        (Kind::Sequence(items), "labels" | "options") => {
            let pairs = items.iter().filter_map(scalar::text).map(|pair| {
                let (name, value) = pair.split_once('=').unwrap_or((&pair, ""));
                (name.to_owned(), Value::from(doubled(value)))
            });
            pairs.collect::<Map<_, _>>().into()
        }
        (Kind::Sequence(items), "test") => items.iter().filter_map(scalar::text).map(|text| doubled(&text)).collect(),
        (Kind::Sequence(items), _) => items.iter().map(|item| part(key, item)).collect(),
        (Kind::Scalar { .. }, "test") => {
            json!(["CMD-SHELL", doubled(&scalar::text(node).unwrap_or_default())])
        }
        (Kind::Scalar { .. }, _) => scalar_part(key, node),
    }
}

fn scalar_part(key: &str, node: &Node) -> Value {
    let text = scalar::text(node).unwrap_or_default();
    let shown = match key {
        "memory" => amount::bytes(&text).ok().map(|size| size.to_string().into()),
        "cpus" => amount::nano_cpus(&text).map(print_values::cpus),
        "delay" | "monitor" | "window" | "interval" | "timeout" | "start_period" | "start_interval" => {
            ports::duration(&text).ok().map(|time| print_values::duration(time).into())
        }
        "parallelism"
        | "max_attempts"
        | "replicas"
        | "pids"
        | "max_replicas_per_node"
        | "retries"
        | "limit"
        | "soft"
        | "hard" => text.parse::<i64>().ok().map(Value::from),
        "max_failure_ratio" => text.parse::<f64>().ok().map(Value::from),
        "attach" | "disable" => text.parse::<bool>().ok().map(Value::from),
        "pull_policy" if text == "if_not_present" => Some("missing".into()),
        _ => None,
    };
    shown.unwrap_or_else(|| doubled(&text).into())
}

/// What the long form of a port says beside its numbers, by the container's port and the protocol.
fn port_words(node: &Node) -> BTreeMap<(u16, String), BTreeMap<String, String>> {
    let Kind::Sequence(items) = &*node.kind else { return BTreeMap::new() };
    let mut all = BTreeMap::new();
    for item in items {
        let text = |key: &str| item.get(key).and_then(scalar::text);
        if let Some(target) = text("target").and_then(|target| target.parse().ok()) {
            let words = ["name", "mode", "app_protocol"];
            let protocol = text("protocol").unwrap_or_else(|| "tcp".to_owned());
            all.insert(
                (target, protocol),
                words.iter().filter_map(|key| Some(((*key).to_owned(), text(key)?))).collect(),
            );
        }
    }
    all
}

/// Networks that are joined by a mapping, and the priority that it says.
fn network_words(node: &Node) -> BTreeMap<String, Option<i64>> {
    let entries = node.entries().iter().filter(|(_, value)| matches!(&*value.kind, Kind::Mapping(_)));
    let priority = |value: &Node| value.get("priority").and_then(scalar::text).and_then(|text| text.parse().ok());
    entries.map(|(key, value)| (key.text.clone(), priority(value))).collect()
}

/// The targets of secrets and configs as they are written, by `secrets.NAME` or `configs.NAME`; none where nothing is said.
fn targets(fields: &Fields, key: &'static str) -> Vec<(String, String)> {
    let Some(node) = fields.value(key) else { return Vec::new() };
    let Kind::Sequence(items) = &*node.kind else { return Vec::new() };
    let said = items.iter().filter_map(|item| {
        let text = |name: &str| item.get(name).and_then(scalar::text);
        let name = scalar::text(item).or_else(|| text("source"))?;
        // Compose says where a secret is even if the file does not.
        let own = (key == "secrets").then(|| format!("/run/secrets/{name}"));
        Some((format!("{key}.{name}"), text("target").or(own)?))
    });
    said.collect()
}
