//! Releases of the app: making one (fetch, build), putting it in the place of the one that runs, going back. Bringing containers up is
//! `stack/`, supervising them `supervise/`.
//!
//! `run.rs` is the order of an update's stages, `decide.rs` whether there is anything to do (`ahead.rs` tells that beforehand), `room.rs` whether there is room for it,
//! `release.rs` makes a release (`git/` and `image.rs` are its parts;
//! `leftover.rs` takes away images that none needs), `databases.rs`, `dump.rs` and `restore.rs` (with `archive.rs` for somebody else's dump) are the
//! database's way back, `gate.rs` asks whether a release is good, `switch.rs` sends visitors over, `undo.rs` goes back and finishes what a
//! killed update left, `rollback.rs` is going back by hand, `packages.rs` the host's own packages, `major.rs` (with
//! `transfer.rs`) another major version of PostgreSQL.

mod ahead;
pub mod archive;
mod blame;
mod claims;
mod copies;
mod creation;
mod databases;
mod decide;
pub mod dump;
mod gate;
mod git;
mod image;
mod leftover;
mod major;
mod packages;
mod release;
mod removal;
pub mod restore;
mod rollback;
mod room;
mod run;
mod switch;
mod transfer;
mod undo;

pub use ahead::{plan, runs_with_another};
pub use archive::ResetFrom;
pub use claims::refuse_conflicts;
pub use decide::{Waiting, Wish};
pub use gate::probes;
pub use git::{Difference, NotFetched, difference};
pub use leftover::clean_up;
pub use major::{back, clusters, forget, kept, upgrade, upgrade_waiting};
pub use packages::{Upgrade, Upgraded, upgrade_all, waiting as waiting_packages};
pub use release::{Built, ensure_images, first, migrate, references, restore_checkout};
pub use removal::{Extent, KEPT as REMOVED, remove};
pub use rollback::{Back, rollback};
pub use room::for_dump as room_for_dump;
pub use run::{Outcome, check, update};
pub use undo::{Recovered, is_to_run, recover, recover_locked};

pub use copies::settle_soon;

use crate::state::app_directory;
use crate::value::{AppName, Stage};

/// Where an update writes: what one that was killed there left beside its files is taken away.
pub fn writes(app: &AppName) -> Vec<String> {
    let fixed = [
        "/app/etc/tags",
        "/etc/nginx/conf.d",
        "/run/appliance",
        "/run/appliance/bridged",
        "/var/lib/appliance/git",
        "/var/www/html",
    ];
    fixed.map(str::to_owned).into_iter().chain([app_directory(app), dump::directory(app)]).collect()
}

/// What happens in an update, for whoever shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpdateEvent<'a> {
    /// A stage begins.
    Stage(Stage),
    /// A part of it, for people.
    Doing(&'a str),
    /// From now on visitors see the status page.
    Page,
    /// From now on visitors reach the app.
    Served,
}

/// Where that is shown.
#[derive(Clone, Copy)]
pub struct Reporter<'a>(pub &'a (dyn Fn(UpdateEvent<'_>) + Sync));

impl Reporter<'_> {
    fn stage(self, stage: Stage) {
        (self.0)(UpdateEvent::Stage(stage));
    }

    fn doing(self, what: &str) {
        (self.0)(UpdateEvent::Doing(what));
    }
}

#[cfg(test)]
pub mod walk;
