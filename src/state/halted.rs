//! Which of several apps somebody has stopped until told otherwise, over restarts and reboots.

use super::app_directory;
use crate::host::Host;
use crate::value::AppName;
use anyhow::Result;

/// The file's name in the app's directory: while it exists, the app does not run.
pub const NAME: &str = "halted";

fn path(app: &AppName) -> String {
    format!("{}/{NAME}", app_directory(app))
}

/// Whether the app is not to run.
pub fn is_halted(host: &Host, app: &AppName) -> bool {
    host.exists(&path(app))
}

/// Remembers that the app is not to run.
pub fn halt(host: &Host, app: &AppName) -> Result<()> {
    host.put(&path(app), b"", 0o600)
}

/// Forgets it. Whoever watches for that is told even if there was nothing to forget.
pub fn release(host: &Host, app: &AppName) -> Result<()> {
    halt(host, app)?;
    host.discard(&path(app))
}
