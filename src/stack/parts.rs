//! What a container is made of, as named values: their digest tells whether it still is what the file asks for, their comparison
//! which key changed. Secrets are not shown. Pure.

use super::grants::Granted;
use crate::env::hex;
use bollard::models::{ContainerCreateBody, EndpointSettings};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};

/// The longest value that is kept to be shown, in characters.
const MAX_SHOWN: usize = 120;
/// Values that came from outside and are shorter than this hide nothing but themselves: they stand in too many others.
const MIN_HIDDEN: usize = 4;
/// How a value begins that is kept as its digest only.
const DIGEST: char = '#';

/// Names by which people know what the API calls otherwise.
const NAMES: [(&str, &str); 16] = [
    ("Cmd", "command"),
    ("Memory", "mem_limit"),
    ("MemorySwap", "memswap_limit"),
    ("MemoryReservation", "mem_reservation"),
    ("MemorySwappiness", "mem_swappiness"),
    ("NanoCpus", "cpus"),
    ("CpusetCpus", "cpuset"),
    ("ExposedPorts", "expose"),
    ("PortBindings", "ports"),
    ("Binds", "volumes"),
    ("Mounts", "volumes (long)"),
    ("Volumes", "volumes (anonymous)"),
    ("ReadonlyRootfs", "read_only"),
    ("StopTimeout", "stop_grace_period"),
    ("OpenStdin", "stdin_open"),
    ("LogConfig", "logging"),
];

/// Named values of a container, as they may be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parts {
    shown: BTreeMap<String, String>,
    digest: String,
}

/// The parts of what is to be created.
pub fn of(
    body: &ContainerCreateBody,
    further: &[(String, EndpointSettings)],
    grants: &[Granted],
    image_id: &str,
    hidden: &BTreeSet<String>,
) -> Parts {
    // Maps inside the body have no order of their own; as a JSON value they get one.
    let value = serde_json::to_value(body).unwrap_or_default();
    let mut all: BTreeMap<String, String> = BTreeMap::new();
    for (key, value) in value.as_object().into_iter().flatten() {
        match (key.as_str(), value) {
            ("Env", Value::Array(items)) => {
                for (name, value) in items.iter().filter_map(|item| item.as_str()?.split_once('=')) {
                    all.insert(format!("environment.{name}"), value.to_owned());
                }
            }
            ("Labels", Value::Object(labels)) => {
                all.extend(labels.iter().map(|(name, value)| (format!("labels.{name}"), text(value))));
            }
            ("HostConfig", Value::Object(host)) => {
                let is_set = |value: &Value| !matches!(value, Value::Null);
                all.extend(host.iter().filter(|(_, v)| is_set(v)).map(|(key, value)| (name_of(key), text(value))));
            }
            ("NetworkingConfig", config) => {
                let endpoints = config.get("EndpointsConfig").and_then(Value::as_object);
                let endpoints = endpoints.into_iter().flatten();
                all.extend(endpoints.map(|(name, value)| (format!("networks.{name}"), text(value))));
            }
            ("Image", value) => drop(all.insert("image".to_owned(), format!("{} ({})", text(value), short(image_id)))),
            (_, Value::Null) => {}
            (key, value) => drop(all.insert(name_of(key), text(value))),
        }
    }
    for (name, endpoint) in further {
        all.insert(format!("networks.{name}"), text(&serde_json::to_value(endpoint).unwrap_or_default()));
    }
    let digest = hex(&Sha256::digest(format!("{value}\n{further:?}\n{image_id}\n{grants:?}")));
    let mut shown: BTreeMap<String, String> =
        all.into_iter().map(|(key, value)| (key.clone(), show(&key, value, hidden))).collect();
    for grant in grants {
        shown.insert(format!("{}.{}", grant.kind, grant.name), digest_of(&grant.name, &grant.digest));
    }
    Parts { shown, digest }
}

/// `sha256:` and the first digits of an image's id.
fn short(image_id: &str) -> &str {
    image_id.get(..19).unwrap_or(image_id)
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// `CapAdd` as `cap_add`, unless people know it by another name.
fn name_of(key: &str) -> String {
    if let Some((_, name)) = NAMES.iter().find(|(api, _)| *api == key) {
        return (*name).to_owned();
    }
    let mut name = String::new();
    for (at, c) in key.char_indices() {
        if at > 0 && c.is_ascii_uppercase() {
            name.push('_');
        }
        name.push(c.to_ascii_lowercase());
    }
    name
}

fn digest_of(key: &str, value: &str) -> String {
    let digest = hex(&Sha256::digest(format!("{key}\n{value}")));
    format!("{DIGEST}{}", digest.get(..12).unwrap_or_default())
}

/// What is not shown: what came from a variable or an env file, and what a name says to be a secret.
fn show(key: &str, value: String, hidden: &BTreeSet<String>) -> String {
    // Text inside of lists is written with escapes, and a command is cut into words: both are looked at as they were.
    let plain = serde_json::from_str::<Value>(&value).map(|value| leaves(&value).join(" ")).unwrap_or_default();
    let may_hold_secrets = key.starts_with("environment.")
        || key.starts_with("labels.")
        || ["command", "entrypoint", "healthcheck", "extra_hosts", "sysctls", "logging", "tmpfs"].contains(&key);
    let holds_hidden = |value: &str| {
        hidden.contains(value)
            || hidden.iter().any(|secret| secret.len() >= MIN_HIDDEN && value.contains(secret.as_str()))
    };
    let doubtful = |text: &str| has_password(text) || holds_hidden(text);
    let names_secret = key == "logging" && sounds_secret(&plain);
    if may_hold_secrets && (sounds_secret(key) || names_secret || doubtful(&value) || doubtful(&plain)) {
        return digest_of(key, &value);
    }
    if value.chars().count() > MAX_SHOWN {
        let begin: String = value.chars().take(MAX_SHOWN).collect();
        return format!("{begin}… {}", digest_of(key, &value));
    }
    value
}

/// All texts of a value, and the names of its keys.
fn leaves(value: &Value) -> Vec<String> {
    match value {
        Value::Array(items) => items.iter().flat_map(leaves).collect(),
        Value::Object(entries) => {
            entries.iter().flat_map(|(key, value)| std::iter::once(key.clone()).chain(leaves(value))).collect()
        }
        other => vec![text(other)],
    }
}

pub(super) fn sounds_secret(key: &str) -> bool {
    const WORDS: [&str; 12] =
        ["PASS", "SECRET", "TOKEN", "KEY", "CREDENTIAL", "DSN", "AUTH", "PRIVATE", "SALT", "COOKIE", "PWD", "SETTINGS"];
    let key = key.to_ascii_uppercase();
    WORDS.iter().any(|word| key.contains(word))
}

/// `scheme://user:password@host`.
fn has_password(value: &str) -> bool {
    value.split("://").skip(1).any(|rest| {
        let authority = rest.split('/').next().unwrap_or_default();
        authority.rsplit_once('@').is_some_and(|(user, _)| user.contains(':'))
    })
}

impl Parts {
    /// Over all of it, secrets included.
    pub fn digest(&self) -> String {
        self.digest.clone()
    }

    /// What is kept at the container, for the next comparison.
    pub fn label(&self) -> String {
        serde_json::to_string(&self.shown).unwrap_or_default()
    }
}

/// Which keys differ between what a container was made with and what it would be made with now: `KEY: OLD -> NEW`.
pub fn differences(old: Option<&str>, new: Option<&str>) -> String {
    let read = |label: Option<&str>| -> Option<BTreeMap<String, String>> { serde_json::from_str(label?).ok() };
    let (Some(old), Some(new)) = (read(old), read(new)) else {
        return "it was made by another version of the appliance".to_owned();
    };
    let keys: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let changed = keys.into_iter().filter(|key| old.get(*key) != new.get(*key));
    let told = changed.map(|key| format!("{key}: {} -> {}", told(old.get(key)), told(new.get(key))));
    let told: Vec<String> = told.collect();
    if told.is_empty() { "its configuration changed".to_owned() } else { told.join(", ") }
}

fn told(value: Option<&String>) -> String {
    match value {
        None => "(none)".to_owned(),
        Some(value) if value.starts_with(DIGEST) => "(hidden)".to_owned(),
        Some(value) => value.split(&format!("… {DIGEST}")).next().unwrap_or(value).to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(env: &[&str], command: &str, hidden: &str) -> Parts {
        let body = ContainerCreateBody {
            image: Some("redis:7".to_owned()),
            env: Some(env.iter().map(|text| (*text).to_owned()).collect()),
            cmd: Some(vec![command.to_owned()]),
            ..Default::default()
        };
        of(&body, &[], &[], "sha256:0123456789abcdef", &BTreeSet::from([hidden.to_owned()]))
    }

    #[test]
    fn a_difference_names_the_key_with_both_values_and_no_secret() {
        let old =
            parts(&["LEVEL=info", "API_TOKEN=aaaa", "URL=postgres://u:aaaa@h/d", "X=was-hunter2"], "run", "hunter2");
        let new = parts(
            &["LEVEL=debug", "API_TOKEN=bbbb", "URL=postgres://u:bbbb@h/d", "X=is-hunter3"],
            "run --x",
            "hunter3",
        );
        let (before, now) = (old.label(), new.label());
        let said = differences(Some(&before), Some(&now));
        for expected in [
            "environment.LEVEL: info -> debug",
            "environment.API_TOKEN: (hidden) -> (hidden)",
            "environment.URL: (hidden) -> (hidden)",
            "environment.X: (hidden) -> (hidden)",
            "command: [\"run\"] -> [\"run --x\"]",
        ] {
            assert!(said.contains(expected), "{said}");
        }
        for secret in ["aaaa", "bbbb", "hunter"] {
            assert!(!said.contains(secret) && !before.contains(secret) && !now.contains(secret), "{said}");
        }
        assert!(!said.contains("image"), "what is the same is not told: {said}");
        for (command, secret) in [("--pw=ab\"cd\\ef", "ab\"cd\\ef"), ("x\ny-hunter4", "x\ny-hunter4")] {
            let label = parts(&["A=1"], command, secret).label();
            assert!(label.contains("\"command\":\"#"), "{label}");
        }
        assert_ne!(old.digest(), new.digest());
        assert_eq!(parts(&["A=1"], "x", "y").digest(), parts(&["A=1"], "x", "z").digest(), "hiding changes nothing");
    }
}
