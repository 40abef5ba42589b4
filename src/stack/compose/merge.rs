//! How one compose file's tree is laid over another's (Compose Specification, "Merge"): mappings key by key, lists one behind
//! the other, everything else replaced; with the exceptions below. Pure.

use crate::env::document::{Key, Kind, Mark, Node};

/// What is not merged by its kind alone.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rule {
    ByKind,
    /// The upper one wins as a whole.
    Replace,
    /// `NAME: value` or `- NAME=value`.
    Pairs,
    /// A list of names that is a mapping from them, too.
    Names,
    /// One text, or several.
    Texts,
    /// A text that stands for a mapping with one key.
    Build,
    /// `NAME: address` or `- NAME=address`; one name may have several.
    Hosts,
    /// Options of one driver mean nothing to another.
    Driver,
    /// A list of mappings, of which those with the same `subnet` are one.
    Subnets,
}

/// The rule for a path like `services.web.build.args`.
fn rule(path: &[&str]) -> Rule {
    match path {
        ["services", _, "command" | "entrypoint"] | ["services", _, "healthcheck", "test"] => Rule::Replace,
        ["services", _, "ulimits", _] => Rule::Replace,
        ["services", _, "environment" | "labels" | "sysctls" | "annotations"]
        | ["services", _, "build", "args" | "labels"]
        | ["networks" | "volumes" | "secrets" | "configs", _, "labels"] => Rule::Pairs,
        ["services", _, "depends_on" | "networks"] => Rule::Names,
        ["services", _, "dns" | "dns_search" | "env_file" | "tmpfs"] => Rule::Texts,
        ["services", _, "build"] => Rule::Build,
        ["services", _, "logging"] => Rule::Driver,
        ["services", _, "extra_hosts"] => Rule::Hosts,
        ["networks", _, "ipam", "config"] => Rule::Subnets,
        _ => Rule::ByKind,
    }
}

/// Whether nothing, laid over something, takes it away: a name without a value has none, or the one from outside, and a command that is
/// nothing is the image's own. Elsewhere nothing says nothing.
fn clears(path: &[&str]) -> bool {
    match path {
        ["services", _, "command" | "entrypoint"] => true,
        [above @ .., _] => rule(above) == Rule::Pairs,
        [] => false,
    }
}

/// The tree of `lower` with `upper` laid over it. What contradicts (a list over a mapping) is the upper one's: the reader then
/// says what is wrong with it.
pub fn merge(lower: &Node, upper: &Node) -> Node {
    merge_at(&mut Vec::new(), lower, upper)
}

/// Merges two services, as `extends` does.
pub fn merge_service(lower: &Node, upper: &Node) -> Node {
    merge_at(&mut vec!["services", "*"], lower, upper)
}

fn merge_at<'n>(path: &mut Vec<&'n str>, lower: &'n Node, upper: &'n Node) -> Node {
    if upper.mark == Some(Mark::Override) {
        return upper.clone();
    }
    if upper.is_null() {
        return if clears(path) { upper.clone() } else { lower.clone() };
    }
    match rule(path) {
        Rule::ByKind => by_kind(path, lower, upper),
        Rule::Replace => upper.clone(),
        Rule::Pairs => by_kind(path, &pairs(lower), &pairs(upper)),
        Rule::Names => by_kind(path, &names(lower), &names(upper)),
        Rule::Texts => by_kind(path, &listed(lower), &listed(upper)),
        Rule::Hosts => by_kind(path, &hosts(lower), &hosts(upper)),
        Rule::Build => by_kind(path, &build(lower), &build(upper)),
        Rule::Driver if differs(lower, upper, "driver") => upper.clone(),
        Rule::Driver => by_kind(path, lower, upper),
        Rule::Subnets => subnets(path, lower, upper),
    }
}

/// Whether both say something under a key, and not the same.
fn differs(lower: &Node, upper: &Node, key: &str) -> bool {
    matches!((text(lower.get(key)), text(upper.get(key))), (Some(lower), Some(upper)) if lower != upper)
}

fn text(node: Option<&Node>) -> Option<&str> {
    match &*node?.kind {
        Kind::Scalar { text, .. } => Some(text),
        _ => None,
    }
}

fn by_kind(path: &[&str], lower: &Node, upper: &Node) -> Node {
    match (&*lower.kind, &*upper.kind) {
        (Kind::Mapping(old), Kind::Mapping(new)) => {
            let mut entries: Vec<(Key, Node)> = Vec::new();
            for (key, value) in old {
                let Some((new_key, over)) = new.iter().find(|(name, _)| name.text == key.text) else {
                    entries.push((key.clone(), value.clone()));
                    continue;
                };
                if over.mark == Some(Mark::Reset) {
                    continue;
                }
                let mut inner = path.to_vec();
                inner.push(&key.text);
                entries.push((new_key.clone(), merge_at(&mut inner, value, over)));
            }
            let added = new.iter().filter(|(key, value)| {
                value.mark != Some(Mark::Reset) && !old.iter().any(|(name, _)| name.text == key.text)
            });
            entries.extend(added.cloned());
            upper.with_kind(Kind::Mapping(entries))
        }
        (Kind::Sequence(old), Kind::Sequence(new)) => {
            upper.with_kind(Kind::Sequence(old.iter().chain(new).cloned().collect()))
        }
        _ => upper.clone(),
    }
}

/// A list of `NAME=value` as the mapping that it stands for; a name alone has no value.
fn pairs(node: &Node) -> Node {
    let Kind::Sequence(items) = &*node.kind else { return node.clone() };
    let mut entries: Vec<(Key, Node)> = Vec::new();
    for item in items {
        // Anything but a text is the reader's to refuse.
        let Some(pair) = text(Some(item)) else { return node.clone() };
        let (name, value) = match pair.split_once('=') {
            Some((name, value)) => (name, Node::scalar(item.place, value.to_owned(), false)),
            None => (pair, Node::scalar(item.place, String::new(), true)),
        };
        entries.retain(|(key, _)| key.text != name);
        entries.push((Key { text: name.to_owned(), place: item.place }, value));
    }
    node.with_kind(Kind::Mapping(entries))
}

/// A list of names as a mapping from them to nothing.
fn names(node: &Node) -> Node {
    let Kind::Sequence(items) = &*node.kind else { return node.clone() };
    let mut entries: Vec<(Key, Node)> = Vec::new();
    for item in items {
        let Some(name) = text(Some(item)) else { return node.clone() };
        entries.push((Key { text: name.to_owned(), place: item.place }, Node::scalar(item.place, String::new(), true)));
    }
    node.with_kind(Kind::Mapping(entries))
}

fn listed(node: &Node) -> Node {
    match &*node.kind {
        Kind::Scalar { .. } if !node.is_null() => node.with_kind(Kind::Sequence(vec![node.clone()])),
        _ => node.clone(),
    }
}

/// A mapping from names to addresses as the list that it stands for.
fn hosts(node: &Node) -> Node {
    let Kind::Mapping(entries) = &*node.kind else { return node.clone() };
    let mut items = Vec::new();
    for (key, value) in entries {
        let addresses = match &*value.kind {
            Kind::Sequence(addresses) => addresses.as_slice(),
            _ => std::slice::from_ref(value),
        };
        for address in addresses {
            // Anything but a text is the reader's to refuse.
            let Some(address) = text(Some(address)) else { return node.clone() };
            items.push(Node::scalar(value.place, format!("{}={address}", key.text), false));
        }
    }
    node.with_kind(Kind::Sequence(items))
}

fn build(node: &Node) -> Node {
    match &*node.kind {
        Kind::Scalar { .. } if !node.is_null() => {
            let key = Key { text: "context".to_owned(), place: node.place };
            node.with_kind(Kind::Mapping(vec![(key, node.clone())]))
        }
        _ => node.clone(),
    }
}

fn subnets(path: &[&str], lower: &Node, upper: &Node) -> Node {
    let (Kind::Sequence(old), Kind::Sequence(new)) = (&*lower.kind, &*upper.kind) else { return upper.clone() };
    let mut all = old.clone();
    for pool in new {
        let same = all.iter().position(|known| text(known.get("subnet")) == text(pool.get("subnet")));
        match same {
            Some(at) => all[at] = by_kind(path, &all[at], pool),
            None => all.push(pool.clone()),
        }
    }
    upper.with_kind(Kind::Sequence(all))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::document::parse_with_marks;

    fn shown(node: &Node) -> String {
        match &*node.kind {
            Kind::Scalar { text, .. } => text.clone(),
            Kind::Sequence(items) => format!("[{}]", items.iter().map(shown).collect::<Vec<_>>().join(" ")),
            Kind::Mapping(entries) => {
                let entries: Vec<String> =
                    entries.iter().map(|(key, value)| format!("{}:{}", key.text, shown(value))).collect();
                format!("{{{}}}", entries.join(" "))
            }
        }
    }

    fn merged(lower: &str, upper: &str) -> String {
        let parse = |text: &str| parse_with_marks(text.as_bytes(), 1 << 20).expect("the text is valid").swap_remove(0);
        shown(&merge_service(&parse(lower), &parse(upper)))
    }

    #[test]
    fn each_rule_of_merging() {
        for (lower, upper, expected) in [
            ("{image: a, tty: true}", "{image: b}", "{image:b tty:true}"),
            ("{expose: [1]}", "{expose: [2]}", "{expose:[1 2]}"),
            ("{image: a}", "{image: }", "{image:a}"),
            (
                "{environment: {A: 1}, labels: {B: 1}}",
                "{environment: [A], labels: {B: }}",
                "{environment:{A:} labels:{B:}}",
            ),
            ("{build: {args: {A: 1}}}", "{build: {args: [A]}}", "{build:{args:{A:}}}"),
            ("{command: a, entrypoint: b}", "{command: null, entrypoint: ~}", "{command:null entrypoint:~}"),
            ("{command: [a, b]}", "{command: c}", "{command:c}"),
            (
                "{healthcheck: {test: [CMD, a], retries: 1}}",
                "{healthcheck: {test: [CMD, b]}}",
                "{healthcheck:{test:[CMD b] retries:1}}",
            ),
            ("{environment: [A=1, B=2]}", "{environment: {B: 3, C: 4}}", "{environment:{A:1 B:3 C:4}}"),
            ("{depends_on: [a]}", "{depends_on: {b: {condition: c}}}", "{depends_on:{a: b:{condition:c}}}"),
            ("{dns: a}", "{dns: [b]}", "{dns:[a b]}"),
            ("{extra_hosts: ['a:1.1.1.1']}", "{extra_hosts: {b: 2.2.2.2}}", "{extra_hosts:[a:1.1.1.1 b=2.2.2.2]}"),
            ("{build: src}", "{build: {target: t}}", "{build:{context:src target:t}}"),
            ("{logging: {driver: a, options: {x: 1}}}", "{logging: {driver: b}}", "{logging:{driver:b}}"),
            (
                "{logging: {driver: a, options: {x: 1}}}",
                "{logging: {options: {y: 2}}}",
                "{logging:{driver:a options:{x:1 y:2}}}",
            ),
            ("{ulimits: {nofile: {soft: 1, hard: 2}}}", "{ulimits: {nofile: 3}}", "{ulimits:{nofile:3}}"),
            ("{ports: [1, 2], tty: true}", "{ports: !override [3], tty: !reset null}", "{ports:[3]}"),
            ("{image: a}", "{ports: !reset []}", "{image:a}"),
        ] {
            assert_eq!(merged(lower, upper), expected, "{lower} {upper}");
        }
    }
}
