//! Whether there is room for what is to be fetched.

use crate::host::Host;
use anyhow::{Result, bail};

/// What a file system keeps free beside what is fetched, in bytes.
const SPARE: u64 = 256 << 20;

/// # Errors
/// The file system that a path is on, or will be, has not so much room.
pub(super) fn refuse_too_little(path: &str, bytes: u64, host: &Host) -> Result<()> {
    let mut at = path;
    while !host.exists(at) {
        at = at.rsplit_once('/').map_or("/", |(parent, _)| if parent.is_empty() { "/" } else { parent });
    }
    let Some(room) = host.room(at)? else { return Ok(()) };
    let needed = bytes + SPARE;
    if room.free < needed {
        bail!("{path} would need {} MB, and {} MB are free there; nothing was done", needed >> 20, room.free >> 20);
    }
    Ok(())
}

/// How much more a file system takes, beside what it keeps free; `None`: there is no such directory.
pub(super) fn spare(path: &str, host: &Host) -> Result<Option<u64>> {
    Ok(host.room(path)?.map(|room| room.free.saturating_sub(SPARE)))
}
