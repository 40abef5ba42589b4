//! What a container said, without what was in its environment.

use super::Service;

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
    secrets.retain(|secret| secret.len() >= 8);
    secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
    secrets.into_iter().fold(text.to_owned(), |text, secret| text.replace(secret, "(secret)"))
}
