//! What this host remembers of its backups, each in a file of root's.

use crate::host::Host;
use anyhow::{Context, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;

const DIRECTORY: &str = "/data/appliance/host";
const MAX: u64 = 64 << 10;

/// Reads a file, if it is there.
///
/// # Errors
/// It cannot be read, or holds something else.
pub fn read<T: DeserializeOwned>(name: &str, host: &Host) -> Result<Option<T>> {
    let path = format!("{DIRECTORY}/{name}");
    let Some(text) = host.read_text(&path, MAX)? else { return Ok(None) };
    serde_json::from_str(&text).map(Some).with_context(|| format!("{path} is broken; remove it"))
}

/// Writes it, beside and renamed.
pub fn write<T: Serialize>(name: &str, value: &T, host: &Host) -> Result<()> {
    host.put(&format!("{DIRECTORY}/{name}"), serde_json::to_string(value)?.as_bytes(), 0o600)
}
