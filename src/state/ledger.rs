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
    /// Whether what was done to the database must be undone with the rest.
    #[serde(default)]
    pub database: Touched,
    /// Why it is undone, once it is.
    #[serde(default)]
    pub why: Option<String>,
}

/// What a release on its way did to the database.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Touched {
    #[default]
    No,
    /// It is being migrated, or was; the dump from before is there.
    Migrated,
    /// A release that was the current one is gone back from, and its migration with it.
    Left,
}

/// How the last update went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    pub commit: Commit,
    pub at: jiff::Timestamp,
    /// `done`, or why not.
    pub outcome: String,
    /// How long each stage took, in milliseconds: what the next one is told to take.
    pub took_ms: BTreeMap<Stage, u64>,
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
    pub last: Option<Attempt>,
    /// The current release was gone back to: the previous one is newer.
    pub rolled_back: bool,
}

impl InFlight {
    /// A stage that begins now.
    pub fn at(commit: Option<Commit>, stage: Stage, host: &Host) -> InFlight {
        InFlight { commit, stage, since: host.now(), database: Touched::No, why: None }
    }
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
        // What operators and their scripts know from before. What decides is the ledger itself.
        let tag = |name: &str, value: &str| {
            if let Err(error) = host.put(&format!("/app/etc/tags/{name}"), value.as_bytes(), 0o644) {
                tracing::warn!("{error:#}");
            }
        };
        if let Some(current) = &self.current {
            let images: Vec<&str> = current.images.values().map(String::as_str).collect();
            tag(&format!("last_running_{app}"), current.commit.as_str());
            tag(&format!("last_build_{app}"), current.commit.as_str());
            tag(&format!("{app}_version"), current.commit.as_str());
            tag(&format!("last_running_{app}_image"), &images.join("\n"));
            if current.migrated {
                tag(&format!("last_migration_{app}"), current.commit.as_str());
            }
        }
        if let Some(failed) = self.failed.last() {
            tag(&format!("last_failed_{app}"), failed.as_str());
        }
        Ok(())
    }

    /// The commits of every release that may still be needed.
    pub fn commits(&self) -> impl Iterator<Item = &Commit> {
        let releases = self.current.iter().chain(&self.previous).map(|release| &release.commit);
        releases.chain(self.in_flight.iter().filter_map(|flight| flight.commit.as_ref()))
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
        ledger.in_flight = Some(InFlight::at(Some(commit), Stage::Build, &test.host));
        ledger.write(&test.host, &AppName::ecs()).expect("the ledger can be written");
        assert_eq!(Ledger::read(&test.host).expect("the ledger can be read"), ledger);
        assert!(test.host.exists("/app/etc/tags/last_failed_ecs"));
        let other: AppName = "shop".parse().expect("the name is valid");
        assert!(Ledger::read_for(&test.host, &other).is_err());
        test.host.put(LEDGER, b"{\"current\": 1}", 0o644).expect("the file can be written");
        assert!(Ledger::read(&test.host).is_err());
    }
}
