//! What the last drill came to.

use super::kept;
use crate::host::Host;
use crate::state::Process;
use anyhow::Result;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

const FILE: &str = "drill.json";

/// The last drill.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drill {
    pub at: jiff::Timestamp,
    /// What was tried; empty if it came to nothing.
    pub parts: Vec<Part>,
    /// Why it failed; none: all of it can be restored.
    pub trouble: Option<String>,
    /// The last run of each app that has passed one, whatever came after.
    #[serde(default)]
    pub passed: BTreeMap<String, String>,
    /// When one has passed last.
    #[serde(default)]
    pub last_passed: Option<jiff::Timestamp>,
    pub seconds: u64,
    /// Who makes it, until it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<Process>,
}

/// One app's part of a drill, or the host's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// None: the whole cluster, by its log.
    pub app: Option<String>,
    /// The run or shipment.
    pub run: String,
    pub how: How,
    /// How many files were brought back and compared.
    pub files: usize,
    pub seconds: u64,
}

/// How a database was tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// It was restored, counted, and its indexes checked.
    Restored,
    /// There was no room for that: rows were counted while the dump was read.
    Counted,
    /// There was no room for it.
    NoRoom,
    /// The run has no database.
    None,
}

impl Drill {
    pub fn read(host: &Host) -> Result<Option<Drill>> {
        kept::read(FILE, host)
    }

    /// Whether it has not come to its end yet: what it says of trouble is for whoever finds it cut off.
    pub fn is_running(&self, host: &Host) -> bool {
        self.process.is_some_and(|process| process.lives(host))
    }

    pub(super) fn write(&self, host: &Host) -> Result<()> {
        kept::write(FILE, self, host)
    }
}
