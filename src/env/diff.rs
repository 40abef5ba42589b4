//! What differs between two envs, key by key. Values that may be secrets are masked: of them only is said that they differ.

use super::Env;
use super::document::{Kind, Node, shown};
use serde::Serialize;
use std::collections::BTreeMap;

/// One key that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The key's path, as in `appliance.extra.files[0].path`.
    pub key: String,
    /// The old value, fit to be shown; none if the key is new.
    pub old: Option<String>,
    /// The new value, fit to be shown; none if the key is gone.
    pub new: Option<String>,
}

/// What stands for a value that may be a secret.
const MASK: &str = "(secret)";

/// Everything that differs, by key.
pub fn diff(old: &Env, new: &Env) -> Vec<Change> {
    let (before, after) = (leaves(old), leaves(new));
    let keys = before.keys().chain(after.keys().filter(|key| !before.contains_key(*key)));
    let mut changes: Vec<Change> = keys
        .filter(|key| before.get(*key).map(|leaf| leaf.text) != after.get(*key).map(|leaf| leaf.text))
        .map(|key| Change {
            key: key.clone(),
            old: before.get(key).map(|leaf| leaf.shown.clone()),
            new: after.get(key).map(|leaf| leaf.shown.clone()),
        })
        .collect();
    changes.sort_by(|a, b| a.key.cmp(&b.key));
    changes
}

/// One line per change, as `-` and `+` lines of a diff would have it.
pub fn render(changes: &[Change]) -> String {
    let line = |change: &Change| match (&change.old, &change.new) {
        (Some(old), Some(new)) => format!("~ {}: {old} -> {new}\n", change.key),
        (Some(old), None) => format!("- {}: {old}\n", change.key),
        (_, new) => format!("+ {}: {}\n", change.key, new.as_deref().unwrap_or_default()),
    };
    changes.iter().map(line).collect()
}

struct Leaf<'a> {
    text: &'a str,
    shown: String,
}

fn leaves(env: &Env) -> BTreeMap<String, Leaf<'_>> {
    let mut all = BTreeMap::new();
    collect(env, &env.root, String::new(), &mut all);
    all
}

fn collect<'a>(env: &Env, node: &'a Node, path: String, into: &mut BTreeMap<String, Leaf<'a>>) {
    match &*node.kind {
        Kind::Scalar { text, .. } => {
            let shown =
                if node.is_null() || env.open.contains(&node.place) { shown(text.trim()) } else { MASK.to_owned() };
            into.insert(path, Leaf { text, shown });
        }
        Kind::Sequence(items) if items.is_empty() => {
            into.insert(path, Leaf { text: "[]", shown: "[]".to_owned() });
        }
        Kind::Sequence(items) => {
            for (index, item) in items.iter().enumerate() {
                collect(env, item, format!("{path}[{index}]"), into);
            }
        }
        Kind::Mapping(entries) if entries.is_empty() => {
            into.insert(path, Leaf { text: "{}", shown: "{}".to_owned() });
        }
        Kind::Mapping(entries) => {
            for (key, value) in entries {
                let name = shown(&key.text);
                collect(env, value, if path.is_empty() { name } else { format!("{path}.{name}") }, into);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(text: &str) -> Env {
        Env::parse(text.as_bytes()).env.expect("the env is valid")
    }

    #[test]
    fn changes_are_named_and_secrets_are_not_shown() {
        let old =
            env("appliance:\n  domain: a.de\n  standby: no\n  own: hunter1\n  backup: {url: 'sftp://hunter1@h/x'}\n\
                       app: {name: x, git: {source: /srv/x}, settings: hunter1}\n");
        let new =
            env("appliance:\n  domain: b.de\n  own: hunter2\n  backup: {url: 'sftp://hunter2@h/x'}\n  x: [hunter2]\n\
                       app: {name: x, git: {source: /srv/x}, settings: hunter1}\n");
        let said = render(&diff(&old, &new));
        assert_eq!(
            said,
            "~ appliance.backup.url: (secret) -> (secret)\n~ appliance.domain: a.de -> b.de\n~ appliance.own: (secret) -> \
             (secret)\n- appliance.standby: no\n+ appliance.x[0]: (secret)\n"
        );
        assert_eq!(diff(&old, &old), []);
    }
}
