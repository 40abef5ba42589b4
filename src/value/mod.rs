//! Checked values: once one of these exists, nothing downstream validates it again.
//! Pure; no effects and no knowledge of env.yml's layout.

pub mod amount;
mod authority;
mod backup_target;
pub mod certificate;
mod channel;
mod device;
mod git;
mod image;
mod names;
mod phase;
mod route;
pub mod rule;
mod secret;
mod ssh_key;
mod stage;
mod step;
mod tenant;

pub use authority::{ClientAuthority, blocks as pem_blocks, check_chain};
pub use backup_target::{BackupTarget, KNOWN_HOSTS as BACKUP_KNOWN_HOSTS};
pub use channel::{ChannelName, MailServer, QuietHours, WebhookFormat};
pub use device::{Device, FileSystemRef, PartName, Position, Size, VolumeName};
pub use git::{Commit, GitRef, GitUrl};
pub use image::PinnedImage;
pub use names::{
    AbsPath, AppName, Calendar, DatabaseName, Domain, Email, FileMode, FileSystemType, HostPattern, Invalid, Owner,
    PackageName, ServiceName, UnstoredPath, WebUrl,
};
pub use phase::{Event, Phase};
pub use route::{BRIDGE_ADDRESS, Route, bridge_of};
pub use rule::{Rule, RuleLimits, Severity};
pub use secret::Secret;
pub use ssh_key::{KnownHost, SigningKey, SshKey};
pub use stage::Stage;
pub use step::Step;
pub use tenant::Tenant;
