//! State of the appliance that lay in `/app/etc`, which was user app's: it is taken over into the directory that is root's alone. The old
//! files stay until this version of the appliance has come up, since the version before, if it is put back, looks for them there.

use super::{DIRECTORY, history, ledger};
use crate::host::Host;
use crate::value::AppName;
use anyhow::{Context, Result};
use serde::Deserialize;

/// Once this is there, what lies in the old places is nobody's word any more.
const DONE: &str = "/data/appliance/host/moved";
const OLD_LEDGER: &str = "/app/etc/ledger.json";
/// Directories of plain files: where they were, and where they are.
const OLD_DIRECTORIES: [(&str, &str); 2] =
    [("/app/etc/env-history", history::DIRECTORY), ("/app/etc/acme", super::ACME)];
/// The largest file that is taken over, in bytes.
const MAX_BYTES: u64 = 4 << 20;

#[derive(Deserialize)]
struct Whose {
    app: AppName,
}

/// Takes over what lies in the old places. Run again, it does so again until [`settle`].
///
/// # Errors
/// The old ledger is broken, or something cannot be written.
pub fn take_over(host: &Host) -> Result<()> {
    if host.exists(DONE) {
        return remove(host);
    }
    for (from, to) in OLD_DIRECTORIES {
        // A link would lead to files of root's that are somebody else's business.
        if host.link_target(from).is_some() {
            tracing::warn!("{from} is a link and is not taken over");
            continue;
        }
        for name in host.names(from)? {
            if let Some(bytes) = host.read_of_root(&format!("{from}/{name}"), MAX_BYTES)? {
                host.put(&format!("{to}/{name}"), &bytes, 0o600)?;
            }
        }
    }
    if let Some(bytes) = host.read_of_root(OLD_LEDGER, MAX_BYTES)? {
        let whose: Whose = serde_json::from_slice(&bytes).with_context(|| {
            format!("{OLD_LEDGER} is broken; restore it from a backup, or move it away to start anew")
        })?;
        host.put(&ledger::path(&whose.app), &bytes, 0o600)?;
    }
    Ok(())
}

/// This version has come up: the old places are given up.
pub fn settle(host: &Host) -> Result<()> {
    if host.is_directory(DIRECTORY) && !host.exists(DONE) {
        host.put(DONE, b"", 0o600)?;
    }
    if host.exists(DONE) { remove(host) } else { Ok(()) }
}

/// What cannot be removed is told and left: it was somebody else's to put there, and keeps no appliance from its start.
fn remove(host: &Host) -> Result<()> {
    let told = |done: Result<()>| done.unwrap_or_else(|error| tracing::warn!("{error:#}"));
    for (from, _) in OLD_DIRECTORIES {
        if host.link_target(from).is_some() {
            told(host.discard(from));
            continue;
        }
        for name in host.names(from)? {
            told(host.discard(&format!("{from}/{name}")));
        }
        told(host.discard_directory(from));
    }
    if host.exists(OLD_LEDGER) {
        told(host.discard(OLD_LEDGER));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::TestHost;
    use crate::state::Ledger;

    #[test]
    fn what_was_roots_is_taken_over_until_the_new_version_is_up() {
        let test = TestHost::new();
        let host = &test.host;
        let name: AppName = "shop".parse().expect("the name is valid");
        let old = |failed: char| {
            let commit = failed.to_string().repeat(40);
            format!(r#"{{"app": "shop", "failed": ["{commit}"]}}"#)
        };
        let failed = || Ledger::read_for(host, &name).expect("it can be read").failed[0].as_str()[..1].to_owned();
        host.put("/app/etc/env-history/000001-x-y.yml", b"a: b", 0o600).expect("it can be written");
        host.put(OLD_LEDGER, old('a').as_bytes(), 0o644).expect("it can be written");
        take_over(host).expect("it is taken over");
        assert_eq!(failed(), "a");
        // The version before was put back, and wrote; then this one comes again.
        host.put(OLD_LEDGER, old('b').as_bytes(), 0o644).expect("it can be written");
        take_over(host).expect("it is taken over");
        assert_eq!(failed(), "b");
        settle(host).expect("it is settled");
        assert!(!host.exists(OLD_LEDGER) && !host.exists("/app/etc/env-history"));
        assert!(host.exists(&format!("{}/000001-x-y.yml", history::DIRECTORY)));
        // Whatever anybody puts there later is nobody's word.
        host.put(OLD_LEDGER, old('c').as_bytes(), 0o644).expect("it can be written");
        take_over(host).expect("nothing is taken over");
        assert_eq!(failed(), "b");
        assert!(!host.exists(OLD_LEDGER));
    }
}
