//! What the appliance remembers: the failed flag, the lock, the envs that were active, the ledger, its status. Each is one small file.

pub mod flags;
pub mod halted;
pub mod history;
pub mod ledger;
pub mod lock;
pub mod moved;
mod process;
pub mod pulled;
pub mod recovering;
pub mod status;

pub use ledger::{Attempt, InFlight, Ledger, Release, Touched};
pub use lock::{
    AlertLock, AuthorityLock, BackupLock, CheckoutLock, DrillLock, HostLock, OrderLock, ShipLock, StackLock,
    UpdateLock, locks_of,
};
pub use process::Process;
pub use status::{ServiceStatus, Status, StepState, StepStatus};

/// Where an app's own state lies: what root trusts about it, and nobody else can write.
pub fn app_directory(app: &crate::value::AppName) -> String {
    format!("{DIRECTORY}/apps/{app}")
}

/// The files of the commit that is checked out, as root has them: a link.
pub fn source_directory(app: &crate::value::AppName) -> String {
    format!("{}/source", app_directory(app))
}

/// The appliance's own state, which outlives a boot. Root's alone.
pub const DIRECTORY: &str = "/data/appliance";

/// ACME accounts, the certificate that was issued last, and what was tried last.
pub const ACME: &str = "/data/appliance/host/acme";

/// Where the running appliance keeps what does not outlive a boot.
pub const RUN: &str = "/run/appliance";
