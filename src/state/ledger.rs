//! The ledger: which release is current, previous, in flight, and which failed. Written before what it announces.

use super::{DIRECTORY, app_directory};
use crate::host::Host;
use crate::value::{AppName, Commit, PinnedImage, Route, ServiceName, Stage, Tenant};
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The file's name in the app's directory.
pub const NAME: &str = "ledger.json";
/// The largest ledger that is read, in bytes.
const MAX_BYTES: u64 = 4 << 20;
/// How many failed commits are remembered.
const MAX_FAILED: usize = 50;

/// One built version of the app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    pub commit: Commit,
    /// Service to image.
    pub images: BTreeMap<String, PinnedImage>,
    /// SHA-256 of the env it was made with.
    pub env_digest: String,
    /// SHA-256 of the env it runs with since its last good start; the one it was made with, before the first.
    #[serde(default)]
    pub runs_with: Option<String>,
    pub routes: Vec<Route>,
    /// When it became current.
    pub since: jiff::Timestamp,
    /// Whether the database was migrated for it.
    pub migrated: bool,
}

impl Release {
    /// SHA-256 of the env that it ran with last.
    pub fn ran_with(&self) -> &str {
        self.runs_with.as_deref().unwrap_or(&self.env_digest)
    }

    /// The services that visitors reach and those that the env calls critical: without one of them the app is down.
    pub fn vital<'a>(&'a self, critical: &'a [ServiceName]) -> Vec<&'a str> {
        let routed = self.routes.iter().map(|route| route.service.as_str());
        critical.iter().map(ServiceName::as_str).chain(routed).collect()
    }
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
    /// It is being copied: nothing in it is changed, but nobody can connect, and there may be a part of a copy.
    Copying,
    /// It is being migrated, or was; the copy from before is there.
    Migrated,
    /// The version that ran already was migrated once more: the way back is the one that there was, and the copy from before goes.
    Again,
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

/// Where an app's ledger lies.
pub fn path(app: &AppName) -> String {
    format!("{}/{NAME}", app_directory(app))
}

impl Ledger {
    /// How an attempt ended that went through.
    pub const DONE: &'static str = "done";
    /// It did not, and the server does not ask for it any more.
    pub const WITHDRAWN: &'static str = "withdrawn";

    /// Whether an app may have this host to itself.
    ///
    /// # Errors
    /// There are data of another app.
    pub fn refuse_others(host: &Host, tenant: &Tenant) -> Result<()> {
        let Tenant::Alone(app) = tenant else { return Ok(()) };
        if let Some(other) = apps(host)?.iter().find(|other| *other != app) {
            let path = path(other);
            bail!("{path} belongs to the app '{other}', not to '{app}'; stop that one, then move the file away")
        }
        Ok(())
    }

    /// Reads the ledger of an app.
    ///
    /// # Errors
    /// It is broken.
    pub fn read_for(host: &Host, app: &AppName) -> Result<Ledger> {
        Ok(Ledger { app: Some(app.clone()), ..read_one(host, app)? })
    }

    /// Writes the ledger, and the old tags beside it that scripts read.
    pub fn write(&self, host: &Host, app: &AppName) -> Result<()> {
        let text = serde_json::to_string_pretty(self).context("could not render the ledger")?;
        host.put(&path(app), text.as_bytes(), 0o600)?;
        // What operators and their scripts know from before. What decides is the ledger itself.
        let tag = |name: &str, value: &str| {
            if let Err(error) = host.put(&format!("/app/etc/tags/{name}"), value.as_bytes(), 0o644) {
                tracing::warn!("{error:#}");
            }
        };
        if let Some(current) = &self.current {
            let images: Vec<&str> = current.images.values().map(|image| image.reference.as_str()).collect();
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

    /// Takes the tags away that [`Ledger::write`] and updates have put beside the ledger.
    pub fn discard_tags(host: &Host, app: &AppName) -> Result<()> {
        let mut names = ["running", "build", "migration", "failed"].map(|what| format!("last_{what}_{app}")).to_vec();
        names.extend([format!("last_running_{app}_image"), format!("{app}_version"), format!("{app}_last_update")]);
        names.iter().try_for_each(|name| host.discard(&format!("/app/etc/tags/{name}")))
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

/// The apps that have a ledger on this host, whether or not the env names them.
pub fn apps(host: &Host) -> Result<Vec<AppName>> {
    let names = host.names(&format!("{DIRECTORY}/apps"))?;
    let apps = names.iter().filter_map(|name| name.parse::<AppName>().ok());
    Ok(apps.filter(|app| host.exists(&path(app))).collect())
}

fn read_one(host: &Host, app: &AppName) -> Result<Ledger> {
    let path = path(app);
    match host.read(&path, MAX_BYTES)? {
        Some(bytes) => serde_json::from_slice(&bytes)
            .with_context(|| format!("{path} is broken; restore it from a backup, or move it away to start anew")),
        None => Ok(Ledger::default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::TestHost;

    #[test]
    fn what_is_written_is_read_back_and_a_broken_one_is_refused() {
        let test = TestHost::new();
        assert!(Ledger::read_for(&test.host, &AppName::ecs()).expect("a missing ledger is empty").current.is_none());
        let commit: Commit = "a".repeat(40).parse().expect("40 digits are a commit");
        let mut ledger = Ledger { app: Some(AppName::ecs()), ..Ledger::default() };
        ledger.remember_failed(commit.clone());
        ledger.in_flight = Some(InFlight::at(Some(commit), Stage::Build, &test.host));
        ledger.write(&test.host, &AppName::ecs()).expect("the ledger can be written");
        assert_eq!(Ledger::read_for(&test.host, &AppName::ecs()).expect("the ledger can be read"), ledger);
        assert!(test.host.exists("/app/etc/tags/last_failed_ecs"));
        let other: AppName = "shop".parse().expect("the name is valid");
        assert!(Ledger::refuse_others(&test.host, &Tenant::Alone(other.clone())).is_err());
        assert!(Ledger::refuse_others(&test.host, &Tenant::OneOfSeveral(other)).is_ok());
        test.host.put(&path(&AppName::ecs()), b"{\"current\": 1}", 0o644).expect("the file can be written");
        assert!(Ledger::read_for(&test.host, &AppName::ecs()).is_err());
    }
}
