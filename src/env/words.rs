//! Command lines, in env.yml and in compose files.

use super::document::Kind;
use super::reader::Fields;

/// A command: a list of words, or one line that is split as a shell would.
pub(super) fn command(fields: &Fields, key: &'static str) -> Option<Vec<String>> {
    let node = fields.value(key)?;
    if let Kind::Sequence(_) = &*node.kind {
        return fields.list(key, |reading, node, path| reading.text(node, path));
    }
    match split_words(&fields.text(key)?) {
        Some(words) if !words.is_empty() => Some(words),
        _ => {
            fields.error(node.place, format!("'{}' must be a command with its quotes closed", fields.path(key)));
            None
        }
    }
}

/// Splits a command line as a POSIX shell does its words: quotes and backslashes, no expansion. `None`: a quote is open.
pub fn split_words(text: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            ' ' | '\t' | '\n' | '\r' => words.extend(word.take()),
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next()? {
                        '\'' => break,
                        other => word.push(other),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next()? {
                        '"' => break,
                        '\\' => match chars.next()? {
                            escaped @ ('"' | '\\' | '$' | '`') => word.push(escaped),
                            other => word.extend(['\\', other]),
                        },
                        other => word.push(other),
                    }
                }
            }
            '\\' => word.get_or_insert_default().push(chars.next()?),
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_as_a_shell_would() {
        let words = |text: &str| split_words(text);
        assert_eq!(
            words("a  'b c' \"d\\\"e\" f\\ g ''"),
            Some(vec!["a".into(), "b c".into(), "d\"e".into(), "f g".into(), String::new()])
        );
        assert_eq!(words("a 'b"), None);
        assert_eq!(words("\"\\n$x\""), Some(vec!["\\n$x".into()]));
        assert_eq!(words(" "), Some(vec![]));
    }
}
