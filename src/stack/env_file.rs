//! Env files (`.env`, `env_file:`): `NAME=value` lines, quotes over several lines, comments, variables in values.

use super::interpolate::{Found, interpolate};
use super::model::{EnvFile, Service};
use crate::host::Host;
use anyhow::{Context, Result, bail};
use std::collections::{BTreeMap, BTreeSet};

const MAX_BYTES: u64 = 1 << 20;

type Variables = BTreeMap<String, String>;

/// The variables of an env file; a later line wins. Values may name those of `outside` and of earlier lines; a name alone takes
/// what it is outside.
///
/// # Errors
/// The number of the line that is none.
pub fn parse(text: &str, outside: &Variables) -> Result<Variables> {
    let mut own = Variables::new();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut rest = text;
    let mut number = 0;
    while !rest.is_empty() {
        number += 1;
        let (line, tail) = rest.split_once('\n').unwrap_or((rest, ""));
        rest = tail;
        let line = line.trim_end_matches('\r').trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let line = line.strip_prefix("export ").unwrap_or(line).trim_start();
        let Some((name, value)) = line.split_once('=') else {
            let name = checked_name(line, number)?;
            own.extend(outside.get(name).map(|value| (name.to_owned(), value.clone())));
            continue;
        };
        let name = checked_name(name, number)?;
        let value = value.trim_start();
        let value = match value.chars().next().filter(|c| ['\'', '"'].contains(c)) {
            Some(quote) => {
                // What is quoted may go on behind the line.
                let from = value.as_ptr() as usize - text.as_ptr() as usize + 1;
                let end = end_of_quoted(&text[from..], quote)
                    .with_context(|| format!("line {number}: a quote is not closed"))?;
                let inner = &text[from..from + end];
                number += inner.matches('\n').count();
                let behind = &text[from + end + 1..];
                rest = behind.split_once('\n').map_or("", |(_, tail)| tail);
                if quote == '\'' { inner.to_owned() } else { filled(&unescaped(inner), &own, outside, number)? }
            }
            None => filled(without_comment(value), &own, outside, number)?,
        };
        if value.contains('\0') {
            bail!("line {number} holds a NUL byte");
        }
        own.insert(name.to_owned(), value);
    }
    Ok(own)
}

/// `NAME=value` lines as they stand: no quotes, no variables.
fn parse_raw(text: &str) -> Result<Variables> {
    let mut own = Variables::new();
    for (index, line) in text.lines().enumerate() {
        if line.trim().is_empty() || line.trim_start().starts_with('#') {
            continue;
        }
        let Some((name, value)) = line.split_once('=') else { bail!("line {} is not NAME=value", index + 1) };
        own.insert(checked_name(name, index + 1)?.to_owned(), value.to_owned());
    }
    Ok(own)
}

fn checked_name(name: &str, number: usize) -> Result<&str> {
    let name = name.trim();
    if name.is_empty() || name.contains(|c: char| c.is_whitespace() || c.is_control()) {
        bail!("line {number} is not NAME=value");
    }
    Ok(name)
}

fn end_of_quoted(text: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quote == '"' => escaped = true,
            c if c == quote => return Some(at),
            _ => {}
        }
    }
    None
}

fn unescaped(text: &str) -> String {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, if c == '\\' { chars.next() } else { None }) {
            ('\\', Some('n')) => out.push('\n'),
            ('\\', Some('r')) => out.push('\r'),
            ('\\', Some('t')) => out.push('\t'),
            ('\\', Some('$')) => out.push_str("$$"),
            ('\\', Some(c @ ('"' | '\\' | '\''))) => out.push(c),
            ('\\', Some(other)) => out.extend(['\\', other]),
            (c, _) => out.push(c),
        }
    }
    out
}

/// Without quotes a comment begins behind white space.
fn without_comment(value: &str) -> &str {
    let is_comment = |at: &usize| value[..*at].ends_with(char::is_whitespace);
    let end = value.match_indices('#').map(|(at, _)| at).find(is_comment);
    value[..end.unwrap_or(value.len())].trim_end()
}

fn filled(value: &str, own: &Variables, outside: &Variables, number: usize) -> Result<String> {
    if !value.contains('$') {
        return Ok(value.to_owned());
    }
    let mut all = own.clone();
    all.extend(outside.clone());
    interpolate(value, &all, &mut Found::default())
        // What stands there may be a secret: the message must not show it.
        .map_err(|_| {
            anyhow::anyhow!(
                "the value in line {number} has a '$' that begins no good variable; write '$$' for a plain '$'"
            )
        })
}

/// Reads a service's env files into its environment, below what the compose file sets itself. Gives back the values that came from
/// there.
pub fn resolve(service: &mut Service, outside: &Variables, host: &Host) -> Result<BTreeSet<String>> {
    let mut merged = Variables::new();
    for EnvFile { path, required, raw } in &service.env_files {
        let Some(text) = host.read_text(path, MAX_BYTES)? else {
            match required {
                true => bail!("the service {} needs the env file {path}, which is missing", service.name),
                false => continue,
            }
        };
        // A later file may name what an earlier one has set.
        let mut known = merged.clone();
        known.extend(outside.clone());
        let parsed = if *raw { parse_raw(&text) } else { parse(&text, &known) };
        merged.extend(parsed.with_context(|| format!("{path} is broken"))?);
    }
    let values = merged.values().cloned().collect();
    merged.append(&mut service.environment);
    service.environment = merged;
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_comments_variables_and_order() {
        let outside = Variables::from([("OUT".to_owned(), "o".to_owned())]);
        let text = "# c\nA=1\nexport B='x # $y'\nC=\"a\\\"b\\n${OUT}\\$\"\nD=v # c\nA=2\nE=\nF=\"one\ntwo\" # c\nG=$A-${OUT}\nOUT\nNO\nH=a#b\nI=#x\n";
        let variables = parse(text, &outside).expect("the file is valid");
        let expected = [
            ("A", "2"),
            ("B", "x # $y"),
            ("C", "a\"b\no$"),
            ("D", "v"),
            ("E", ""),
            ("F", "one\ntwo"),
            ("G", "2-o"),
            ("H", "a#b"),
            ("I", "#x"),
            ("OUT", "o"),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(variables, Variables::from(expected));
        for bad in ["just words\n", "A='x\n", "=x\n", "A=${\n"] {
            assert!(parse(bad, &outside).is_err(), "{bad}");
        }
        assert_eq!(parse_raw("A='$x' # y\n").expect("raw").get("A").map(String::as_str), Some("'$x' # y"));
    }
}
