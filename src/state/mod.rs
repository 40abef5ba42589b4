//! What the appliance remembers: the failed flag, the lock, the envs that were active, the ledger, its status. Each is one small file.

pub mod flags;
pub mod history;
pub mod ledger;
pub mod lock;
pub mod status;

pub use ledger::{Attempt, InFlight, Ledger, Release, Touched};
pub use lock::{LOCKS, Lock};
pub use status::{ServiceStatus, Status, StepState, StepStatus};

/// Where the running appliance keeps what does not outlive a boot.
pub const RUN: &str = "/run/appliance";
