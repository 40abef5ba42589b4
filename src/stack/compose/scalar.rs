//! What a plain value without quotes becomes where a text is asked for: YAML takes it for a number or a boolean first, so `022` is 18
//! and `1e3` is 1000 for every reader of compose files. Pure.

use crate::env::document::{Kind, Node};

/// The text of a scalar as other readers of compose files pass it on; `None` if it is none.
pub fn text(node: &Node) -> Option<String> {
    match &*node.kind {
        Kind::Scalar { text, plain: true } => Some(typed(text).unwrap_or_else(|| text.clone())),
        Kind::Scalar { text, .. } => Some(text.clone()),
        _ => None,
    }
}

/// A file's mode: an integer as YAML reads it (so `0440` and `288` are the same), or a text with octal digits.
pub fn mode(node: &Node) -> Option<u32> {
    match &*node.kind {
        Kind::Scalar { text, plain: true } => integer(text).and_then(|mode| u32::try_from(mode).ok()),
        Kind::Scalar { text, .. } => u32::from_str_radix(text.strip_prefix("0o").unwrap_or(text), 8).ok(),
        _ => None,
    }
}

fn typed(text: &str) -> Option<String> {
    match text {
        "true" | "True" | "TRUE" => return Some("true".to_owned()),
        "false" | "False" | "FALSE" => return Some("false".to_owned()),
        _ => {}
    }
    integer(text).map(|number| number.to_string()).or_else(|| float(text))
}

/// An integer of YAML 1.1: with underscores; octal behind `0` or `0o`, hexadecimal behind `0x`, binary behind `0b`.
fn integer(text: &str) -> Option<i64> {
    let (negative, digits) = match text.as_bytes() {
        [b'-', ..] => (true, &text[1..]),
        [b'+', ..] => (false, &text[1..]),
        _ => (false, text),
    };
    if !digits.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let digits = digits.replace('_', "");
    let (digits, radix) = match digits.as_bytes() {
        [b'0', b'x', ..] => (&digits[2..], 16),
        [b'0', b'o', ..] => (&digits[2..], 8),
        [b'0', b'b', ..] => (&digits[2..], 2),
        [b'0', _, ..] => (&digits[1..], 8),
        _ => (digits.as_str(), 10),
    };
    let number = i64::from_str_radix(digits, radix).ok().filter(|_| !digits.starts_with(['-', '+']))?;
    Some(if negative { -number } else { number })
}

fn float(text: &str) -> Option<String> {
    let body = text.trim_start_matches(['-', '+']);
    let is_number = body.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && body.contains(|c: char| c.is_ascii_digit())
        && body.bytes().all(|b| b.is_ascii_digit() || b".eE+-".contains(&b));
    let number: f64 = text.parse().ok().filter(|_| is_number)?;
    let size = number.abs();
    // The thresholds of Go's strconv, which prints it elsewhere.
    if size != 0.0 && !(1e-4..1e6).contains(&size) {
        let text = format!("{number:e}");
        let (digits, exponent) = text.split_once('e')?;
        let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |exponent| ('-', exponent));
        return Some(format!("{digits}e{sign}{exponent:0>2}"));
    }
    Some(number.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::document::{Place, parse};

    #[test]
    fn plain_values_become_what_yaml_takes_them_for() {
        for (plain, expected) in [
            ("022", "18"),
            ("08", "8"),
            ("0x1F", "31"),
            ("1_000", "1000"),
            ("+5", "5"),
            ("-010", "-8"),
            ("1e3", "1000"),
            ("1.10", "1.1"),
            ("1e30", "1e+30"),
            ("1e6", "1e+06"),
            ("1234567.5", "1.2345675e+06"),
            ("False", "false"),
            ("yes", "yes"),
            ("1.2.3", "1.2.3"),
            ("5m", "5m"),
            ("e5", "e5"),
            ("1-2", "1-2"),
        ] {
            let node = parse(plain.as_bytes(), 100).expect("it is YAML");
            assert_eq!(text(&node).as_deref(), Some(expected), "{plain}");
        }
        assert_eq!(text(&Node::scalar(Place::START, "022".to_owned(), false)).as_deref(), Some("022"));
        let octal = |text: &str, plain| mode(&Node::scalar(Place::START, text.to_owned(), plain));
        assert_eq!(
            (octal("0440", true), octal("288", true), octal("440", false)),
            (Some(0o440), Some(0o440), Some(0o440))
        );
    }
}
