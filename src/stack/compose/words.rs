//! A command that stands in a compose file as one string, split as docker compose splits it: words, quotes and backslashes as in a shell,
//! without expansion, and nothing behind an unquoted `;`, `&`, `|`, `<` or `>`.

/// The words, and the sign at which they end before the string does.
///
/// # Errors
/// A quote is open, or there is a bracket that only a shell would understand.
pub fn split(text: &str) -> Result<(Vec<String>, Option<char>), String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let (mut quote, mut escaped) = (None, false);
    for c in text.chars() {
        if escaped {
            word.get_or_insert_default().push(c);
            escaped = false;
            continue;
        }
        match (c, quote) {
            ('\\', None | Some('"')) => escaped = true,
            (c, Some(open)) if c == open => quote = None,
            (c, Some(_)) => word.get_or_insert_default().push(c),
            ('\'' | '"', None) => {
                word.get_or_insert_default();
                quote = Some(c);
            }
            (' ' | '\t' | '\r' | '\n', None) => words.extend(word.take()),
            (';' | '&' | '|' | '<' | '>', None) => {
                // `2>` redirects by its number, which is no word then.
                let is_number =
                    c == '>' && word.as_deref().is_some_and(|word| word.starts_with(|c: char| c.is_ascii_digit()));
                if !is_number {
                    words.extend(word.take());
                }
                return Ok((words, Some(c)));
            }
            ('(' | ')', None) => return Err(format!("has a '{c}' outside of quotes")),
            (c, None) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() || escaped {
        return Err("has a quote that is not closed".to_owned());
    }
    words.extend(word);
    Ok((words, None))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_end_where_docker_compose_ends_them() {
        for (text, expected, end) in [
            (r#"run "a\nb" 'c\d' e\f "\$x" 3>&1 more"#, &["run", "anb", r"c\d", "ef", "$x"][..], Some('>')),
            ("a;b", &["a"], Some(';')),
            ("fetch http://h/?a=1&b=2", &["fetch", "http://h/?a=1"], Some('&')),
            ("a > b", &["a"], Some('>')),
            ("a x2>b", &["a", "x2"], Some('>')),
            (r#"a "b;c" d\;e f"#, &["a", "b;c", "d;e", "f"], None),
            ("a '' \"\"", &["a", "", ""], None),
            ("", &[], None),
        ] {
            let words: Vec<String> = expected.iter().map(|word| (*word).to_owned()).collect();
            assert_eq!(split(text), Ok((words, end)), "{text}");
        }
        for broken in ["a 'b", "a \"b", "a\\", "$(x)", "a (b"] {
            assert!(split(broken).is_err(), "{broken}");
        }
    }
}
