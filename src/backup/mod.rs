//! Backups: what of the host and its apps goes into a repository of restic's, in runs that count only once their manifest is stored; which
//! runs are kept; and the ways back. When a run is made is systemd's matter (`prepare/timer.rs`).

mod base;
pub mod beginning;
mod content;
mod drill;
mod drilled;
mod fetched;
mod kept;
mod key;
mod manifest;
mod open;
mod point;
mod rebase;
mod record;
pub mod recover;
mod restic;
pub mod restore;
pub mod rewind;
mod room;
mod run;
mod runs;
mod sample;
mod scratch;
mod ship;
mod shipping;
mod thin;
mod told;
mod upkeep;
mod wal;

pub use drill::drill;
pub use drilled::{Drill, How};
pub use fetched::{Fetched, Purpose};
pub use key::password;
pub use manifest::Manifest;
pub use open::Accept;
pub use point::shipped_files;
pub use record::{Record, adopt, machine};
pub use restic::Restic;
pub use run::{Outcome, run};
pub use runs::{Found, Run, runs};
pub use ship::{PAUSE, Shipped, ship};
pub use shipping::Shipping;

/// Where what can be had again lies: restic's cache, and the host keys of targets.
pub(crate) const CACHE: &str = "/var/lib/appliance/backup";

/// Tells what is done now.
pub type Progress<'a> = &'a (dyn Fn(&str) + Sync);
