//! The failed flags: while one exists, what it is of does not start (docs/operating.md).

use super::RUN;
use crate::host::{Dir, Host};
use crate::value::{AppName, Tenant};
use anyhow::Result;

/// Both spellings of the host's flag that operators know; the first is written.
pub const FAILED: [&str; 2] = ["/run/appliance-failed", "/run/appliance_failed"];
/// Where the flags of several apps lie, each under its app's name.
pub const DIRECTORY: &str = "/run/appliance/failed";
/// The longest reason that is read back, in bytes.
const MAX_REASON: u64 = 64 * 1024;

/// The flag of the host, which is that of an app that has it to itself; or that of one of several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Flag {
    Host,
    App(AppName),
}

impl From<&Tenant> for Flag {
    fn from(tenant: &Tenant) -> Flag {
        if tenant.is_alone() { Flag::Host } else { Flag::App(tenant.name().clone()) }
    }
}

impl Flag {
    fn paths(&self) -> Vec<String> {
        match self {
            Flag::Host => FAILED.map(str::to_owned).to_vec(),
            Flag::App(name) => vec![format!("{DIRECTORY}/{name}")],
        }
    }

    /// Raises the flag; the reason is what `recover` and the next start will say.
    pub fn raise(&self, host: &Host, reason: &str) -> Result<()> {
        if matches!(self, Flag::App(_)) {
            host.ensure_dir(RUN, &Dir::plain())?;
            host.ensure_dir(DIRECTORY, &Dir::plain())?;
        }
        let path = self.paths().swap_remove(0);
        host.put_for_administrators(&path, format!("{reason}\n").as_bytes())
    }

    /// The reason in the flag, if it is up.
    pub fn failed(&self, host: &Host) -> Result<Option<String>> {
        for path in self.paths() {
            if host.exists(&path) {
                let bytes = host.read_start(&path, MAX_REASON)?.unwrap_or_default();
                let reason = String::from_utf8_lossy(&bytes).trim().to_owned();
                return Ok(Some(if reason.is_empty() { format!("{path} exists; it gives no reason") } else { reason }));
            }
        }
        Ok(None)
    }

    /// Takes the flag down.
    pub fn clear(&self, host: &Host) -> Result<()> {
        self.paths().iter().try_for_each(|path| host.discard(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::TestHost;

    #[test]
    fn both_spellings_count_and_go() {
        let test = TestHost::new();
        assert_eq!(Flag::Host.failed(&test.host).expect("reading works"), None);
        test.host.put(FAILED[1], b"", 0o644).expect("the file can be written");
        assert!(Flag::Host.failed(&test.host).expect("reading works").is_some());
        Flag::Host.raise(&test.host, "web died").expect("the flag can be written");
        assert_eq!(Flag::Host.failed(&test.host).expect("reading works").as_deref(), Some("web died"));
        Flag::Host.clear(&test.host).expect("the flags can be removed");
        assert_eq!(Flag::Host.failed(&test.host).expect("reading works"), None);
        let one = Flag::App("one".parse().expect("the name is valid"));
        one.raise(&test.host, "one died").expect("the flag can be written");
        assert_eq!(one.failed(&test.host).expect("reading works").as_deref(), Some("one died"));
        for other in [Flag::Host, Flag::App("two".parse().expect("the name is valid"))] {
            assert_eq!(other.failed(&test.host).expect("reading works"), None, "{other:?}");
        }
    }
}
