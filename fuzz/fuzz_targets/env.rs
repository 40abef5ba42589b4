//! Any bytes as an env.yml: no panic, no endless work, and what is promised of the result holds.
#![no_main]

use appliance::env::{Env, diff, flat};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let parsed = Env::parse(bytes);
    let lines = bytes.split(|b| *b == b'\n' || *b == b'\r').count() + 1;
    for found in parsed.report.all() {
        assert!(found.line >= 1 && found.line as usize <= lines && found.column >= 1, "{found:?} in {lines} lines");
        assert!(!found.message.contains('\n'), "{found:?}");
        if let Some(quote) = &found.quote {
            assert!(quote.caret <= quote.text.chars().count(), "{quote:?}");
            assert!(quote.text.chars().count() < 110 && !quote.text.contains(char::is_control), "{quote:?}");
        }
    }
    assert_eq!(parsed.env.is_none(), parsed.report.has_errors());
    assert!(parsed.report.render_quoted("f").lines().count() <= 1 + 3 * parsed.report.all().len());
    let Some(env) = parsed.env else { return };
    assert!(diff::diff(&env, &env).0.is_empty());
    let Ok(variables) = flat::for_stack(&env) else { return };
    for name in variables.keys() {
        assert!(name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_'), "{name:?}");
        assert!(!name.starts_with(|c: char| c.is_ascii_digit()), "{name:?}");
    }
    let exported = flat::as_export(&variables);
    assert!(exported.is_empty() || exported.ends_with("'\n"), "an open quote");
});
