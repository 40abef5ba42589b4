//! The root partition and its file system grow to the end of their disk (`appliance.storage.grow_root`).

use super::made::{self, Made};
use crate::host::{Cmd, Host, What};
use crate::value::{Device, Size};
use anyhow::{Context, Result, bail};
use std::time::Duration;

/// How long growing a file system may take.
const GROWING: Duration = Duration::from_secs(1800);
/// Less room than this behind the partition is not worth anything, in bytes: a GPT keeps a copy of itself there.
const WORTH: u64 = 16 << 20;
const SECTOR: u64 = 512;
/// It knows every file system that grows while it is mounted.
const GROWFS: &str = "/lib/systemd/systemd-growfs";

pub async fn prepare(host: &Host) -> Result<()> {
    let root = host.ask(Cmd::new("findmnt", ["--noheadings", "--nofsroot", "--output", "SOURCE", "/"])).await?;
    let Some(device) = host.real_path(root.stdout.trim()) else { return Ok(()) };
    let name = device.trim_start_matches("/dev/").to_owned();
    let number = |file: &str| -> Result<Option<u64>> {
        let text = host.read_text(&format!("/sys/class/block/{name}/{file}"), 64)?;
        Ok(text.and_then(|text| text.trim().parse().ok()))
    };
    // Not a partition: a file system of something else, which grows by its own means.
    let Some(partition) = number("partition")? else { return Ok(()) };
    let (start, size) = (number("start")?.unwrap_or(0), number("size")?.unwrap_or(0));
    let Some(disk) =
        host.real_path(&format!("/sys/class/block/{name}")).and_then(|path| path.rsplit('/').nth(1).map(str::to_owned))
    else {
        bail!("{device} is a partition of no disk");
    };
    let whole = host.read_text(&format!("/sys/class/block/{disk}/size"), 64)?.unwrap_or_default();
    let whole: u64 = whole.trim().parse().with_context(|| format!("the kernel tells no size of {disk}"))?;
    let free = whole.saturating_sub(start + size) * SECTOR;
    let own: Device = device.parse().map_err(|_| anyhow::anyhow!("{device} is no device"))?;
    let begun = made::read(host)?.is_some_and(|making| making.uuid.is_empty() && making.device == own);
    let is_last = is_last(&disk, start, host)?;
    if !begun && (free < WORTH || !is_last) {
        return Ok(());
    }
    host.note_act(What::Disk, &device, &format!("grow by {}, its file system too", Size(free.max(1))));
    if !host.applies() {
        return Ok(());
    }
    made::announce(&Made { device: own, uuid: String::new() }, host)?;
    if free >= WORTH && is_last {
        let disk = format!("/dev/{disk}");
        // Mounted, so the kernel is told by itself; a GPT's copy moves to the new end.
        let args = ["--quiet", "--force", "--no-reread", "-N", &partition.to_string(), &disk].map(str::to_owned);
        host.ask(Cmd::new("sfdisk", args).input(", +\n")).await.context("could not grow the root partition")?;
        host.ask(Cmd::new("partx", ["--update", "--nr", &partition.to_string(), &disk])).await?;
    }
    host.ask(Cmd::new(GROWFS, ["/"]).deadline(GROWING)).await.context("could not grow the root file system")?;
    made::done(host)
}

/// Whether no partition lies behind the one that begins there.
fn is_last(disk: &str, start: u64, host: &Host) -> Result<bool> {
    for name in host.names(&format!("/sys/class/block/{disk}"))? {
        let text = host.read_text(&format!("/sys/class/block/{disk}/{name}/start"), 64)?;
        let is_partition = host.exists(&format!("/sys/class/block/{disk}/{name}/partition"));
        if is_partition && text.and_then(|text| text.trim().parse::<u64>().ok()).is_some_and(|other| other > start) {
            return Ok(false);
        }
    }
    Ok(true)
}
