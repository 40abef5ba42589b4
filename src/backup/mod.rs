//! Backups: what of the host and its apps goes into a repository of restic's, in runs that count only once their manifest is stored; which
//! runs are kept; and the ways back. When a run is made is systemd's matter (`prepare/timer.rs`).

mod content;
mod key;
mod manifest;
mod record;
pub mod recover;
mod restic;
pub mod restore;
mod run;
mod runs;
mod thin;

pub use key::password;
pub use manifest::Manifest;
pub use record::{Record, adopt, machine};
pub use restic::Restic;
pub use run::{Accept, Outcome, Progress, run};
pub use runs::{Found, Run, runs};

/// Where what can be had again lies: restic's cache, and the host keys of targets.
pub(crate) const CACHE: &str = "/var/lib/appliance/backup";
