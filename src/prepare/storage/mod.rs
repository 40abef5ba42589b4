//! Step storage: disks and volumes as `appliance.storage` asks for, then `/data` and `/volatile` with their directories.

mod directories;
mod grow;
mod made;
mod make;
mod mounting;
mod plan;
mod relocate;
mod seen;
mod table;

use crate::env::Env;
use crate::env::layout::{Layout, Mount};
use crate::host::{Cmd, Host};
use crate::value::{AbsPath, FileSystemRef};
use anyhow::{Context, Result, bail};
use plan::Act;
use std::fmt;
use std::time::Duration;

/// How often the disks are looked at: once, once more for each kind of thing that is opened, and with room for what was half-made.
const MOST_ROUNDS: usize = 10;

pub async fn prepare(env: &Env, host: &Host) -> Result<()> {
    if env.appliance.storage.grow_root {
        grow::prepare(host).await?;
    }
    let missing = missing(env, host).await?;
    if missing.is_some() || !directories::are_there(env, host) {
        match set_up(env, host).await {
            Ok(()) => {}
            // A disk that is not there may come.
            Err(error) => return Err(with_volumes(error, missing)),
        }
    }
    // In check mode nothing was mounted; what would be missing is told by what would be done.
    if host.applies()
        && missing.is_some()
        && let Some(missing) = self::missing(env, host).await?
    {
        return Err(missing.into());
    }
    directories::make(env, host).await?;
    relocate::prepare(env, host).await
}

fn with_volumes(error: anyhow::Error, missing: Option<VolumeMissing>) -> anyhow::Error {
    match (error.downcast_ref::<DeviceMissing>(), missing) {
        (Some(devices), Some(missing)) => VolumeMissing { devices: devices.0.clone(), ..missing }.into(),
        _ => error,
    }
}

/// Whether a volume that is missing could be mounted now.
pub async fn can_be_mounted(env: &Env, host: &Host) -> bool {
    let look = host.in_mode(crate::host::Mode::Check);
    set_up(env, &look).await.is_ok() && !look.journal().is_empty()
}

/// Does what the layout asks for, and mounts the volumes.
async fn set_up(env: &Env, host: &Host) -> Result<()> {
    let mut layout = env.appliance.storage.setup.clone().unwrap_or_default();
    mount_volumes(&mut layout, env, host).await?;
    host.ensure_packages(&tools(&layout)).await?;
    for round in 0..MOST_ROUNDS {
        let acts = decide(&layout, host).await?;
        if round == 0 {
            assert_keys(&acts, host).await?;
        }
        if acts.is_empty() {
            return if host.applies() { made::settle(host) } else { Ok(()) };
        }
        // Each looks once more at what it writes on.
        for act in &acts {
            make::make(act, host).await?;
        }
        if !host.applies() {
            return Ok(());
        }
        // What was opened shows what lies in it, and what else is to be done.
    }
    bail!("the layout does not come to an end after {MOST_ROUNDS} looks at the disks")
}

async fn decide(layout: &Layout, host: &Host) -> Result<Vec<Act>> {
    let seen = seen::look(layout, host).await.context("could not look at the disks")?;
    plan::plan(layout, &seen).map_err(|problems| match problems.others.is_empty() {
        true => DeviceMissing(problems.missing).into(),
        false => anyhow::anyhow!("{}", [problems.others, problems.missing].concat().join("\n")),
    })
}

/// Volumes that are there by their label, but not mounted, are: also without a word about it in the layout.
async fn mount_volumes(layout: &mut Layout, env: &Env, host: &Host) -> Result<()> {
    let drives = host.drives(seen::LOOKING).await?;
    for (target, label, ignored) in volumes(env) {
        let is_asked = layout.mounts.iter().any(|mount| mount.target.as_str() == target);
        let is_made = layout.formats.iter().any(|format| plan::label(&format.options).as_deref() == Some(label));
        if !ignored && !is_asked && (is_made || drives.iter().any(|drive| drive.label == label)) {
            let target: AbsPath = target.parse().context("a volume's directory is a path")?;
            let source = FileSystemRef::Label(label.to_owned());
            layout.mounts.push(Mount { target, source, kind: None, options: Vec::new() });
        }
    }
    Ok(())
}

/// The packages that hold the programs for a layout.
fn tools(layout: &Layout) -> Vec<&'static str> {
    let lvm = !(layout.physical.is_empty() && layout.groups.is_empty() && layout.volumes.is_empty());
    let kinds: Vec<&str> = layout.formats.iter().map(|format| format.kind.name()).collect();
    let all = [
        ("fdisk", !layout.tables.is_empty()),
        ("mdadm", !layout.raids.is_empty()),
        ("cryptsetup-bin", !layout.crypts.is_empty()),
        ("lvm2", lvm),
        ("e2fsprogs", kinds.iter().any(|kind| kind.starts_with("ext"))),
        ("xfsprogs", kinds.contains(&"xfs")),
        ("btrfs-progs", kinds.contains(&"btrfs")),
        ("dosfstools", kinds.contains(&"vfat")),
    ];
    all.into_iter().filter_map(|(package, needed)| needed.then_some(package)).collect()
}

/// How long a key may take to be derived.
const DERIVING: Duration = Duration::from_secs(300);

/// A key that does not open what is there is told before anything is written.
async fn assert_keys(acts: &[Act], host: &Host) -> Result<()> {
    let encrypts = |crypt: &crate::env::layout::Crypt| {
        acts.iter().any(|act| matches!(act, Act::Encrypt(other) if other.device == crypt.device))
    };
    for act in acts {
        let Act::Open(crypt) = act else { continue };
        if let crate::env::layout::CryptKey::File(path) = &crypt.key
            && !host.exists(path.as_str())
        {
            bail!("there is no key file {path} for {}; nothing was changed", crypt.device);
        }
        if encrypts(crypt) || !host.exists(crypt.device.as_str()) {
            continue;
        }
        let (mut args, input) = make::key(crypt);
        args.splice(0..0, ["open", "--type=luks", "--test-passphrase"].map(str::to_owned));
        args.push(crypt.device.to_string());
        let tried = host.try_ask(Cmd::new("cryptsetup", args).input(input).deadline(DERIVING)).await?;
        match tried.code {
            Some(0) => {}
            // cryptsetup(8), "RETURN CODES": no permission, which means a wrong passphrase.
            Some(2) => bail!("the key in appliance.storage.setup does not open {}; nothing was changed", crypt.device),
            code => bail!("cryptsetup cannot use {} ({}): {}", crypt.device, code.unwrap_or(-1), tried.stderr.trim()),
        }
    }
    Ok(())
}

/// The two volumes: where they are mounted, their labels, and whether they are done without.
fn volumes(env: &Env) -> [(&'static str, &'static str, bool); 2] {
    let storage = &env.appliance.storage;
    [("/data", "ecs-data", storage.ignore_data), ("/volatile", "ecs-volatile", storage.ignore_volatile)]
}

/// Whether a run was killed while something moved to a volume: Docker and PostgreSQL may be stopped for it.
pub fn is_moving(host: &Host) -> bool {
    relocate::is_under_way(host)
}

pub use relocate::is_docker_homeless;

/// The volumes that should be mounted and are not.
pub async fn missing(env: &Env, host: &Host) -> Result<Option<VolumeMissing>> {
    let mut missing: Vec<_> =
        volumes(env).into_iter().filter_map(|(mount, label, ignored)| (!ignored).then_some((mount, label))).collect();
    if !missing.is_empty() {
        let mounted =
            host.ask(Cmd::new("findmnt", ["--noheadings", "--raw", "--output", "TARGET,LABEL"])).await?.stdout;
        missing.retain(|(mount, label)| !is_mounted(&mounted, mount, label));
    }
    let missing = VolumeMissing { volumes: missing, devices: Vec::new() };
    Ok(Some(missing).filter(|missing| !missing.volumes.is_empty()))
}

/// Volumes that should be mounted and are not. Nothing is created on the root disk in their place; whoever starts the app waits for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeMissing {
    /// Where they are mounted, and their labels.
    volumes: Vec<(&'static str, &'static str)>,
    /// Devices that the layout speaks of and that are not there, in words.
    devices: Vec<String>,
}

/// Devices that a layout speaks of and that are not there, in words.
#[derive(Debug)]
struct DeviceMissing(Vec<String>);

impl fmt::Display for DeviceMissing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for DeviceMissing {}

impl fmt::Display for VolumeMissing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (mount, label)) in self.volumes.iter().enumerate() {
            let key = mount.trim_start_matches('/');
            let sep = if index > 0 { "; " } else { "" };
            write!(
                f,
                "{sep}no file system labelled '{label}' is mounted on {mount}; mount it, or set appliance.storage.ignore.{key}: true in \
                 env.yml to keep {mount} on the root disk"
            )?;
        }
        for device in &self.devices {
            write!(f, "; {device}")?;
        }
        Ok(())
    }
}

impl std::error::Error for VolumeMissing {}

/// Whether a file system of that label is mounted there, by findmnt's lines of target and label.
fn is_mounted(mounted: &str, mount: &str, label: &str) -> bool {
    let mut labels = mounted.lines().filter_map(|line| line.split_once(' ')).filter(|(target, _)| *target == mount);
    // Mounted twice, the last one counts.
    labels.next_back().is_some_and(|(_, last)| last == label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_mounted_last_counts() {
        let mounted = "/ root\n/data ecs-data\n/data/sub ecs-volatile\n/volatile ecs-volatile\n/volatile \n/proc \n";
        assert!(is_mounted(mounted, "/data", "ecs-data"));
        assert!(!is_mounted(mounted, "/data", "root"));
        assert!(!is_mounted(mounted, "/volatile", "ecs-volatile"), "something else is mounted over it");
        assert!(!is_mounted(mounted, "/srv", "ecs-data"));
    }

    #[test]
    fn every_missing_volume_is_named_with_the_key_that_does_without_it() {
        let said = VolumeMissing {
            volumes: vec![("/data", "ecs-data"), ("/volatile", "ecs-volatile")],
            devices: vec!["there is no /dev/vdb".into()],
        }
        .to_string();
        for part in [
            "'ecs-data' is mounted on /data",
            "; there is no /dev/vdb",
            "ignore.data",
            "'ecs-volatile' is mounted on /volatile",
            "ignore.volatile",
        ] {
            assert!(said.contains(part), "{said}");
        }
    }
}
