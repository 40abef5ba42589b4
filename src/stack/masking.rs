//! What a container said, without what was in its environment.

use super::Service;
use super::parts::sounds_secret;

/// The shortest value that is masked because of its name, in bytes.
const MIN_NAMED: usize = 3;

/// A container's last words without what was in its environment: a migration that complains of its database's address
/// would tell the password to everybody who may see the status.
pub fn without_secrets(service: &Service, text: &str) -> String {
    let mut secrets: Vec<&str> = service.environment.values().map(String::as_str).collect();
    let passwords =
        service.environment.values().filter_map(|value| value.split_once("://")?.1.rsplit_once('@')?.0.split_once(':'));
    secrets.extend(passwords.map(|(_, password)| password));
    secrets.extend(
        service
            .environment
            .values()
            .flat_map(|value| value.lines())
            .filter_map(|line| line.split_once('='))
            .map(|(_, value)| value),
    );
    // A short value may be any word of a text, unless its name says what it is.
    secrets.retain(|secret| secret.len() >= 8);
    let named = service.environment.iter().filter(|(name, _)| sounds_secret(name)).map(|(_, value)| value.as_str());
    secrets.extend(named.filter(|secret| secret.len() >= MIN_NAMED && !is_switch(secret)));
    secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
    secrets.into_iter().fold(text.to_owned(), |text, secret| text.replace(secret, "(secret)"))
}

/// `AUTH_ENABLED: "true"` is no secret, and every other "true" would be hidden with it.
fn is_switch(value: &str) -> bool {
    ["true", "false", "yes", "none", "null"].contains(&value.to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stack::compose;
    use crate::value::AppName;
    use std::collections::BTreeMap;

    #[test]
    fn short_values_are_hidden_where_their_name_says_that_they_are_secret() {
        let text = "services:\n  a:\n    image: x\n    environment: {PASSWORD: abc12, MODE: fast, AUTH: 'true', URL: 'redis://u:pass-word@r/0'}\n";
        let (stack, _) = compose::of_text(text, &AppName::ecs(), "/c.yml", &BTreeMap::new());
        let stack = stack.expect("the file is good");
        let said = without_secrets(&stack.services[0], "abc12 is wrong, fast is true, pass-word too");
        assert_eq!(said, "(secret) is wrong, fast is true, (secret) too");
    }
}
