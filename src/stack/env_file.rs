//! Env files (`.env`, `env_file:`): `NAME=value` lines, quotes, comments.

use super::model::Service;
use crate::host::Host;
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;

const MAX_BYTES: u64 = 1 << 20;

/// The variables of an env file. A later line wins.
pub fn parse(text: &str) -> Result<BTreeMap<String, String>> {
    let mut variables = BTreeMap::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let line = line.strip_prefix("export ").unwrap_or(line);
        let Some((name, value)) = line.split_once('=') else { bail!("line {} is not NAME=value", index + 1) };
        let name = name.trim();
        if name.is_empty() || name.contains(char::is_whitespace) || value.contains('\0') {
            bail!("line {} is not NAME=value", index + 1);
        }
        variables.insert(name.to_owned(), unquote(value.trim()).with_context(|| format!("line {}", index + 1))?);
    }
    Ok(variables)
}

fn unquote(value: &str) -> Result<String> {
    if let Some(inner) = value.strip_prefix('\'') {
        let Some((text, _)) = inner.split_once('\'') else { bail!("a quote is not closed") };
        return Ok(text.to_owned());
    }
    if let Some(inner) = value.strip_prefix('"') {
        let mut text = String::new();
        let mut chars = inner.chars();
        loop {
            match chars.next() {
                Some('"') => return Ok(text),
                Some('\\') => match chars.next() {
                    Some('n') => text.push('\n'),
                    Some(other) => text.push(other),
                    None => bail!("a quote is not closed"),
                },
                Some(other) => text.push(other),
                None => bail!("a quote is not closed"),
            }
        }
    }
    // Without quotes a comment begins behind white space.
    Ok(value.split(" #").next().unwrap_or(value).trim_end().to_owned())
}

/// Reads a service's env files into its environment, below what the compose file sets itself.
pub fn resolve(service: &mut Service, directory: &str, host: &Host) -> Result<()> {
    let mut merged = BTreeMap::new();
    for file in &service.env_files {
        let path = super::ports::join(directory, file);
        let text = host.read_text(&path, MAX_BYTES)?;
        let text =
            text.with_context(|| format!("the service {} needs the env file {path}, which is missing", service.name))?;
        merged.extend(parse(&text).with_context(|| format!("{path} is broken"))?);
    }
    merged.append(&mut service.environment);
    service.environment = merged;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_comments_and_order() {
        let variables =
            parse("# c\nA=1\nexport B='x # y'\nC=\"a\\\"b\\n\"\nD=v # c\nA=2\nE=\n").expect("the file is valid");
        let get = |name: &str| variables.get(name).map(String::as_str);
        assert_eq!(get("A"), Some("2"));
        assert_eq!(get("B"), Some("x # y"));
        assert_eq!(get("C"), Some("a\"b\n"));
        assert_eq!(get("D"), Some("v"));
        assert_eq!(get("E"), Some(""));
        assert!(parse("just words\n").is_err() && parse("A='x\n").is_err() && parse("=x\n").is_err());
    }
}
