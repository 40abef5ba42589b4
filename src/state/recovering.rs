//! The mark of a recovery from a backup that has begun and is not done: until then the host holds half of what it shall, and no app starts.

use super::DIRECTORY;
use crate::error::Halt;
use crate::host::Host;
use anyhow::Result;

fn mark() -> String {
    format!("{DIRECTORY}/host/recovering")
}

/// Whether one has begun.
pub fn is_under_way(host: &Host) -> bool {
    host.exists(&mark())
}

/// Before anything is put in place.
pub fn begin(host: &Host) -> Result<()> {
    host.put(&mark(), b"", 0o600)
}

/// Everything is in place.
pub fn end(host: &Host) -> Result<()> {
    host.discard(&mark())
}

/// # Errors
/// One has begun: [`Halt`], with what to do.
pub fn refuse(host: &Host) -> Result<()> {
    if is_under_way(host) {
        let text = "it was cut off, or is at work; run it again: appliance backup recover";
        return Err(Halt::standby("A recovery from the backup is not done", text).into());
    }
    Ok(())
}
