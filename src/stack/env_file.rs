//! Env files (`.env`, `env_file:`): `NAME=value` lines, quotes over several lines, comments, variables in values.

use super::EnvFiles;
use super::interpolate::{Found, interpolate};
use super::model::{EnvFile, Service};
use crate::host::Host;
use anyhow::{Context, Result, bail};
use std::collections::{BTreeMap, BTreeSet};

type Variables = BTreeMap<String, String>;

/// What values of an env file may name, the first that knows a name before the others; the file's own earlier lines come between.
#[derive(Clone, Copy)]
pub struct Known<'a> {
    /// The project's variables, then what the compose file sets for the service.
    pub before: [&'a Variables; 2],
    /// What earlier env files have set.
    pub after: &'a Variables,
}

impl<'a> Known<'a> {
    /// Where there is nothing but the project's variables.
    pub fn project(variables: &'a Variables, none: &'a Variables) -> Known<'a> {
        Known { before: [variables, none], after: none }
    }

    fn outside(&self, name: &str) -> Option<&String> {
        self.before.iter().find_map(|known| known.get(name)).or_else(|| self.after.get(name))
    }

    fn all(&self, own: &Variables) -> Variables {
        let mut all = self.after.clone();
        all.extend(own.clone());
        self.before.iter().rev().for_each(|known| all.extend((*known).clone()));
        all
    }
}

/// The variables of an env file; a later line wins: `NAME=value` or `NAME: value`. A name alone takes what it is outside.
///
/// # Errors
/// The number of the line that is none.
pub fn parse(text: &str, known: Known<'_>, found: &mut Found) -> Result<Variables> {
    let mut own = Variables::new();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut rest = text;
    let mut number = 1;
    while !rest.is_empty() {
        let (line, tail) = rest.split_once('\n').unwrap_or((rest, ""));
        let began = number;
        number += 1;
        rest = tail;
        let line = line.trim_end_matches('\r').trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let line = line.strip_prefix("export ").unwrap_or(line).trim_start();
        let Some((name, value)) = line.split_once(['=', ':']) else {
            let name = checked_name(line.split(" #").next().unwrap_or(line), began)?;
            own.extend(known.outside(name).map(|value| (name.to_owned(), value.clone())));
            continue;
        };
        let name = checked_name(name, began)?;
        let value = value.trim_start();
        let value = match value.chars().next().filter(|c| ['\'', '"'].contains(c)) {
            Some(quote) => {
                // What is quoted may go on behind the line, and what stands behind it is read on its own.
                let from = value.as_ptr() as usize - text.as_ptr() as usize + 1;
                let end = end_of_quoted(&text[from..], quote)
                    .with_context(|| format!("line {began}: a quote is not closed"))?;
                let inner = &text[from..from + end];
                number = began + inner.matches('\n').count();
                rest = text[from + end + 1..].trim_start_matches([' ', '\t', '\r']);
                if let Some(behind) = rest.strip_prefix('\n') {
                    rest = behind;
                    number += 1;
                }
                if quote == '\'' { inner.to_owned() } else { filled(&unescaped(inner), &own, known, began, found)? }
            }
            None => filled(without_comment(value), &own, known, began, found)?,
        };
        if value.contains('\0') {
            bail!("line {began} holds a NUL byte");
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
    // As docker compose takes them.
    if name.is_empty() || name.contains(|c: char| !(c.is_ascii_alphanumeric() || "_.-[]".contains(c))) {
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

/// The escapes that docker compose knows between double quotes; others stay as they are.
fn unescaped(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let behind = &rest[at + 1..];
        let (becomes, taken) = match behind.chars().next() {
            Some('a') => ('\u{7}', 1),
            Some('b') => ('\u{8}', 1),
            Some('f') => ('\u{c}', 1),
            Some('n') => ('\n', 1),
            Some('r') => ('\r', 1),
            Some('t') => ('\t', 1),
            Some('v') => ('\u{b}', 1),
            Some(c @ ('"' | '\\')) => (c, 1),
            Some('$') => {
                out.push_str("$$");
                rest = &behind[1..];
                continue;
            }
            Some('0') => {
                let digits: String = behind[1..].chars().take(3).take_while(|c| ('0'..='7').contains(c)).collect();
                match u32::from_str_radix(&digits, 8).ok().and_then(char::from_u32) {
                    Some(c) => (c, 1 + digits.len()),
                    None => ('\\', 1),
                }
            }
            _ => ('\\', 0),
        };
        out.push(becomes);
        rest = &behind[taken..];
    }
    out.push_str(rest);
    out
}

/// Without quotes a comment begins behind white space.
fn without_comment(value: &str) -> &str {
    let is_comment = |at: &usize| value[..*at].ends_with(char::is_whitespace);
    let end = value.match_indices('#').map(|(at, _)| at).find(is_comment);
    value[..end.unwrap_or(value.len())].trim_end()
}

fn filled(value: &str, own: &Variables, known: Known<'_>, number: usize, found: &mut Found) -> Result<String> {
    if !value.contains('$') {
        return Ok(value.to_owned());
    }
    // What stands there may be a secret: the message must not show it.
    interpolate(value, &known.all(own), found)
        .map_err(|_| anyhow::anyhow!("the value in line {number} has a broken '${{'"))
}

/// Says which variables of a file are not set.
pub fn warn_of_missing(path: &str, found: &Found) {
    for name in &found.missing {
        tracing::warn!("{path}: the variable {name} is not set and counts as empty");
    }
}

/// Reads a service's env files into its environment, below what the compose file sets itself. Gives back the values that came from
/// there.
pub fn resolve(service: &mut Service, from: EnvFiles, outside: &Variables, host: &Host) -> Result<BTreeSet<String>> {
    let mut merged = Variables::new();
    for EnvFile { path, required, raw } in &service.env_files {
        let Some(bytes) = super::read_env_file(path, from, host)? else {
            match required {
                true => bail!("the service {} needs the env file {path}, which is missing", service.name),
                false => continue,
            }
        };
        let text = String::from_utf8(bytes).ok().with_context(|| format!("{path} is not UTF-8 text"))?;
        let known = Known { before: [outside, &service.environment], after: &merged };
        let mut found = Found::default();
        let parsed = if *raw { parse_raw(&text) } else { parse(&text, known, &mut found) };
        let parsed = parsed.with_context(|| format!("{path} is broken"))?;
        warn_of_missing(path, &found);
        merged.extend(parsed);
    }
    merged.retain(|name, _| !service.unset.contains(name));
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
        let none = Variables::new();
        let parse = |text: &str| super::parse(text, Known::project(&outside, &none), &mut Found::default());
        let variables = parse(text).expect("the file is valid");
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
        for bad in ["just words\n", "A='x\n", "=x\n", "A=${\n", "A=\"x\"\"y\"\n"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_raw("A='$x' # y\n").expect("raw").get("A").map(String::as_str), Some("'$x' # y"));
    }

    /// As docker compose 2.40 reads them, each tried there.
    #[test]
    fn what_docker_compose_makes_of_odd_lines() {
        let (outside, service) = (Variables::new(), Variables::from([("PORT".to_owned(), "8080".to_owned())]));
        let earlier = Variables::from([("E".to_owned(), "e".to_owned()), ("K".to_owned(), "old".to_owned())]);
        for (text, expected) in [
            ("K:v=w", "v=w"),
            ("K: slow # c", "slow"),
            ("K=v:w", "v:w"),
            (r#"K="\bword\b\a\f\v""#, "\u{8}word\u{8}\u{7}\u{c}\u{b}"),
            (r#"K="don\'t""#, r"don\'t"),
            (r#"K="\0101\0""#, "A\\"),
            (r#"K="\x\q""#, r"\x\q"),
            ("K=5$ $1234 ^x$|y a$}b", "5$ $1234 ^x$|y a$}b"),
            ("K=a$$b", "a$b"),
            ("K='a$b'", "a$b"),
            ("K='q' tail", "q"),
            ("K=1 ; c", "1 ; c"),
            (" K = v ", "v"),
            ("X=1\nK=$E-$X-$PORT", "e-1-8080"),
            ("K=new\nK=$K", "new"),
            ("PORT=1\nK=$PORT", "8080"),
        ] {
            let known = Known { before: [&outside, &service], after: &earlier };
            let parsed =
                super::parse(text, known, &mut Found::default()).unwrap_or_else(|error| panic!("{text}: {error:#}"));
            assert_eq!(parsed.get("K").map(String::as_str), Some(expected), "{text}");
        }
        let mut found = Found::default();
        super::parse("A=a$no", Known::project(&outside, &outside), &mut found).expect("it is valid");
        assert_eq!(found.missing, std::collections::BTreeSet::from(["no".to_owned()]));
    }
}
