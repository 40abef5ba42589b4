//! The stages of making a release current (spec/update.md). What each does is in `update/`.

use serde::{Deserialize, Serialize};
use std::fmt;

/// One stage. The ledger, the status page and reports use the same names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    Fetch,
    Build,
    Migrate,
    Start,
    Gate,
}

impl Stage {
    /// Every stage, in the order in which they come.
    pub const ALL: [Stage; 5] = [Stage::Fetch, Stage::Build, Stage::Migrate, Stage::Start, Stage::Gate];

    pub fn name(self) -> &'static str {
        match self {
            Stage::Fetch => "fetch",
            Stage::Build => "build",
            Stage::Migrate => "migrate",
            Stage::Start => "start",
            Stage::Gate => "gate",
        }
    }

    /// What it is about, for visitors of the status page.
    pub fn title(self) -> &'static str {
        match self {
            Stage::Fetch => "Getting the new version",
            Stage::Build => "Building it",
            Stage::Migrate => "Moving the data over",
            Stage::Start => "Starting it",
            Stage::Gate => "Trying it out",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
