//! Which cluster is in use, which one is kept from before an upgrade, and what is being changed about them. Written before the change.

use super::cluster::Id;
use crate::host::Host;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

const FILE: &str = "/var/lib/appliance/postgres.json";
const MAX: u64 = 1 << 16;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub in_use: Option<Id>,
    /// What an upgrade, or going back from one, has left: stopped, and whole.
    pub kept: Option<Id>,
    pub change: Option<Change>,
}

/// What is under way. Killed in between, the next run undoes or finishes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// A new one is made; what there is of it is nobody's data. Undone.
    Create { id: Id },
    /// Data that is there gets a configuration. Undone: the configuration goes, the data stays.
    Adopt { id: Id },
    /// The data of the one in use is copied into a new one. Undone: the new one goes.
    Copy { to: Id, port: u16 },
    /// The copy is good, and the app is being tried on it. Undone as long as the ledger has it in flight: the one before comes back, and
    /// the copy is kept. From then on it is finished.
    Trial {
        from: Id,
        port: u16,
        /// The ledger's entry that the trial belongs to: when the app was stopped for it.
        #[serde(default)]
        since: Option<jiff::Timestamp>,
    },
    /// The other one takes the place of the one in use. Finished.
    Swap { to: Id, port: u16 },
    /// One that is no longer needed is removed. Finished.
    Drop { id: Id },
}

pub fn read(host: &Host) -> Result<Record> {
    let Some(text) = host.read_text(FILE, MAX)? else { return Ok(Record::default()) };
    serde_json::from_str(&text).with_context(|| {
        format!("{FILE} is not what the appliance has written; it says which PostgreSQL cluster is in use")
    })
}

/// Bookkeeping: it is not noted, and in check mode not done.
pub fn write(record: &Record, host: &Host) -> Result<()> {
    if !host.applies() || read(host)? == *record {
        return Ok(());
    }
    let text = serde_json::to_string(record).context("versions and names can be written")?;
    host.put(FILE, text.as_bytes(), 0o600)
}
