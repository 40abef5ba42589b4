//! The ledger: which release is current, previous, in flight, and which failed. Written before what it announces.

use crate::host::Host;
use crate::value::{AppName, Commit, Route, Stage};
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Where it lies.
pub const LEDGER: &str = "/app/etc/ledger.json";
/// The largest ledger that is read, in bytes.
const MAX_BYTES: u64 = 4 << 20;
/// How many failed commits are remembered.
const MAX_FAILED: usize = 50;

/// One built version of the app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    pub commit: Commit,
    /// Service to image reference.
    pub images: BTreeMap<String, String>,
    /// SHA-256 of the env it was made with.
    pub env_digest: String,
    pub routes: Vec<Route>,
    /// When it became current.
    pub since: jiff::Timestamp,
    /// Whether the database was migrated for it.
    pub migrated: bool,
}

/// A release on its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InFlight {
    /// Unknown until it is fetched.
    pub commit: Option<Commit>,
    pub stage: Stage,
    pub since: jiff::Timestamp,
}

/// The whole ledger.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ledger {
    /// Whose it is: another app's releases are not taken for this one's.
    pub app: Option<AppName>,
    pub current: Option<Release>,
    pub previous: Option<Release>,
    pub in_flight: Option<InFlight>,
    pub failed: Vec<Commit>,
}

impl Ledger {
    /// Reads the ledger; a missing one is empty.
    ///
    /// # Errors
    /// A broken one: it is not guessed at, since it decides over data.
    pub fn read(host: &Host) -> Result<Ledger> {
        match host.read(LEDGER, MAX_BYTES)? {
            Some(bytes) => serde_json::from_slice(&bytes).with_context(|| {
                format!("{LEDGER} is broken; restore it from a backup, or move it away to start anew")
            }),
            None => Ok(Ledger::default()),
        }
    }

    /// Reads the ledger for an app.
    ///
    /// # Errors
    /// It belongs to another app.
    pub fn read_for(host: &Host, app: &AppName) -> Result<Ledger> {
        let ledger = Ledger::read(host)?;
        match &ledger.app {
            Some(other) if other != app => {
                bail!("{LEDGER} belongs to the app '{other}', not to '{app}'; stop that one, then move the file away")
            }
            _ => Ok(Ledger { app: Some(app.clone()), ..ledger }),
        }
    }

    /// Writes the ledger, and the old tags beside it that scripts read.
    pub fn write(&self, host: &Host, app: &AppName) -> Result<()> {
        let text = serde_json::to_string_pretty(self).context("could not render the ledger")?;
        host.put(LEDGER, text.as_bytes(), 0o644)?;
        let tag = |name: &str, value: &str| host.put(&format!("/app/etc/tags/{name}_{app}"), value.as_bytes(), 0o644);
        if let Some(current) = &self.current {
            tag("last_running", current.commit.as_str())?;
        }
        if let Some(failed) = self.failed.last() {
            tag("last_failed", failed.as_str())?;
        }
        Ok(())
    }

    /// Remembers that a commit failed.
    pub fn remember_failed(&mut self, commit: Commit) {
        self.failed.retain(|known| known != &commit);
        self.failed.push(commit);
        let excess = self.failed.len().saturating_sub(MAX_FAILED);
        self.failed.drain(..excess);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::TestHost;

    #[test]
    fn what_is_written_is_read_back_and_a_broken_one_is_refused() {
        let test = TestHost::new();
        assert_eq!(Ledger::read(&test.host).expect("a missing ledger is empty"), Ledger::default());
        let commit: Commit = "a".repeat(40).parse().expect("40 digits are a commit");
        let mut ledger = Ledger { app: Some(AppName::ecs()), ..Ledger::default() };
        ledger.remember_failed(commit.clone());
        ledger.in_flight =
            Some(InFlight { commit: Some(commit), stage: Stage::Build, since: jiff::Timestamp::UNIX_EPOCH });
        ledger.write(&test.host, &AppName::ecs()).expect("the ledger can be written");
        assert_eq!(Ledger::read(&test.host).expect("the ledger can be read"), ledger);
        assert!(test.host.exists("/app/etc/tags/last_failed_ecs"));
        let other: AppName = "shop".parse().expect("the name is valid");
        assert!(Ledger::read_for(&test.host, &other).is_err());
        test.host.put(LEDGER, b"{\"current\": 1}", 0o644).expect("the file can be written");
        assert!(Ledger::read(&test.host).is_err());
    }
}
