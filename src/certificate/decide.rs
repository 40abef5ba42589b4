//! When a certificate is ordered (docs/operating.md), and how long is waited after a failure. Pure.

use crate::host::acme::Window;
use crate::value::certificate::Facts;
use std::collections::BTreeSet;

/// When to order, in seconds since the epoch; now or earlier means at once. `jitter` is from 0 to 1 and always the same
/// for one host, so that not all hosts of the world renew in one minute.
pub fn due(seen: Option<&Facts>, wanted: &BTreeSet<String>, window: Option<Window>, jitter: f64) -> i64 {
    let Some(seen) = seen.filter(|seen| !seen.self_signed) else { return i64::MIN };
    if !wanted.is_subset(&seen.names) {
        return i64::MIN;
    }
    let life = seen.not_after - seen.not_before;
    let part = |of: i64, share: f64| (of as f64 * share) as i64;
    match window {
        // The server knows best (it may have to revoke), but a window behind the end would be a mistake.
        Some(window) => {
            (window.start + part((window.end - window.start).max(0), jitter)).min(seen.not_after - part(life, 0.1))
        }
        // A third of its life is left, and somewhat more by chance.
        None => seen.not_before + part(life, 2.0 / 3.0) - part(life, jitter / 30.0),
    }
}

/// How long after so many failures in a row the next try comes, in seconds.
pub fn pause(failures: u32) -> i64 {
    let minutes = match failures {
        0 | 1 => 1,
        2 => 5,
        3 => 15,
        4 => 60,
        _ => 360,
    };
    minutes * 60
}

/// A number from 0 to 1 that is always the same for one text.
pub fn jitter_of(text: &str) -> f64 {
    use sha2::{Digest, Sha256};
    let digest = Sha256::digest(text);
    f64::from(u16::from_be_bytes([digest[0], digest[1]])) / f64::from(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 24 * 3600;

    fn names(of: &[&str]) -> BTreeSet<String> {
        of.iter().map(|name| (*name).to_owned()).collect()
    }

    fn seen() -> Facts {
        let (issuer, responder) = ("CN=the authority".to_owned(), None);
        let names = names(&["a.de", "b.de"]);
        Facts { self_signed: false, names, not_before: 0, not_after: 90 * DAY, issuer, responder }
    }

    #[test]
    fn it_is_renewed_with_a_third_left_and_some_chance() {
        assert_eq!(due(Some(&seen()), &names(&["a.de"]), None, 0.0), 60 * DAY);
        assert_eq!(due(Some(&seen()), &names(&["a.de"]), None, 1.0), 57 * DAY);
        assert!((0.0..=1.0).contains(&jitter_of("a.de")) && jitter_of("a.de") != jitter_of("b.de"));
    }

    #[test]
    fn at_once_without_one_of_an_authority_or_with_a_name_missing() {
        for (seen, wanted) in [
            (None, names(&["a.de"])),
            (Some(Facts { self_signed: true, ..seen() }), names(&["a.de"])),
            (Some(seen()), names(&["a.de", "c.de"])),
        ] {
            assert_eq!(due(seen.as_ref(), &wanted, None, 0.5), i64::MIN);
        }
    }

    #[test]
    fn the_servers_own_window_counts_within_reason() {
        let at = |start, end| due(Some(&seen()), &names(&["a.de"]), Some(Window { start, end }), 0.5);
        assert_eq!(at(10 * DAY, 20 * DAY), 15 * DAY);
        assert_eq!(at(200 * DAY, 300 * DAY), 81 * DAY);
        assert_eq!(at(20 * DAY, 10 * DAY), 20 * DAY);
    }
}
