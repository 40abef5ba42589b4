//! Interpolation as the Compose Specification defines it: `$VAR ${VAR} ${VAR:-d} ${VAR-d} ${VAR:?e} ${VAR?e} ${VAR:+a}
//! ${VAR+a} $$`, nested. Pure.

use std::collections::{BTreeMap, BTreeSet};

/// How deep defaults may hold further variables.
const MAX_DEPTH: usize = 16;
/// The longest text that may come out, in bytes.
const MAX_LENGTH: usize = 1 << 20;

/// What was learnt while variables were filled in.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Names that are not set; they count as empty.
    pub missing: BTreeSet<String>,
    /// Values that were put in. They may be secrets.
    pub used: BTreeSet<String>,
}

/// The text with its variables filled in.
///
/// # Errors
/// A broken `${`, a required variable that is not set, or too much of everything.
pub fn interpolate(text: &str, variables: &BTreeMap<String, String>, found: &mut Found) -> Result<String, String> {
    let mut rest = text;
    let out = expand(&mut rest, variables, found, 0, false)?;
    if out.len() > MAX_LENGTH { Err(format!("comes to more than {MAX_LENGTH} bytes")) } else { Ok(out) }
}

/// Expands until the end, or, inside braces, until the closing one (which is left for the caller).
fn expand(
    rest: &mut &str,
    variables: &BTreeMap<String, String>,
    found: &mut Found,
    depth: usize,
    braced: bool,
) -> Result<String, String> {
    if depth > MAX_DEPTH {
        return Err(format!("nests more than {MAX_DEPTH} variables"));
    }
    let mut out = String::new();
    // Braces of the word's own, as in `${X:-{"a": 1}}`.
    let mut open = 0_u32;
    while let Some(c) = rest.chars().next() {
        if braced && c == '}' && open == 0 {
            break;
        }
        if out.len() > MAX_LENGTH {
            return Err(format!("comes to more than {MAX_LENGTH} bytes"));
        }
        *rest = &rest[c.len_utf8()..];
        if c != '$' {
            match c {
                '{' if braced => open += 1,
                '}' if braced => open -= 1,
                _ => {}
            }
            out.push(c);
            continue;
        }
        match rest.chars().next() {
            Some('$') => {
                *rest = &rest[1..];
                out.push('$');
            }
            Some('{') => {
                *rest = &rest[1..];
                out.push_str(&braces(rest, variables, found, depth)?);
            }
            Some(first) if first == '_' || first.is_ascii_alphabetic() => {
                let name = take_name(rest);
                out.push_str(&value(name, variables, found));
            }
            // As in a regular expression or a hashed password: it is itself.
            _ => out.push('$'),
        }
    }
    Ok(out)
}

fn take_name<'t>(rest: &mut &'t str) -> &'t str {
    let end = rest.find(|c: char| c != '_' && !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
    let (name, tail) = rest.split_at(end);
    *rest = tail;
    name
}

fn value(name: &str, variables: &BTreeMap<String, String>, found: &mut Found) -> String {
    match variables.get(name) {
        Some(value) => {
            found.used.insert(value.clone());
            value.clone()
        }
        None => {
            found.missing.insert(name.to_owned());
            String::new()
        }
    }
}

fn braces(
    rest: &mut &str,
    variables: &BTreeMap<String, String>,
    found: &mut Found,
    depth: usize,
) -> Result<String, String> {
    let name = take_name(rest);
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
        return Err("has a '${' without a variable's name".to_owned());
    }
    let (with_colon, operator) = match rest.as_bytes() {
        [b'}', ..] => (false, b'}'),
        [b':', operator @ (b'-' | b'?' | b'+'), ..] => (true, *operator),
        [operator @ (b'-' | b'?' | b'+'), ..] => (false, *operator),
        [] => return Err(format!("has '${{{name}' without the closing '}}'")),
        _ => return Err(format!("has an unknown operator behind '${{{name}'")),
    };
    *rest = &rest[if operator == b'}' { 1 } else { 1 + usize::from(with_colon) }..];
    if operator == b'}' {
        return Ok(value(name, variables, found));
    }
    // Only the branch that is taken tells what it found.
    let mut inside = Found::default();
    let word = expand(rest, variables, &mut inside, depth + 1, true)?;
    *rest = rest.strip_prefix('}').ok_or_else(|| format!("has '${{{name}' without the closing '}}'"))?;
    let set = variables.get(name).filter(|value| !with_colon || !value.is_empty());
    let mut take = |word: String| {
        found.missing.append(&mut inside.missing);
        found.used.append(&mut inside.used);
        word
    };
    match (operator, set) {
        (b'-' | b'?', Some(_)) => Ok(value(name, variables, found)),
        (b'-', None) => Ok(take(word)),
        (b'+', Some(_)) => Ok(take(word)),
        (b'+', None) => Ok(String::new()),
        _ if word.is_empty() => Err(format!("needs the variable {name}, which is not set")),
        _ => Err(format!("needs the variable {name}: {word}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn with(text: &str) -> Result<String, String> {
        let variables = BTreeMap::from([("SET".to_owned(), "s".to_owned()), ("EMPTY".to_owned(), String::new())]);
        interpolate(text, &variables, &mut Found::default())
    }

    #[test]
    fn each_form_of_the_grammar() {
        for (text, expected) in [
            ("a$SET.b", "as.b"),
            ("${SET}x", "sx"),
            ("$$SET $${SET}", "$SET ${SET}"),
            ("${EMPTY:-d}${EMPTY-d}", "d"),
            ("${NO:-${SET}${EMPTY:-!}}", "s!"),
            ("${SET:+a}${EMPTY:+a}${EMPTY+b}${NO+c}", "ab"),
            ("${SET:?e}${EMPTY?e}", "s"),
            ("${NO:-a:b/c?d}", "a:b/c?d"),
            ("${SET:-{\"a\":1}}${NO:-{}}${NO:+{y}}", "s{}"),
            ("$NO.", "."),
            ("$2b$12$01 5$ ^/(a|b)($|/) $}", "$2b$12$01 5$ ^/(a|b)($|/) $}"),
        ] {
            assert_eq!(with(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn broken_forms_are_refused() {
        for text in ["${", "${}", "${SET", "${1A}", "${SET!x}", "${NO:-x", "${EMPTY:?must be set}", "${NO?}"] {
            assert!(with(text).is_err(), "{text}");
        }
        assert!(with(&"${A:-".repeat(100)).is_err());
    }

    #[test]
    fn only_the_branch_taken_reports_missing_names() {
        let mut found = Found::default();
        let variables = BTreeMap::from([("SET".to_owned(), "s".to_owned())]);
        interpolate("${SET:-$A}$B", &variables, &mut found).expect("the text is valid");
        assert_eq!(found.missing, BTreeSet::from(["B".to_owned()]));
        assert_eq!(found.used, BTreeSet::from(["s".to_owned()]));
    }

    /// A text of the grammar, and what it must come to with `SET=s` and `EMPTY=`: built together, so that neither is computed from
    /// the other.
    fn expression(depth: u32) -> BoxedStrategy<(String, String)> {
        let name = prop_oneof![Just(("SET", Some("s"))), Just(("EMPTY", Some(""))), Just(("NO", None))];
        let leaf = prop_oneof![
            "[a-zA-Z0-9 ./:_@%-]{0,6}".prop_map(|text| (text.clone(), text)),
            Just(("$$".to_owned(), "$".to_owned())),
            name.clone().prop_map(|(name, value)| (format!("${{{name}}}"), value.unwrap_or("").to_owned())),
            // A name without braces ends where no more of its letters come.
            name.clone().prop_map(|(name, value)| (format!("${name}."), format!("{}.", value.unwrap_or("")))),
        ];
        if depth == 0 {
            return leaf.boxed();
        }
        let operator = prop_oneof![Just("-"), Just(":-"), Just("+"), Just(":+")];
        let braces = (name, operator, expression(depth - 1)).prop_map(|((name, value), operator, (text, word))| {
            let is_set =
                if operator.starts_with(':') { value.is_some_and(|value| !value.is_empty()) } else { value.is_some() };
            let comes_to = match (operator.ends_with('-'), is_set) {
                (true, true) => value.unwrap_or("").to_owned(),
                (true, false) | (false, true) => word,
                (false, false) => String::new(),
            };
            (format!("${{{name}{operator}{text}}}"), comes_to)
        });
        let parts = prop_oneof![leaf, braces];
        let joined = |parts: Vec<(String, String)>| -> (String, String) { parts.into_iter().unzip() };
        proptest::collection::vec(parts, 1..4).prop_map(joined).boxed()
    }

    proptest! {
        #[test]
        fn every_text_of_the_grammar_comes_to_what_it_was_built_for((text, expected) in expression(3)) {
            prop_assert_eq!(with(&text), Ok(expected), "{}", text);
        }

        #[test]
        fn no_text_breaks_it_and_none_without_a_dollar_is_changed(text in ".{0,80}", plain in "[^$]{0,80}") {
            drop(with(&text));
            prop_assert_eq!(with(&plain), Ok(plain));
        }
    }
}
