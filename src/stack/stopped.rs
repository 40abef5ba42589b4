//! Containers that somebody stopped by hand (`docker stop`): they stay down until the next start of the appliance. Kept in memory
//! files, so that a supervisor that is replaced knows of them, and a boot forgets them.

use crate::host::{Dir, Host};
use crate::state::RUN;
use crate::value::AppName;
use anyhow::{Context, Result};
use std::collections::BTreeSet;

const BY_HAND: &str = "stopped-by-hand";
/// Containers that have used up the restarts of their `on-failure:COUNT`.
const GIVEN_UP: &str = "given-up";
/// A line is a container's id; far more than a stack may have.
const MAX_BYTES: u64 = 1 << 20;

/// Ids of the containers that somebody stopped.
pub fn read(host: &Host, app: &AppName) -> Result<BTreeSet<String>> {
    read_file(BY_HAND, app, host)
}

/// Remembers these and no others.
pub fn write(ids: &BTreeSet<String>, host: &Host, app: &AppName) -> Result<()> {
    write_file(BY_HAND, ids, app, host).context("could not remember what was stopped by hand")
}

/// Ids of the containers that have used up their restarts.
pub fn given_up(host: &Host, app: &AppName) -> Result<BTreeSet<String>> {
    read_file(GIVEN_UP, app, host)
}

/// Remembers these and no others.
pub fn give_up(ids: &BTreeSet<String>, host: &Host, app: &AppName) -> Result<()> {
    write_file(GIVEN_UP, ids, app, host).context("could not remember what has used up its restarts")
}

/// Forgets both of an app that is no more.
pub fn forget(host: &Host, app: &AppName) -> Result<()> {
    [BY_HAND, GIVEN_UP].iter().try_for_each(|name| host.discard(&path(name, app)))
}

fn path(name: &str, app: &AppName) -> String {
    format!("{RUN}/{name}-{app}")
}

fn read_file(name: &str, app: &AppName, host: &Host) -> Result<BTreeSet<String>> {
    let text = host.read_text(&path(name, app), MAX_BYTES)?.unwrap_or_default();
    Ok(text.lines().map(str::to_owned).collect())
}

fn write_file(name: &str, ids: &BTreeSet<String>, app: &AppName, host: &Host) -> Result<()> {
    if *ids == read_file(name, app, host)? {
        return Ok(());
    }
    host.ensure_dir(RUN, &Dir::plain())?;
    let text: String = ids.iter().map(|id| format!("{id}\n")).collect();
    host.put(&path(name, app), text.as_bytes(), 0o644)
}
