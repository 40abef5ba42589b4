//! The failed flag: while it exists nothing starts (docs/operating.md).

use crate::host::Host;
use anyhow::Result;

/// Both spellings that operators know; the first is written.
pub const FAILED: [&str; 2] = ["/run/appliance-failed", "/run/appliance_failed"];
/// The longest reason that is read back, in bytes.
const MAX_REASON: u64 = 64 * 1024;

/// Raises the flag; the reason is what `recover` and the next start will say.
pub fn raise(host: &Host, reason: &str) -> Result<()> {
    host.put_for_administrators(FAILED[0], format!("{reason}\n").as_bytes())
}

/// The reason in the flag, if it is up.
pub fn failed(host: &Host) -> Result<Option<String>> {
    for path in FAILED {
        if host.exists(path) {
            let bytes = host.read_start(path, MAX_REASON)?.unwrap_or_default();
            let reason = String::from_utf8_lossy(&bytes).trim().to_owned();
            return Ok(Some(if reason.is_empty() { format!("{path} exists; it gives no reason") } else { reason }));
        }
    }
    Ok(None)
}

/// Takes the flag down.
pub fn clear(host: &Host) -> Result<()> {
    FAILED.iter().try_for_each(|path| host.discard(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::TestHost;

    #[test]
    fn both_spellings_count_and_go() {
        let test = TestHost::new();
        assert_eq!(failed(&test.host).expect("reading works"), None);
        test.host.put(FAILED[1], b"", 0o644).expect("the file can be written");
        assert!(failed(&test.host).expect("reading works").is_some());
        raise(&test.host, "web died").expect("the flag can be written");
        assert_eq!(failed(&test.host).expect("reading works").as_deref(), Some("web died"));
        clear(&test.host).expect("the flags can be removed");
        assert_eq!(failed(&test.host).expect("reading works"), None);
    }
}
