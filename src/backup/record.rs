//! What this host knows of its backups without asking the target.

use super::kept;
use crate::host::Host;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

const FILE: &str = "backup.json";

/// The last runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Counts adoptions of the repository: whoever has a lower one than the newest run has been replaced.
    pub generation: u64,
    /// The repository that was written last: another one in its place, or none, is not taken for a new beginning.
    pub repository: Option<String>,
    /// Somebody has said that the apps of this host begin empty, whatever a repository has of them.
    #[serde(default)]
    pub begins_anew: bool,
    pub last_start: Option<jiff::Timestamp>,
    /// The last complete run: its id, when its state is from, and what it took.
    pub last_run: Option<String>,
    /// Whose turn it was then: after somebody has taken over, the repository need not have it.
    #[serde(default)]
    pub last_run_generation: u64,
    pub last_success: Option<jiff::Timestamp>,
    pub last_seconds: Option<u64>,
    pub last_bytes: Option<u64>,
    pub last_database_bytes: Option<u64>,
    /// Why the last run failed, or what was left undone behind it.
    pub trouble: Option<String>,
    /// Of `1/28` to `28/28`, which part of the data was read last.
    pub checked_part: u32,
    pub last_prune: Option<jiff::Timestamp>,
}

impl Record {
    pub fn read(host: &Host) -> Result<Record> {
        Ok(kept::read(FILE, host)?.unwrap_or_default())
    }

    pub fn write(&self, host: &Host) -> Result<()> {
        kept::write(FILE, self, host)
    }
}

/// What tells this installation from every other: its machine id (machine-id(5)).
///
/// # Errors
/// There is none.
pub fn machine(host: &Host) -> Result<String> {
    let text = host.read_text("/etc/machine-id", 128)?.unwrap_or_default();
    let id = text.trim();
    let is_one = id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit());
    is_one.then(|| id.to_owned()).context("/etc/machine-id holds no machine id; run: systemd-machine-id-setup")
}

/// Makes this host the one that writes into a repository, after a run of that generation.
pub fn adopt(after: u64, repository: String, host: &Host) -> Result<u64> {
    let record = Record::read(host)?;
    let generation = record.generation.max(after) + 1;
    Record { generation, repository: Some(repository), ..record }.write(host)?;
    Ok(generation)
}

/// Whether a server sets the clock; where systemd cannot say, it is taken for one that is not set.
pub(super) async fn is_clock_synchronised(host: &Host) -> bool {
    host.is_clock_set().await.unwrap_or_else(|error| {
        tracing::debug!("{error:#}");
        false
    })
}
