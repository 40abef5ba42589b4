//! What is being made right now, by the UUID that it will carry: written before it is begun, taken back once it is on the disk. What a
//! killed run left half-made is known by it, and is nobody's data.

use crate::host::Host;
use crate::value::Device;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

const FILE: &str = "/var/lib/appliance/storage.json";
const MAX: u64 = 1 << 16;

/// Something that is made on a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    pub device: Device,
    /// Empty: its file system is being grown, and stays.
    pub uuid: String,
}

impl Made {
    /// Whether what carries this UUID is what was being made. Tools write one UUID in different ways.
    pub fn is(&self, uuid: &str) -> bool {
        let digits = |text: &str| text.chars().filter(char::is_ascii_hexdigit).collect::<String>().to_ascii_lowercase();
        !self.uuid.is_empty() && digits(&self.uuid) == digits(uuid)
    }
}

pub fn read(host: &Host) -> Result<Option<Made>> {
    let Some(text) = host.read_text(FILE, MAX)? else { return Ok(None) };
    serde_json::from_str(&text)
        .map(Some)
        .with_context(|| format!("{FILE} is not what the appliance has written; remove it"))
}

pub fn announce(made: &Made, host: &Host) -> Result<()> {
    let text = serde_json::to_string(made).context("a device and a UUID can be written")?;
    host.put(FILE, text.as_bytes(), 0o600)
}

/// Nothing is being made any more: what was is there, or nothing of it is.
pub fn settle(host: &Host) -> Result<()> {
    if host.exists(FILE) { done(host) } else { Ok(()) }
}

pub fn done(host: &Host) -> Result<()> {
    host.discard(FILE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_is_the_same_in_every_tools_spelling() {
        let device: Device = "/dev/vdb".parse().expect("it is a device");
        let made = Made { device, uuid: "0A1B2C3D-0000-4000-8000-000000000001".into() };
        assert!(made.is("0a1b2c3d:00004000:80000000:00000001"));
        assert!(!made.is("0a1b2c3d:00004000:80000000:00000002"));
    }
}
