//! What differs between two envs, key by key. Values that may be secrets are masked: of them only is said that they differ.

use super::Env;
use super::document::{Key, Kind, Node, shown};
use super::reader::parse_boolean;
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
/// The most changes that are told.
const MAX_CHANGES: usize = 1000;

/// Everything that differs, by key, and how much more there is than is told.
pub fn diff(old: &Env, new: &Env) -> (Vec<Change>, usize) {
    let mut walk = Walk { old, new, path: Vec::new(), changes: Vec::new(), more: 0 };
    walk.compare(Some(&old.root), Some(&new.root));
    (walk.changes, walk.more)
}

/// One line per change, as `-` and `+` lines of a diff would have it.
pub fn render(changes: &[Change], more: usize) -> String {
    let line = |change: &Change| match (&change.old, &change.new) {
        (Some(old), Some(new)) => format!("~ {}: {old} -> {new}\n", change.key),
        (Some(old), None) => format!("- {}: {old}\n", change.key),
        (_, new) => format!("+ {}: {}\n", change.key, new.as_deref().unwrap_or_default()),
    };
    let rest = if more > 0 { format!("and {more} more\n") } else { String::new() };
    changes.iter().map(line).chain([rest]).collect()
}

/// Both trees at once; a path is put together only where they differ.
struct Walk<'a> {
    old: &'a Env,
    new: &'a Env,
    path: Vec<String>,
    changes: Vec<Change>,
    more: usize,
}

impl<'a> Walk<'a> {
    fn compare(&mut self, old: Option<&'a Node>, new: Option<&'a Node>) {
        // What one side lacks is compared with what is empty of the same kind.
        match (old.map(|node| &*node.kind), new.map(|node| &*node.kind)) {
            (Some(Kind::Mapping(a)), Some(Kind::Mapping(b))) if !a.is_empty() && !b.is_empty() => self.mappings(a, b),
            (Some(Kind::Mapping(a)), None) if !a.is_empty() => self.mappings(a, &[]),
            (None, Some(Kind::Mapping(b))) if !b.is_empty() => self.mappings(&[], b),
            (Some(Kind::Sequence(a)), Some(Kind::Sequence(b))) if !a.is_empty() && !b.is_empty() => {
                self.sequences(a, b)
            }
            (Some(Kind::Sequence(a)), None) if !a.is_empty() => self.sequences(a, &[]),
            (None, Some(Kind::Sequence(b))) if !b.is_empty() => self.sequences(&[], b),
            _ if old.map(meaning) == new.map(meaning) => {}
            _ => self.note(old, new),
        }
    }

    fn mappings(&mut self, old: &'a [(Key, Node)], new: &'a [(Key, Node)]) {
        let mut both: BTreeMap<&str, (Option<&Node>, Option<&Node>)> = BTreeMap::new();
        for (key, node) in old {
            both.entry(&key.text).or_default().0 = Some(node);
        }
        for (key, node) in new {
            both.entry(&key.text).or_default().1 = Some(node);
        }
        for (name, (old, new)) in both {
            let dot = if self.path.is_empty() { "" } else { "." };
            self.path.push(format!("{dot}{}", shown(name)));
            self.compare(old, new);
            self.path.pop();
        }
    }

    fn sequences(&mut self, old: &'a [Node], new: &'a [Node]) {
        for index in 0..old.len().max(new.len()) {
            self.path.push(format!("[{index}]"));
            self.compare(old.get(index), new.get(index));
            self.path.pop();
        }
    }

    fn note(&mut self, old: Option<&Node>, new: Option<&Node>) {
        if self.changes.len() >= MAX_CHANGES {
            self.more += 1;
            return;
        }
        let key = self.path.concat();
        let (old, new) = (old.map(|node| told(self.old, node)), new.map(|node| told(self.new, node)));
        self.changes.push(Change { key, old, new });
    }
}

/// What a node means, as the flat variables have it: `yes` is a boolean, `"yes"` a text.
#[derive(PartialEq)]
enum Meaning<'a> {
    Null,
    Boolean(bool),
    Text(&'a str),
    List(bool),
    Mapping(bool),
}

fn meaning(node: &Node) -> Meaning<'_> {
    match &*node.kind {
        Kind::Scalar { .. } if node.is_null() => Meaning::Null,
        Kind::Scalar { text, plain } => match parse_boolean(text) {
            Some(value) if *plain => Meaning::Boolean(value),
            _ => Meaning::Text(text),
        },
        Kind::Sequence(items) => Meaning::List(items.is_empty()),
        Kind::Mapping(entries) => Meaning::Mapping(entries.is_empty()),
    }
}

/// A value, fit to be shown.
fn told(env: &Env, node: &Node) -> String {
    match &*node.kind {
        Kind::Scalar { .. } if node.is_null() => "nothing".to_owned(),
        Kind::Scalar { text, .. } if env.open.contains(&node.place) => shown(text.trim()),
        Kind::Scalar { .. } => MASK.to_owned(),
        Kind::Sequence(items) => format!("a list of {}", items.len()),
        Kind::Mapping(entries) => format!("a mapping of {}", entries.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(text: &str) -> Env {
        Env::of_text(text)
    }

    #[test]
    fn changes_are_named_and_secrets_are_not_shown() {
        let old =
            env("appliance:\n  domain: a.de\n  standby: no\n  own: hunter1\n  backup: {url: 'sftp://hunter1@h/x'}\n\
                       app: {name: x, git: {source: /srv/x}, settings: hunter1}\n");
        let new =
            env("appliance:\n  domain: b.de\n  own: hunter2\n  backup: {url: 'sftp://hunter2@h/x'}\n  x: [hunter2]\n\
                       app: {name: x, git: {source: /srv/x}, settings: hunter1}\n");
        let (changes, more) = diff(&old, &new);
        let said = render(&changes, more);
        assert_eq!(
            said,
            "~ appliance.backup.url: (secret) -> (secret)\n~ appliance.domain: a.de -> b.de\n~ appliance.own: (secret) -> \
             (secret)\n- appliance.standby: no\n+ appliance.x[0]: (secret)\n"
        );
        assert_eq!(diff(&old, &old), (Vec::new(), 0));
    }
    #[test]
    fn what_is_meant_counts_and_not_how_it_is_written() {
        let of = |own: &str| {
            env(&format!("appliance: {{domain: a.de, own: {own}}}\napp: {{name: x, git: {{source: /srv/x}}}}\n"))
        };
        let differ = |a: &str, b: &str| !diff(&of(a), &of(b)).0.is_empty();
        for (a, b) in [
            ("yes", "'yes'"),
            ("~", "'null'"),
            ("[]", "'[]'"),
            ("[]", "{}"),
            ("a", "[a]"),
            ("[a]", "[a, b]"),
            ("{b: 1}", "{}"),
        ] {
            assert!(differ(a, b) && differ(b, a), "{a} and {b}");
        }
        for (a, b) in [("yes", "on"), ("~", "''"), ("a", "'a'"), ("{b: 1, c: 2}", "{c: 2, b: 1}")] {
            assert_eq!(differ(a, b), (a, b) == ("~", "''"), "{a} and {b}");
        }
    }

    #[test]
    fn deep_trees_with_wide_leaves_cost_no_more_than_their_text() {
        let deep = |leaf: &str| {
            let open: String = (0..50).map(|_| format!("{{{}: ", "k".repeat(60))).collect();
            env(&format!(
                "appliance: {{domain: a.de}}\napp: {{name: x, git: {{source: /srv/x}}}}\nz: {open}[{}]{}\n",
                format!("{leaf},").repeat(90_000),
                "}".repeat(50)
            ))
        };
        let (changes, more) = diff(&deep("a"), &deep("b"));
        assert_eq!((changes.len(), more), (MAX_CHANGES, 90_000 - MAX_CHANGES));
    }
}
