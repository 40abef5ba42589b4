//! Mounting, and swapping on, beside systemd: that does the same with what fstab names as soon as it sees the device, and checks the file
//! system before.

use super::seen;
use super::table::Fstab;
use crate::env::layout::{FsKind, Mount};
use crate::host::{Cmd, Dir, Host};
use crate::value::Device;
use anyhow::{Context, Result};
use std::time::Duration;
use tokio::time::Instant;

/// How long systemd may be busy with a device: the check of a large file system takes its time.
const PATIENCE: Duration = Duration::from_secs(600);
const BETWEEN: Duration = Duration::from_millis(500);

pub async fn mount(mount: &Mount, device: &Device, host: &Host) -> Result<()> {
    let target = mount.target.as_str();
    let uuid = uuid(device, "file system", host).await?;
    if !host.is_directory(target) {
        host.ensure_dir(target, &Dir::plain())?;
    }
    Fstab::of(&uuid, mount).ensure(host).await?;
    let options = Fstab::options(mount);
    let kind = mount.kind.map_or("auto", FsKind::name);
    let cmd = Cmd::new("mount", ["-t", kind, "-o", &options, device.as_str(), target]);
    let real = host.real_path(device.as_str());
    beside_systemd(cmd, async || Ok(seen::mounted(host, target).await? == real), host).await
}

pub async fn swap_on(device: &Device, host: &Host) -> Result<()> {
    let uuid = uuid(device, "swap", host).await?;
    Fstab::swap(&uuid).ensure(host).await?;
    let real = host.real_path(device.as_str());
    let is_on =
        async || Ok(real.as_ref().is_some_and(|real| seen::swaps(host).is_ok_and(|swaps| swaps.contains(real))));
    beside_systemd(Cmd::new("swapon", [device.as_str()]), is_on, host).await
}

async fn uuid(device: &Device, what: &str, host: &Host) -> Result<String> {
    let uuid = seen::block(device, host).await?.uuid;
    uuid.with_context(|| format!("the {what} on {device} has no UUID"))
}

/// Runs a command until it, or systemd, has done it; it is tried again for as long as the device is busy.
async fn beside_systemd(cmd: Cmd, is_done: impl AsyncFn() -> Result<bool>, host: &Host) -> Result<()> {
    let cmd = cmd.deadline(PATIENCE);
    let end = Instant::now() + PATIENCE;
    let mut told = false;
    loop {
        let Err(error) = host.ask(cmd.clone()).await else { return Ok(()) };
        if is_done().await? {
            return Ok(());
        }
        let said = format!("{error:#}");
        // mount(8) and swapon(8), in the words of libmount and of the C library.
        let is_busy = ["mount point busy", "resource busy"].iter().any(|busy| said.to_lowercase().contains(busy));
        if !is_busy || Instant::now() >= end {
            return Err(error);
        }
        if !told {
            tracing::warn!("{said}; trying again for at most {} s", PATIENCE.as_secs());
            told = true;
        }
        tokio::time::sleep(BETWEEN).await;
    }
}
