//! Doing what a plan says, one thing at a time. What is written on is looked at once more right before; what carries a UUID is announced
//! with it, so that what a killed run left half-made is known.

use super::made::{self, Made};
use super::mounting;
use super::plan::{Act, NewPart};
use super::seen::{self, Content};
use crate::env::layout::{Crypt, CryptKey, Flag, FsKind, RaidLevel, TableKind, VolumeSize};
use crate::host::{Cmd, Host, What};
use crate::value::{Device, FileSystemRef, Size};
use anyhow::{Context, Result, bail};
use std::time::Duration;

/// How long a tool may take: a file system of many terabytes, or a key that is derived on a slow machine.
const MAKING: Duration = Duration::from_secs(1800);
/// How long udev may take to make the names of new devices.
const SETTLING_S: &str = "60";

/// What the act is about, and what it does, for the plan and the log.
pub fn spoken(act: &Act) -> (What, String, String) {
    let disk = |device: &Device, how: String| (What::Disk, device.to_string(), how);
    match act {
        Act::Wipe(device) => disk(device, "clear what an interrupted run left".to_owned()),
        Act::Partition { disk: device, kind, parts } => {
            disk(device, format!("partition as {}: {}", table_name(*kind), told(parts)))
        }
        Act::AddParts { disk: device, parts } => disk(device, format!("add partitions: {}", told(parts))),
        Act::CreateRaid(raid) => {
            disk(&raid.device, format!("make a RAID {} of {}", raid.level.name, list(&raid.members)))
        }
        Act::AssembleRaid(raid) => disk(&raid.device, format!("assemble from {}", list(&raid.members))),
        Act::Encrypt(crypt) => disk(&crypt.device, "encrypt (LUKS)".to_owned()),
        Act::Open(crypt) => disk(&crypt.device, format!("open as {}", crypt.target)),
        Act::Physical(device) => disk(device, "make a physical volume of LVM".to_owned()),
        Act::CreateGroup { name, devices } => {
            (What::Disk, name.to_string(), format!("make a group of {}", list(devices)))
        }
        Act::ExtendGroup { name, device } => (What::Disk, name.to_string(), format!("extend the group by {device}")),
        Act::CreateVolume(volume) => {
            (What::Disk, format!("{}/{}", volume.group, volume.name), format!("make a volume of {}", size(volume.size)))
        }
        Act::GrowVolume { volume, from, to } => (
            What::Disk,
            format!("{}/{}", volume.group, volume.name),
            format!("grow from {from} to {to}, its file system too"),
        ),
        Act::GrowFileSystem(volume) => {
            (What::Disk, format!("{}/{}", volume.group, volume.name), "grow its file system".to_owned())
        }
        Act::Activate(volume) => (What::Disk, format!("{}/{}", volume.group, volume.name), "activate".to_owned()),
        Act::Format(format) => {
            let options =
                if format.options.is_empty() { String::new() } else { format!(" ({})", format.options.join(" ")) };
            disk(&format.device, format!("format as {}{options}", format.kind.name()))
        }
        Act::Mount(mount) => (What::Mount, mount.target.to_string(), format!("mount {}", mount.source)),
        Act::Swap(device) => disk(device, "swap to it".to_owned()),
    }
}

fn table_name(kind: TableKind) -> &'static str {
    if kind == TableKind::Gpt { "gpt" } else { "mbr" }
}

fn list(devices: &[Device]) -> String {
    devices.iter().map(Device::as_str).collect::<Vec<_>>().join(", ")
}

fn told(parts: &[NewPart]) -> String {
    let part = |part: &NewPart| {
        let name = part.name.as_ref().map(|name| format!(" '{name}'")).unwrap_or_default();
        format!("{}{name} {} to {}", part.number, Size(part.start), Size(part.start + part.size))
    };
    parts.iter().map(part).collect::<Vec<_>>().join("; ")
}

fn size(size: VolumeSize) -> String {
    match size {
        VolumeSize::Bytes(size) => size.to_string(),
        VolumeSize::OfFree(percent) => format!("{percent}% of what is free"),
        VolumeSize::OfGroup(percent) => format!("{percent}% of the group"),
    }
}

/// Does it.
///
/// # Errors
/// The tool fails, or the device carries something by now.
pub async fn make(act: &Act, host: &Host) -> Result<()> {
    let (what, object, how) = spoken(act);
    let doing = format!("could not {how}: {object}");
    host.note_act(what, &object, &how);
    if !host.applies() {
        return Ok(());
    }
    carry_out(act, host).await.context(doing)?;
    settle(host).await
}

#[expect(clippy::too_many_lines, reason = "one arm for each kind of act")]
async fn carry_out(act: &Act, host: &Host) -> Result<()> {
    let run = |program: &str, args: &[&str]| {
        let cmd = Cmd::new(program, args.iter().copied()).deadline(MAKING);
        async move { host.ask(cmd).await.map(|_| ()) }
    };
    match act {
        Act::Wipe(device) => wipe(device, host).await,
        Act::Partition { disk, kind, parts } => {
            let label = if *kind == TableKind::Gpt { "gpt" } else { "dos" };
            made_by(disk, host, |uuid| {
                let (id, carried) = match kind {
                    TableKind::Gpt => (uuid.to_owned(), uuid),
                    // Eight digits; blkid tells them without the prefix.
                    TableKind::Mbr => (format!("0x{}", &uuid[..8]), &uuid[..8]),
                };
                let text = format!("label: {label}\nlabel-id: {id}\n{}", script(*kind, parts));
                (
                    carried.to_owned(),
                    Cmd::new("sfdisk", ["--quiet", "--wipe", "never", "--wipe-partitions", "never", disk.as_str()])
                        .input(text),
                )
            })
            .await
        }
        Act::AddParts { disk, parts } => {
            let kind = match seen::block(disk, host).await?.content {
                Content::Table { kind, .. } if kind == "dos" => TableKind::Mbr,
                _ => TableKind::Gpt,
            };
            // Other partitions of the disk may be mounted; their entries stay as they are.
            let args = ["--quiet", "--append", "--no-reread", "--wipe-partitions", "never", disk.as_str()];
            host.ask(Cmd::new("sfdisk", args).input(script(kind, parts)).deadline(MAKING)).await?;
            // Adds what the kernel does not know yet; those in use it leaves alone.
            run("partx", &["--update", disk.as_str()]).await
        }
        Act::CreateRaid(raid) => {
            for member in &raid.members {
                assert_blank(member, host).await?;
            }
            let (level, count) =
                (format!("--level={}", raid.level.name), format!("--raid-devices={}", raid.members.len()));
            announced(&raid.device, host, |uuid| {
                // Homehost 'any' keeps its name on every host; a bitmap, so that a power cut does not mean reading everything again.
                let mut args = vec![
                    "--create".to_owned(),
                    raid.device.to_string(),
                    "--run".to_owned(),
                    level.clone(),
                    count.clone(),
                ];
                args.extend(["--metadata=1.2", "--homehost=any"].map(str::to_owned));
                args.extend([format!("--uuid={uuid}"), format!("--bitmap={}", bitmap(raid.level))]);
                args.extend(raid.members.iter().map(Device::to_string));
                (uuid.to_owned(), Cmd::new("mdadm", args))
            })
            .await
        }
        Act::AssembleRaid(raid) => {
            let mut args = vec!["--assemble", raid.device.as_str()];
            args.extend(raid.members.iter().map(Device::as_str));
            run("mdadm", &args).await
        }
        Act::Encrypt(crypt) => {
            let (args, input) = key(crypt);
            made_by(&crypt.device, host, |uuid| {
                let mut all = vec!["luksFormat".to_owned(), "--batch-mode".to_owned(), "--type=luks2".to_owned()];
                all.extend([format!("--uuid={uuid}")]);
                all.extend(args.clone());
                all.push(crypt.device.to_string());
                (uuid.to_owned(), Cmd::new("cryptsetup", all).input(input.clone()))
            })
            .await
        }
        Act::Open(crypt) => {
            let (mut args, input) = key(crypt);
            args.splice(0..0, ["open".to_owned(), "--type=luks".to_owned()]);
            args.extend([crypt.device.to_string(), crypt.target.to_string()]);
            host.ask(Cmd::new("cryptsetup", args).input(input).deadline(MAKING)).await.map(|_| ())
        }
        Act::Physical(device) => {
            made_by(device, host, |uuid| {
                let args = ["--yes", "--norestorefile", "--uuid", uuid, device.as_str()];
                (uuid.to_owned(), Cmd::new("pvcreate", args))
            })
            .await
        }
        Act::CreateGroup { name, devices } => {
            let mut args = vec![name.as_str()];
            args.extend(devices.iter().map(Device::as_str));
            run("vgcreate", &args).await
        }
        Act::ExtendGroup { name, device } => run("vgextend", &[name.as_str(), device.as_str()]).await,
        Act::CreateVolume(volume) => {
            let (option, size) = match volume.size {
                // In whole sectors; LVM rounds up to its extents.
                VolumeSize::Bytes(size) => ("--size", format!("{}b", size.0.next_multiple_of(512))),
                VolumeSize::OfFree(percent) => ("--extents", format!("{percent}%FREE")),
                VolumeSize::OfGroup(percent) => ("--extents", format!("{percent}%VG")),
            };
            // What lay there before belongs to nobody any more: the group has it free.
            let args = [
                "--yes",
                "--wipesignatures",
                "y",
                option,
                &size,
                "--name",
                volume.name.as_str(),
                volume.group.as_str(),
            ];
            run("lvcreate", &args).await
        }
        Act::GrowVolume { volume, to, .. } => {
            let [device, _] = Device::logical(&volume.group, &volume.name);
            // Killed behind the first command, the next run knows what is left to do.
            made::announce(&Made { device: device.clone(), uuid: String::new() }, host)?;
            run("lvextend", &["--size", &format!("{}b", to.0), device.as_str()]).await?;
            grow_file_system(&device, host).await
        }
        Act::GrowFileSystem(volume) => {
            let [device, _] = Device::logical(&volume.group, &volume.name);
            grow_file_system(&device, host).await
        }
        Act::Activate(volume) => {
            run("lvchange", &["--activate", "y", &format!("{}/{}", volume.group, volume.name)]).await
        }
        Act::Format(format) => {
            made_by(&format.device, host, |uuid| {
                let mut args = format.options.clone();
                let (program, carried) = maker(format.kind, uuid, &mut args);
                args.push(format.device.to_string());
                (carried, Cmd::new(program, args))
            })
            .await
        }
        Act::Mount(mount) => mounting::mount(mount, &file_system(&mount.source, host).await?, host).await,
        Act::Swap(device) => mounting::swap_on(device, host).await,
    }
}

/// A bitmap needs redundancy.
fn bitmap(level: RaidLevel) -> &'static str {
    if level.name == "0" { "none" } else { "internal" }
}

/// The program that makes a file system, with the UUID that it gets, as blkid will tell it.
fn maker(kind: FsKind, uuid: &str, args: &mut Vec<String>) -> (&'static str, String) {
    let whole = uuid.to_owned();
    let short = uuid[..8].to_owned();
    let (program, words, carried) = match kind {
        FsKind::Ext2 => ("mkfs.ext2", vec!["-q".into(), "-F".into(), "-U".into(), whole.clone()], whole),
        FsKind::Ext3 => ("mkfs.ext3", vec!["-q".into(), "-F".into(), "-U".into(), whole.clone()], whole),
        FsKind::Ext4 => ("mkfs.ext4", vec!["-q".into(), "-F".into(), "-U".into(), whole.clone()], whole),
        FsKind::Xfs => ("mkfs.xfs", vec!["-q".into(), "-m".into(), format!("uuid={whole}")], whole),
        FsKind::Btrfs => ("mkfs.btrfs", vec!["-q".into(), "-U".into(), whole.clone()], whole),
        FsKind::Vfat => ("mkfs.vfat", vec!["-i".into(), short.clone()], short),
        FsKind::Swap => ("mkswap", vec!["-q".into(), "-U".into(), whole.clone()], whole),
    };
    args.splice(0..0, words);
    (program, carried)
}

/// Partitions as sfdisk reads them.
fn script(kind: TableKind, parts: &[NewPart]) -> String {
    let line = |part: &NewPart| {
        let flag = part.flags.iter().find(|flag| **flag != Flag::Boot);
        let purpose = match (kind, flag) {
            (TableKind::Gpt, Some(Flag::BiosGrub)) => "21686148-6449-6E6F-744E-656564454649",
            (TableKind::Gpt, Some(Flag::Esp)) => "C12A7328-F81F-11D2-BA4B-00A0C93EC93B",
            (TableKind::Gpt, Some(Flag::Raid)) => "A19D880F-05FC-4D3B-A006-743F0F84911E",
            (TableKind::Gpt, Some(Flag::Lvm)) => "E6D6D379-F507-44C2-A23C-238F2A3DF928",
            (TableKind::Gpt, Some(Flag::Swap)) => "0657FD6D-A4AB-43C4-84E5-0933C84B4F4F",
            (TableKind::Gpt, _) => "0FC63DAF-8483-4772-8E79-3D69D8477DE4",
            (TableKind::Mbr, Some(Flag::Esp)) => "ef",
            (TableKind::Mbr, Some(Flag::Raid)) => "fd",
            (TableKind::Mbr, Some(Flag::Lvm)) => "8e",
            (TableKind::Mbr, Some(Flag::Swap)) => "82",
            (TableKind::Mbr, _) => "83",
        };
        let mib = |bytes: u64| bytes >> 20;
        let name = match (&part.name, kind) {
            // Of characters that need no escaping.
            (Some(name), TableKind::Gpt) => format!(", name=\"{name}\""),
            _ => String::new(),
        };
        let boot = match (part.flags.contains(&Flag::Boot), kind) {
            (true, TableKind::Mbr) => ", bootable",
            (true, TableKind::Gpt) => ", attrs=LegacyBIOSBootable",
            (false, _) => "",
        };
        format!("start={}MiB, size={}MiB, type={purpose}{name}{boot}\n", mib(part.start), mib(part.size))
    };
    parts.iter().map(line).collect()
}

/// How cryptsetup is told the key, and what it reads.
pub fn key(crypt: &Crypt) -> (Vec<String>, String) {
    match &crypt.key {
        CryptKey::Password(password) => (vec!["--key-file=-".to_owned()], password.expose().to_owned()),
        CryptKey::File(path) => (vec![format!("--key-file={path}")], String::new()),
    }
}

async fn file_system(source: &FileSystemRef, host: &Host) -> Result<Device> {
    let (option, wanted) = match source {
        FileSystemRef::Device(device) => return Ok(device.clone()),
        FileSystemRef::Label(label) => ("--label", label),
        FileSystemRef::Uuid(uuid) => ("--uuid", uuid),
    };
    let found = host.ask(Cmd::new("blkid", ["--cache-file", "/dev/null", option, wanted.as_str()])).await;
    let found = found.with_context(|| format!("there is no file system {source}"))?;
    found.stdout.trim().parse().map_err(|_| anyhow::anyhow!("blkid names no device for {source}"))
}

/// Makes something on a device that carries nothing, and makes sure that it is on the disk before it counts as made.
async fn made_by(device: &Device, host: &Host, cmd: impl Fn(&str) -> (String, Cmd)) -> Result<()> {
    assert_blank(device, host).await?;
    announced(device, host, cmd).await
}

async fn announced(device: &Device, host: &Host, cmd: impl Fn(&str) -> (String, Cmd)) -> Result<()> {
    let (carried, cmd) = cmd(&new_uuid(host)?);
    made::announce(&Made { device: device.clone(), uuid: carried }, host)?;
    host.ask(cmd.deadline(MAKING)).await?;
    host.ask(Cmd::new("blockdev", ["--flushbufs", device.as_str()]).deadline(MAKING)).await?;
    made::done(host)
}

/// Between the plan and now somebody else could have used it.
async fn assert_blank(device: &Device, host: &Host) -> Result<()> {
    let content = seen::block(device, host).await?.content;
    if content != Content::Nothing {
        bail!("it carries {content} by now; nothing was changed");
    }
    if host.is_device_in_use(device.as_str())? {
        bail!("it is in use; nothing was changed");
    }
    Ok(())
}

/// Grows what is on a volume to its size; mounted or not.
async fn grow_file_system(device: &Device, host: &Host) -> Result<()> {
    let content = seen::block(device, host).await?.content;
    if matches!(&content, Content::Signature { kind, .. } if ["ext2", "ext3", "ext4", "xfs"].contains(&kind.as_str())) {
        // LVM's own; it checks before and mounts where that is needed.
        host.ask(Cmd::new("fsadm", ["--yes", "resize", device.as_str()]).deadline(MAKING)).await?;
    } else if content != Content::Nothing {
        tracing::warn!("{device} has grown, but {content} on it has not: it is grown by other means");
    }
    made::done(host)
}

/// Clears what carries the UUID that was announced; a RAID of it is stopped first.
async fn wipe(device: &Device, host: &Host) -> Result<()> {
    let name = host.real_path(device.as_str()).unwrap_or_default();
    let name = name.rsplit('/').next().unwrap_or_default();
    for holder in host.names(&format!("/sys/class/block/{name}/holders"))? {
        if holder.starts_with("md") {
            host.ask(Cmd::new("mdadm", ["--stop".to_owned(), format!("/dev/{holder}")])).await?;
        }
    }
    host.ask(Cmd::new("wipefs", ["--all", "--quiet", device.as_str()]).deadline(MAKING)).await?;
    host.ask(Cmd::new("blockdev", ["--flushbufs", device.as_str()]).deadline(MAKING)).await.map(|_| ())
}

/// A random UUID (RFC 9562, version 4).
fn new_uuid(host: &Host) -> Result<String> {
    let mut bytes: [u8; 16] = host.random()?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]))
}

/// Waits until udev has made the names of new devices, where it runs.
async fn settle(host: &Host) -> Result<()> {
    if host.exists("/run/udev/control") {
        host.try_ask(Cmd::new("udevadm", ["settle", "--timeout", SETTLING_S]).deadline(Duration::from_secs(90)))
            .await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_written_as_sfdisk_reads_them() {
        let part = |number, flags: &[Flag], name: Option<&str>| NewPart {
            number,
            start: 1 << 20,
            size: 3 << 20,
            name: name.map(|name| name.parse().expect("it is a name")),
            flags: flags.to_vec(),
        };
        let gpt = script(TableKind::Gpt, &[part(1, &[Flag::Lvm, Flag::Boot], Some("my data")), part(2, &[], None)]);
        assert_eq!(
            gpt,
            "start=1MiB, size=3MiB, type=E6D6D379-F507-44C2-A23C-238F2A3DF928, name=\"my data\", attrs=LegacyBIOSBootable\n\
             start=1MiB, size=3MiB, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4\n"
        );
        let mbr = script(TableKind::Mbr, &[part(1, &[Flag::Boot, Flag::Raid], Some("x"))]);
        assert_eq!(mbr, "start=1MiB, size=3MiB, type=fd, bootable\n");
    }
}
