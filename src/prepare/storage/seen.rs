//! What the block devices that a layout speaks of carry, as the tools of Linux tell it. What follows from it is `plan.rs`.

use super::made::Made;
use crate::env::layout::Layout;
use crate::host::{Cmd, Drive, Host};
use crate::value::{Device, Size};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Everything that a plan needs to know.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// The devices that are there, by the path that the layout calls them.
    pub blocks: BTreeMap<Device, Block>,
    /// The path that the kernel calls them.
    pub real: BTreeMap<Device, String>,
    /// The level of those that are RAIDs.
    pub raids: BTreeMap<Device, String>,
    /// LVM's physical volumes by the kernel's path, and their group, empty for none.
    pub physical: BTreeMap<String, String>,
    pub groups: BTreeMap<String, Group>,
    /// By group and name.
    pub volumes: BTreeMap<(String, String), Volume>,
    /// File systems anywhere on this host.
    pub drives: Vec<Drive>,
    /// What is mounted where the layout mounts something: the kernel's path of the device, or another source.
    pub mounted: BTreeMap<String, String>,
    /// The kernel's paths of the devices that are swapped to.
    pub swaps: BTreeSet<String>,
    /// What this host was about to make when it was last heard of.
    pub making: Option<Made>,
}

/// A block device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    pub size: Size,
    pub content: Content,
    /// The UUID of what it carries.
    pub uuid: Option<String>,
}

/// What a block device carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    Nothing,
    Table {
        /// `gpt` or `dos`.
        kind: String,
        parts: Vec<Extent>,
    },
    /// A file system, or a member of something.
    Signature {
        kind: String,
        label: Option<String>,
    },
    /// More than one thing at once, which nobody can tell apart.
    Ambiguous,
    /// Not known before something else was opened.
    Unknown,
}

/// From where to where a partition goes, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    pub number: usize,
    pub start: u64,
    pub end: u64,
}

/// A group of LVM's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Group {
    pub size: Size,
    pub free: u64,
    pub extent: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Volume {
    pub size: Size,
    pub is_active: bool,
}

/// How long looking at every disk may take: one of them may be busy with putting a RAID in order.
pub const LOOKING: Duration = Duration::from_secs(60);

/// Looks at everything.
pub async fn look(layout: &Layout, host: &Host) -> Result<Seen> {
    let mut seen = Seen { making: super::made::read(host)?, drives: host.drives(LOOKING).await?, ..Seen::default() };
    for drive in &mut seen.drives {
        drive.device = host.real_path(&drive.device).unwrap_or_else(|| drive.device.clone());
    }
    for device in devices(layout) {
        let Some(real) = host.real_path(device.as_str()) else { continue };
        let block = block(&device, host).await?;
        // A RAID that was stopped leaves its name with nothing behind it.
        if block.size.0 > 0 {
            seen.blocks.insert(device.clone(), block);
            seen.real.insert(device, real);
        }
    }
    for raid in &layout.raids {
        let Some(content) = seen.blocks.get(&raid.device).map(|block| block.content.clone()) else { continue };
        let detail = host.try_ask(Cmd::new("mdadm", ["--detail", "--export", raid.device.as_str()])).await?;
        if let Some(level) = detail.stdout.lines().find_map(|line| line.strip_prefix("MD_LEVEL=raid")) {
            seen.raids.insert(raid.device.clone(), level.to_owned());
        } else if content == Content::Nothing {
            // A name that nothing runs behind any more, or not yet.
            seen.blocks.remove(&raid.device);
        }
    }
    if !(layout.physical.is_empty() && layout.groups.is_empty() && layout.volumes.is_empty()) {
        look_at_lvm(&mut seen, host).await?;
    }
    for mount in &layout.mounts {
        let target = mount.target.as_str();
        if let Some(source) = mounted(host, target).await? {
            seen.mounted.insert(target.to_owned(), source);
        }
    }
    seen.swaps = swaps(host)?;
    Ok(seen)
}

/// What is swapped to, by the kernel's paths.
pub fn swaps(host: &Host) -> Result<BTreeSet<String>> {
    let swaps = host.read_text("/proc/swaps", 1 << 20)?.unwrap_or_default();
    let active = swaps.lines().skip(1).filter_map(|line| line.split_whitespace().next());
    Ok(active.filter_map(|path| host.real_path(path)).collect())
}

/// What is mounted there: the kernel's path of the device, or another source.
pub async fn mounted(host: &Host, target: &str) -> Result<Option<String>> {
    let look = Cmd::new("findmnt", ["--noheadings", "--nofsroot", "--output", "SOURCE", "--mountpoint", target]);
    let found = host.try_ask(look).await?;
    // Mounted twice, the last one counts.
    let source = found.stdout.lines().last().map(str::trim).filter(|_| found.code == Some(0));
    Ok(source.map(|source| host.real_path(source).unwrap_or_else(|| source.to_owned())))
}

/// Every device that a layout speaks of.
fn devices(layout: &Layout) -> BTreeSet<Device> {
    let mut all = BTreeSet::new();
    for table in &layout.tables {
        all.insert(table.disk.clone());
        all.extend((1..=table.parts.len()).map(|number| table.disk.partition(number)));
    }
    for raid in &layout.raids {
        all.insert(raid.device.clone());
        all.extend(raid.members.iter().cloned());
    }
    for crypt in &layout.crypts {
        all.extend([crypt.device.clone(), Device::mapped(&crypt.target)]);
    }
    all.extend(layout.physical.iter().cloned());
    all.extend(layout.groups.iter().flat_map(|group| group.devices.iter().cloned()));
    for volume in &layout.volumes {
        all.extend(Device::logical(&volume.group, &volume.name));
    }
    all.extend(layout.formats.iter().map(|format| format.device.clone()));
    all.extend(layout.mounts.iter().filter_map(|mount| match &mount.source {
        crate::value::FileSystemRef::Device(device) => Some(device.clone()),
        _ => None,
    }));
    all.extend(layout.swaps.iter().cloned());
    all
}

/// What one device carries, read from the device itself, past every cache.
pub async fn block(device: &Device, host: &Host) -> Result<Block> {
    let real = host.real_path(device.as_str()).unwrap_or_default();
    let name = real.rsplit('/').next().unwrap_or_default();
    // In sectors of 512 bytes, whatever the device's own are.
    let sectors = host.read_text(&format!("/sys/class/block/{name}/size"), 64)?;
    let sectors = sectors.and_then(|text| text.trim().parse::<u64>().ok());
    let size = Size(sectors.with_context(|| format!("{device} is no block device"))? * 512);
    if size.0 == 0 {
        return Ok(Block { size, content: Content::Nothing, uuid: None });
    }
    let probe = host.try_ask(Cmd::new("blkid", ["--probe", "--output", "export", device.as_str()])).await?;
    let field = |name: &str| probe.stdout.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    let owned = |name: &str| field(name).map(str::to_owned);
    let (content, uuid) = match probe.code {
        Some(0) => match (field("TYPE"), field("PTTYPE")) {
            (Some(kind), _) => (Content::Signature { kind: kind.to_owned(), label: owned("LABEL") }, owned("UUID")),
            (None, Some(_)) => (table(device, host).await?, owned("PTUUID")),
            // Its place in a table that it is itself a part of is told too.
            (None, None) => (Content::Nothing, None),
        },
        Some(2) => (Content::Nothing, None),
        Some(8) => (Content::Ambiguous, None),
        code => bail!("blkid could not look at {device} ({}): {}", code.unwrap_or(-1), probe.stderr.trim()),
    };
    Ok(Block { size, content, uuid })
}

async fn table(disk: &Device, host: &Host) -> Result<Content> {
    let told = host.ask(Cmd::new("sfdisk", ["--json", disk.as_str()])).await?;
    let told: Value = serde_json::from_str(&told.stdout).with_context(|| format!("sfdisk tells no JSON of {disk}"))?;
    parse_table(&told["partitiontable"]).with_context(|| format!("sfdisk tells something else of {disk}"))
}

fn parse_table(table: &Value) -> Option<Content> {
    let sector = table["sectorsize"].as_u64().unwrap_or(512);
    let part = |part: &Value| {
        let number = part["node"].as_str()?.rsplit(|c: char| !c.is_ascii_digit()).next()?.parse().ok()?;
        let start = part["start"].as_u64()?.checked_mul(sector)?;
        Some(Extent { number, start, end: start.checked_add(part["size"].as_u64()?.checked_mul(sector)?)? })
    };
    let parts = table["partitions"].as_array().map(|all| all.iter().map(part).collect::<Option<Vec<_>>>());
    Some(Content::Table { kind: table["label"].as_str()?.to_owned(), parts: parts.unwrap_or(Some(Vec::new()))? })
}

async fn look_at_lvm(seen: &mut Seen, host: &Host) -> Result<()> {
    let rows = |tool: &'static str, columns: &'static str| async move {
        let options = ["--reportformat", "json", "--units", "b", "--nosuffix", "--options", columns];
        // Without the tool there is nothing of LVM's; it is installed before anything is made.
        if !host.exists("/sbin/lvm") && !host.exists("/usr/sbin/lvm") {
            return Ok(Vec::new());
        }
        let told = host.ask(Cmd::new(tool, options)).await?;
        let told: Value = serde_json::from_str(&told.stdout).with_context(|| format!("{tool} tells no JSON"))?;
        let rows = told["report"][0].as_object().and_then(|report| report.values().next()?.as_array().cloned());
        rows.with_context(|| format!("{tool} tells something else"))
    };
    let text = |row: &Value, name: &str| row[name].as_str().unwrap_or_default().to_owned();
    let number = |row: &Value, name: &str| row[name].as_str().and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    for row in rows("pvs", "pv_name,vg_name").await? {
        let name = text(&row, "pv_name");
        seen.physical.insert(host.real_path(&name).unwrap_or(name), text(&row, "vg_name"));
    }
    for row in rows("vgs", "vg_name,vg_size,vg_free,vg_extent_size").await? {
        let group = Group {
            size: Size(number(&row, "vg_size")),
            free: number(&row, "vg_free"),
            extent: number(&row, "vg_extent_size"),
        };
        seen.groups.insert(text(&row, "vg_name"), group);
    }
    for row in rows("lvs", "vg_name,lv_name,lv_size,lv_active").await? {
        let volume = Volume { size: Size(number(&row, "lv_size")), is_active: text(&row, "lv_active") == "active" };
        seen.volumes.insert((text(&row, "vg_name"), text(&row, "lv_name")), volume);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn partitions_are_taken_from_sfdisks_table() {
        let told = json!({"label": "gpt", "sectorsize": 512, "partitions": [
            {"node": "/dev/nvme0n1p2", "start": 2048, "size": 2048, "type": "x"}]});
        let part = Extent { number: 2, start: 1 << 20, end: 2 << 20 };
        assert_eq!(parse_table(&told), Some(Content::Table { kind: "gpt".into(), parts: vec![part] }));
        assert_eq!(parse_table(&json!({"label": "dos"})), Some(Content::Table { kind: "dos".into(), parts: vec![] }));
        assert_eq!(
            parse_table(&json!({"label": "gpt", "partitions": [{"node": "/dev/x", "start": 1, "size": 1}]})),
            None
        );
    }
}
