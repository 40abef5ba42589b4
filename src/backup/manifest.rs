//! What a run says about itself: written last, and a run without it is none. It holds names and numbers, and nothing of the app's data.

use crate::value::{AppName, Commit};
use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The layout that is written.
const VERSION: u32 = 1;
/// What it is called in its snapshot.
pub(super) const FILE: &str = "/manifest.json";

/// What was stored later is greater: by whose turn it was, by the number that its writer counts on from what it finds, by time. Time alone
/// would not do: a run of a clock that was years ahead would be the newest for years.
pub type Order = (u64, u64, jiff::Timestamp);

/// One app's part of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub version: u32,
    pub run: String,
    /// When the state of the database is from.
    pub at: jiff::Timestamp,
    pub app: AppName,
    /// The commit that ran.
    pub release: Option<Commit>,
    /// Of the appliance that made the run.
    pub appliance: String,
    pub host: String,
    pub machine: String,
    /// Whose turn it is to write into the repository: raised by `backup adopt` and by a recovery.
    pub generation: u64,
    /// What counts runs and shipments within a generation; 0 in runs of versions that did not count.
    #[serde(default)]
    pub serial: u64,
    /// Whether the clock was set by a server.
    pub is_clock_synchronised: bool,
    pub env_digest: String,
    pub database: Option<DatabasePart>,
    pub files: FilesPart,
    /// The snapshot of what belongs to the host.
    pub of_host: String,
    pub volumes: Vec<VolumePart>,
    /// What the whole run took, in seconds.
    pub seconds: u64,
}

/// The database: a dump in pg_dump's custom format.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabasePart {
    pub snapshot: String,
    /// The dump's path in the snapshot.
    pub path: String,
    /// PostgreSQL's major version.
    pub major: u32,
    pub bytes: u64,
    /// What is in it, counted in the transaction that was dumped: lines like `table public.note: 17 rows`.
    pub contents: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilesPart {
    pub snapshot: String,
    pub paths: Vec<String>,
    pub count: u64,
    pub bytes: u64,
    /// How many files are in the storage vault: a later one that has lost many is looked at.
    pub in_vault: u64,
    /// What was left out, since the app said so: with another list the number says nothing.
    #[serde(default)]
    pub excluded: Vec<String>,
    /// The first file that could not be read, if some could not.
    pub unread: Option<String>,
}

/// A named volume of the app's, to be made again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumePart {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    /// Where its files are in the snapshot.
    pub path: String,
}

impl Manifest {
    pub const VERSION: u32 = VERSION;

    /// # Errors
    /// It is broken, or of a later version of the appliance.
    pub fn parse(text: &str) -> Result<Manifest> {
        let read: Manifest = serde_json::from_str(text)?;
        if read.version > VERSION {
            bail!(
                "it was made by appliance {}, which is newer than this one; upgrade the package first",
                read.appliance
            );
        }
        Ok(read)
    }

    /// What tells which of two is the newer one.
    pub fn order(&self) -> Order {
        (self.generation, self.serial, self.at)
    }

    /// Rows of all tables together.
    pub fn rows(&self) -> u64 {
        let contents = self.database.iter().flat_map(|database| &database.contents);
        contents
            .filter_map(|line| {
                line.strip_prefix("table ")?.strip_suffix(" rows")?.rsplit_once(": ")?.1.parse::<u64>().ok()
            })
            .sum()
    }
}
