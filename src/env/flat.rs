//! The env as flat variables (spec/env.md, "Flat environment"): for compose interpolation and for scripts.

use super::Env;
use super::document::{Kind, Node};
use super::reader::parse_boolean;
use std::collections::BTreeMap;

/// The most variables that are made; a tree of 600,000 nodes would drown a container's environment.
const MAX_VARIABLES: usize = 20_000;

/// The variables of the named top-level trees (`appliance`, `app` or `ecs`), by name.
pub fn variables(env: &Env, trees: &[&str]) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::new();
    for tree in trees {
        if let Some(node) = env.root.get(tree) {
            flatten(&name_part(tree), node, &mut variables);
        }
    }
    variables
}

/// The variables that the compose file sees: the appliance's and the app's, and the settings under the app's own name.
pub fn for_stack(env: &Env) -> BTreeMap<String, String> {
    let mut variables = variables(env, &["appliance", env.app.tree]);
    let prefix = env.app.name.variable_prefix();
    if let Some(settings) = &env.app.settings {
        variables.insert(format!("{prefix}_SETTINGS"), settings.expose().trim().to_owned());
    }
    // What the file leaves to its default is there all the same, so that a compose file can count on it.
    let hosts: Vec<&str> = env.appliance.allowed_hosts.iter().map(|host| host.as_str()).collect();
    let allowed = variables.entry("APPLIANCE_ALLOWED_HOSTS".to_owned()).or_default();
    if allowed.is_empty() {
        *allowed = hosts.join(" ");
    }
    variables
}

fn flatten(name: &str, node: &Node, into: &mut BTreeMap<String, String>) {
    if into.len() >= MAX_VARIABLES {
        return;
    }
    match &*node.kind {
        Kind::Scalar { .. } if node.is_null() => {
            into.insert(name.to_owned(), String::new());
        }
        Kind::Scalar { text, plain } => {
            let value = match parse_boolean(text) {
                Some(value) if *plain => value.to_string(),
                _ => text.trim().to_owned(),
            };
            into.insert(name.to_owned(), value);
        }
        Kind::Sequence(items) => {
            into.insert(format!("{name}_LEN"), items.len().to_string());
            for (index, item) in items.iter().enumerate() {
                flatten(&format!("{name}_{index}"), item, into);
            }
        }
        Kind::Mapping(entries) => {
            for (key, value) in entries {
                flatten(&format!("{name}_{}", name_part(&key.text)), value, into);
            }
        }
    }
}

/// A key as part of a variable's name: upper case, everything but letters and digits as `_`.
fn name_part(key: &str) -> String {
    key.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect()
}

/// Lines for `eval` in any POSIX shell: `export NAME='value'`.
pub fn as_export(variables: &BTreeMap<String, String>) -> String {
    variables.iter().map(|(name, value)| format!("export {name}='{}'\n", value.replace('\'', "'\\''"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::Env;

    #[test]
    fn the_tree_becomes_variables() {
        let text = "appliance:\n  domain: a.de\n  standby: No\n  x: [' 1 ', {y-z: ~}]\napp:\n  name: my-shop\n  git: {source: /srv/a}\n  settings: |\n    S='1'\n";
        let parsed = Env::parse(text.as_bytes());
        let env = parsed.env.unwrap_or_else(|| panic!("{}", parsed.report.render("t")));
        let all = for_stack(&env);
        let get = |name: &str| all.get(name).map(String::as_str);
        assert_eq!(get("APPLIANCE_STANDBY"), Some("false"));
        assert_eq!(get("APPLIANCE_X_LEN"), Some("2"));
        assert_eq!(get("APPLIANCE_X_0"), Some("1"));
        assert_eq!(get("APPLIANCE_X_1_Y_Z"), Some(""));
        assert_eq!(get("MY_SHOP_SETTINGS"), Some("S='1'"));
        assert_eq!(get("APPLIANCE_ALLOWED_HOSTS"), Some("a.de"));
        assert!(as_export(&all).contains("export MY_SHOP_SETTINGS='S='\\''1'\\'''\n"));
    }
}
