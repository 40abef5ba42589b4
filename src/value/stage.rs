//! The stages of making a release current (docs/updates.md). What each does is in `update/`.

use serde::{Deserialize, Serialize};
use std::fmt;

/// One stage. The ledger, the status page and reports use the same names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    Fetch,
    Build,
    Dump,
    Migrate,
    Start,
    Gate,
    /// From here on the new release is the current one.
    Switch,
    /// Back to the old release.
    Undo,
    /// The host's packages, for which the app is stopped.
    Packages,
}

impl Stage {
    /// The stages of an update that goes well, in the order in which they come.
    pub const ALL: [Stage; 7] =
        [Stage::Fetch, Stage::Build, Stage::Dump, Stage::Migrate, Stage::Start, Stage::Gate, Stage::Switch];

    pub fn name(self) -> &'static str {
        match self {
            Stage::Fetch => "fetch",
            Stage::Build => "build",
            Stage::Dump => "dump",
            Stage::Migrate => "migrate",
            Stage::Start => "start",
            Stage::Gate => "gate",
            Stage::Switch => "switch",
            Stage::Undo => "undo",
            Stage::Packages => "packages",
        }
    }

    /// What it is about, for visitors of the status page.
    pub fn title(self) -> &'static str {
        match self {
            Stage::Fetch => "Getting the new version",
            Stage::Build => "Building it",
            Stage::Dump => "Keeping a copy of the data",
            Stage::Migrate => "Moving the data over",
            Stage::Start => "Starting it",
            Stage::Gate => "Trying it out",
            Stage::Switch => "Putting it in place",
            Stage::Undo => "Going back to the old version",
            Stage::Packages => "Updating the host",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
