//! The steps of preparing a host, in their order. What each does is in `prepare/`.

use serde::{Deserialize, Serialize};
use std::fmt;

/// One step. `--step`, the status page, reports and status use the same names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// The env is written to where every other command reads it.
    Env,
    Hostname,
    Ssh,
    Page,
    Storage,
    Vault,
    Files,
    Packages,
    Postgres,
    Database,
    Tls,
    Timer,
    Nginx,
}

impl Step {
    /// Every step, in the order in which they run.
    pub const ALL: [Step; 13] = [
        Step::Env,
        Step::Hostname,
        Step::Ssh,
        Step::Page,
        Step::Storage,
        Step::Vault,
        Step::Files,
        Step::Packages,
        Step::Postgres,
        Step::Database,
        Step::Tls,
        Step::Timer,
        Step::Nginx,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Step::Env => "env",
            Step::Hostname => "hostname",
            Step::Ssh => "ssh",
            Step::Page => "page",
            Step::Storage => "storage",
            Step::Vault => "vault",
            Step::Files => "files",
            Step::Packages => "packages",
            Step::Postgres => "postgres",
            Step::Database => "database",
            Step::Tls => "tls",
            Step::Timer => "timer",
            Step::Nginx => "nginx",
        }
    }

    /// What it is about, for visitors of the status page.
    pub fn title(self) -> &'static str {
        match self {
            Step::Env => "Configuration",
            Step::Hostname => "Host name",
            Step::Ssh => "Access for the operator",
            Step::Page => "This page",
            Step::Storage => "Storage",
            Step::Vault => "Keys of the vault",
            Step::Files => "Files",
            Step::Packages => "Packages",
            Step::Postgres => "Database server",
            Step::Database => "Database",
            Step::Tls => "Certificate",
            Step::Timer => "Updates",
            Step::Nginx => "Web server",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
