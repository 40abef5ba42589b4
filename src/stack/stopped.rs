//! Containers that somebody stopped by hand (`docker stop`): they stay down until the next start of the appliance. Kept in memory
//! files, so that a supervisor that is replaced knows of them, and a boot forgets them.

use crate::host::{Dir, Host};
use crate::state::RUN;
use anyhow::{Context, Result};
use std::collections::BTreeSet;

const FILE: &str = "stopped-by-hand";
/// A line is a container's id; far more than a stack may have.
const MAX_BYTES: u64 = 1 << 20;

fn path() -> String {
    format!("{RUN}/{FILE}")
}

/// Ids of the containers.
pub fn read(host: &Host) -> Result<BTreeSet<String>> {
    let text = host.read_text(&path(), MAX_BYTES)?.unwrap_or_default();
    Ok(text.lines().map(str::to_owned).collect())
}

/// Remembers these and no others.
pub fn write(ids: &BTreeSet<String>, host: &Host) -> Result<()> {
    if *ids == read(host)? {
        return Ok(());
    }
    host.ensure_dir(RUN, &Dir::plain())?;
    let text: String = ids.iter().map(|id| format!("{id}\n")).collect();
    host.put(&path(), text.as_bytes(), 0o644).context("could not remember what was stopped by hand")
}
