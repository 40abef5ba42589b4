//! The env as flat variables (docs/env.md): for compose interpolation and for scripts.

use super::Env;
use super::document::{Kind, Node};
use super::reader::parse_boolean;
use std::collections::BTreeMap;

/// The most that all variables together may take, in bytes: shared parts of a tree count each time.
const MAX_BYTES: usize = 16 << 20;

/// The tree stands for more than can be handed to anybody.
#[derive(Debug, thiserror::Error)]
#[error("the env stands for more than {MAX_BYTES} bytes of variables; write less with aliases")]
pub struct TooLarge;

/// Variables by their names.
pub type Variables = BTreeMap<String, String>;

/// The variables of the named top-level trees (`appliance`, `app` or `ecs`), by name. Of two keys with the same name
/// the last one counts.
pub fn variables(env: &Env, trees: &[&str]) -> Result<Variables, TooLarge> {
    let mut room = MAX_BYTES;
    let mut variables = Variables::new();
    for tree in trees {
        if let Some(node) = env.root.get(tree) {
            flatten(&tree_name(tree), node, &mut variables, &mut room)?;
        }
    }
    Ok(variables)
}

/// The variables that the compose file sees: the appliance's and the app's, and the settings under the app's own name.
pub fn for_stack(env: &Env) -> Result<Variables, TooLarge> {
    let mut room = MAX_BYTES;
    let mut variables = Variables::new();
    for (tree, node) in [("appliance", env.root.get("appliance")), (env.app.tree, Some(&env.own))] {
        if let Some(node) = node {
            flatten(&tree_name(tree), node, &mut variables, &mut room)?;
        }
    }
    // Who is told of alerts is no app's business: its commits must not learn the passwords of mail servers.
    variables.retain(|name, _| !name.starts_with("APPLIANCE_ALERT_"));
    let prefix = env.app.name.variable_prefix();
    if let Some(settings) = &env.app.settings {
        variables.insert(format!("{prefix}_SETTINGS"), settings.expose().trim().to_owned());
    }
    // As it was checked: nginx knows it in lower case, whatever the file says.
    variables.insert("APPLIANCE_DOMAIN".to_owned(), env.appliance.domain.as_str().to_owned());
    // So are these; what the file leaves to its default is there all the same, so that a compose file can count on it.
    let hosts: Vec<&str> = env.appliance.allowed_hosts.iter().map(|host| host.as_str()).collect();
    variables.insert("APPLIANCE_ALLOWED_HOSTS".to_owned(), hosts.join(" "));
    Ok(variables)
}

fn flatten(name: &str, node: &Node, into: &mut Variables, room: &mut usize) -> Result<(), TooLarge> {
    let mut insert = |name: String, value: String| {
        *room = room.checked_sub(name.len() + value.len()).ok_or(TooLarge)?;
        into.insert(name, value);
        Ok(())
    };
    match &*node.kind {
        Kind::Scalar { .. } if node.is_null() => insert(name.to_owned(), String::new()),
        Kind::Scalar { text, plain } => {
            let value = match parse_boolean(text) {
                Some(value) if *plain => value.to_string(),
                _ => text.trim().to_owned(),
            };
            insert(name.to_owned(), value)
        }
        Kind::Sequence(items) => {
            insert(format!("{name}_LEN"), items.len().to_string())?;
            let mut each = items.iter().enumerate();
            each.try_for_each(|(index, item)| flatten(&format!("{name}_{index}"), item, into, room))
        }
        Kind::Mapping(entries) => entries
            .iter()
            .try_for_each(|(key, value)| flatten(&format!("{name}_{}", name_part(&key.text)), value, into, room)),
    }
}

/// A top-level key as the beginning of a name, which no shell lets begin with a digit.
fn tree_name(key: &str) -> String {
    let name = name_part(key);
    if name.starts_with(|c: char| c.is_ascii_digit()) { format!("_{name}") } else { name }
}

/// A key as part of a variable's name: upper case, everything but letters and digits as `_`.
fn name_part(key: &str) -> String {
    key.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect()
}

/// Lines for `eval` in any POSIX shell: `export NAME='value'`.
pub fn as_export(variables: &Variables) -> String {
    variables.iter().map(|(name, value)| format!("export {name}='{}'\n", value.replace('\'', "'\\''"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::Env;

    #[test]
    fn the_tree_becomes_variables() {
        let text = "appliance:\n  domain: a.de\n  standby: No\n  x: [' 1 ', {y-z: ~}]\napp:\n  name: my-shop\n  git: {source: /srv/a}\n  settings: |\n    S='1'\n";
        let env = Env::of_text(text);
        let all = for_stack(&env).expect("it is small");
        let get = |name: &str| all.get(name).map(String::as_str);
        assert_eq!(get("APPLIANCE_STANDBY"), Some("false"));
        assert_eq!(get("APPLIANCE_X_LEN"), Some("2"));
        assert_eq!(get("APPLIANCE_X_0"), Some("1"));
        assert_eq!(get("APPLIANCE_X_1_Y_Z"), Some(""));
        assert_eq!(get("MY_SHOP_SETTINGS"), Some("S='1'"));
        assert_eq!(get("APPLIANCE_ALLOWED_HOSTS"), Some("a.de"));
        let alert = "domain: a.de\n  alert: {webhooks: [{name: ops, url: 'http://h.de/key', secret: s}]}";
        let told = for_stack(&Env::of_text(&text.replace("domain: a.de", alert))).expect("it is small");
        assert_eq!(told, all, "who is told is no app's business");
        let text = text.replace("domain: a.de", "domain: A.De\n  allowed_hosts: 'A.de *.B.de'");
        let env = Env::of_text(&text);
        let named = for_stack(&env).expect("it is small");
        let get = |name: &str| named.get(name).map(String::as_str);
        let expected = (Some("a.de"), Some("a.de *.b.de"));
        assert_eq!((get("APPLIANCE_DOMAIN"), get("APPLIANCE_ALLOWED_HOSTS")), expected, "as nginx knows them");
        assert!(as_export(&all).contains("export MY_SHOP_SETTINGS='S='\\''1'\\'''\n"));
    }
}
