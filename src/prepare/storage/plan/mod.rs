//! From a layout and what is there to what is to be done, in order; pure. Whatever carries something else than what is asked for is
//! refused by name, before anything is done. Doing it is `make.rs`.

mod lvm;

use super::seen::{Block, Content, Extent, Seen};
use crate::env::layout::{Crypt, Flag, Format, FsKind, Layout, Mount, Part, Raid, Table, TableKind, Volume};
use crate::value::{Device, FileSystemRef, PartName, Size, VolumeName};
use std::fmt;

/// One thing to do.
#[derive(Debug, Clone)]
pub enum Act {
    /// What a killed run left half-made.
    Wipe(Device),
    Partition {
        disk: Device,
        kind: TableKind,
        parts: Vec<NewPart>,
    },
    AddParts {
        disk: Device,
        parts: Vec<NewPart>,
    },
    CreateRaid(Raid),
    AssembleRaid(Raid),
    Encrypt(Crypt),
    Open(Crypt),
    Physical(Device),
    CreateGroup {
        name: VolumeName,
        devices: Vec<Device>,
    },
    ExtendGroup {
        name: VolumeName,
        device: Device,
    },
    CreateVolume(Volume),
    GrowVolume {
        volume: Volume,
        from: Size,
        to: Size,
    },
    /// Of a volume that has grown already.
    GrowFileSystem(Volume),
    Activate(Volume),
    Format(Format),
    Mount(Mount),
    Swap(Device),
}

/// A partition with its place in bytes, aligned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewPart {
    pub number: usize,
    pub start: u64,
    pub size: u64,
    pub name: Option<PartName>,
    pub flags: Vec<Flag>,
}

/// Partitions begin and end on multiples of this, in bytes: every disk's own unit fits into it.
pub const ALIGNMENT: u64 = 1 << 20;
/// How far a partition that is there may be off, in bytes: other tools align otherwise.
const TOLERANCE: u64 = 2 << 20;

/// What must be done.
///
/// # Errors
/// Everything that is in the way, one line each.
pub fn plan(layout: &Layout, seen: &Seen) -> Result<Vec<Act>, Problems> {
    let mut world = World { seen: seen.clone(), acts: Vec::new(), problems: Problems::default() };
    world.wipe_what_was_being_made();
    layout.tables.iter().for_each(|table| world.table(table));
    layout.raids.iter().for_each(|raid| world.raid(raid));
    layout.crypts.iter().for_each(|crypt| world.crypt(crypt));
    world.lvm(layout);
    layout.formats.iter().for_each(|format| world.format(format, layout));
    layout.mounts.iter().for_each(|mount| world.mount(mount, layout));
    layout.swaps.iter().for_each(|swap| world.swap(swap));
    if world.problems == Problems::default() { Ok(world.acts) } else { Err(world.problems) }
}

/// What is in the way.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Problems {
    /// Devices that are not there: they may come.
    pub missing: Vec<String>,
    /// What only the operator can mend.
    pub others: Vec<String>,
}

/// What is there, and would be after the acts so far.
struct World {
    seen: Seen,
    acts: Vec<Act>,
    problems: Problems,
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Content::Nothing => f.write_str("nothing"),
            Content::Table { kind, parts } => write!(f, "a {kind} partition table with {} partitions", parts.len()),
            Content::Signature { kind, label: Some(label) } => write!(f, "{} ('{label}')", spoken(kind)),
            Content::Signature { kind, label: None } => f.write_str(&spoken(kind)),
            Content::Ambiguous => f.write_str("several things at once"),
            Content::Unknown => f.write_str("something unknown"),
        }
    }
}

/// What blkid calls a kind, in words.
fn spoken(kind: &str) -> String {
    match kind {
        "linux_raid_member" => "a member of a RAID".to_owned(),
        "LVM2_member" => "a physical volume of LVM".to_owned(),
        "crypto_LUKS" => "a LUKS container".to_owned(),
        "swap" => "swap".to_owned(),
        kind => format!("a file system of the kind {kind}"),
    }
}

impl World {
    fn problem(&mut self, text: String) {
        if !self.problems.others.contains(&text) {
            self.problems.others.push(text);
        }
    }

    fn refuse(&mut self, device: &Device, wanted: &str, content: &Content) {
        let mend = "nothing was changed; if nothing on it is needed, clear it with: wipefs --all";
        self.problem(format!("{device} carries {content}, so it is not {wanted}; {mend} {device}"));
    }

    /// What a device carries; a missing one is a problem.
    fn content(&mut self, device: &Device, wanted: &str) -> Option<Content> {
        match self.seen.blocks.get(device) {
            Some(block) => Some(block.content.clone()),
            None => {
                let text = format!("there is no {device}, which is to be {wanted}");
                if !self.problems.missing.contains(&text) {
                    self.problems.missing.push(text);
                }
                None
            }
        }
    }

    fn set(&mut self, device: &Device, size: Size, content: Content) {
        self.seen.blocks.insert(device.clone(), Block { size, content, uuid: None });
    }

    fn size(&self, device: &Device) -> Size {
        self.seen.blocks.get(device).map_or(Size(0), |block| block.size)
    }

    fn wipe_what_was_being_made(&mut self) {
        let Some(making) = self.seen.making.clone() else { return };
        for (device, block) in &mut self.seen.blocks {
            if block.uuid.as_deref().is_some_and(|uuid| making.is(uuid)) {
                block.content = Content::Nothing;
                self.acts.push(Act::Wipe(device.clone()));
            }
        }
        // A RAID that was assembled from members that are wiped goes with them.
        let wipes = |device: &Device| self.acts.iter().any(|act| matches!(act, Act::Wipe(wiped) if wiped == device));
        if !self.acts.is_empty() && !wipes(&making.device) {
            self.seen.raids.remove(&making.device);
            self.seen.blocks.remove(&making.device);
        }
    }

    fn table(&mut self, table: &Table) {
        let Some(content) = self.content(&table.disk, "partitioned") else { return };
        let size = self.size(&table.disk);
        let wanted = self.placed(table, size);
        let label = |kind: TableKind| if kind == TableKind::Gpt { "gpt" } else { "dos" };
        match (content, table.kind) {
            (Content::Nothing, Some(kind)) => {
                self.add_parts(&table.disk, &wanted);
                self.acts.push(Act::Partition { disk: table.disk.clone(), kind, parts: wanted });
            }
            (Content::Nothing, None) => {
                self.problem(format!("{} has no partition table; say in 'type' which it is to get", table.disk));
            }
            (Content::Table { kind, parts }, asked) => {
                if let Some(asked) = asked.filter(|asked| label(*asked) != kind) {
                    let have = Content::Table { kind, parts };
                    return self.refuse(&table.disk, &format!("given a {} one", label(asked)), &have);
                }
                self.complete(table, &parts, wanted);
            }
            (other, _) => self.refuse(&table.disk, "partitioned", &other),
        }
    }

    /// The partitions of a table in bytes, aligned.
    fn placed(&mut self, table: &Table, size: Size) -> Vec<NewPart> {
        // The last megabyte of a GPT holds its copy.
        let last = (size.0 / ALIGNMENT).saturating_sub(1) * ALIGNMENT;
        let mut placed: Vec<NewPart> = Vec::new();
        for (index, part) in table.parts.iter().enumerate() {
            let number = index + 1;
            let Part { name, flags, .. } = part.clone();
            let start = part.start.on(size).max(ALIGNMENT).next_multiple_of(ALIGNMENT);
            let wanted = part.end.on(size);
            let end = (wanted / ALIGNMENT * ALIGNMENT).min(last);
            let before = placed.last().map_or(ALIGNMENT, |before| before.start + before.size);
            let text = if wanted > size.0 {
                format!("ends at {}, but the disk has {size}", Size(wanted))
            } else if end <= start {
                format!("has no room from {} to {}", Size(start), Size(end.max(1)))
            } else if start < before {
                format!("begins at {}, before the one before it ends at {}", Size(start), Size(before))
            } else {
                placed.push(NewPart { number, start, size: end - start, name, flags });
                continue;
            };
            self.problem(format!("partition {number} of {} {text}", table.disk));
        }
        placed
    }

    fn add_parts(&mut self, disk: &Device, parts: &[NewPart]) {
        for part in parts {
            self.set(&disk.partition(part.number), Size(part.size), Content::Nothing);
        }
    }

    /// A table that is there: what it has must be what is asked for, and the rest is added.
    fn complete(&mut self, table: &Table, has: &[Extent], wanted: Vec<NewPart>) {
        let mut missing = Vec::new();
        for part in wanted {
            let Some(is) = has.iter().find(|is| is.number == part.number) else {
                let end = part.start + part.size;
                if let Some(other) = has.iter().find(|other| other.start < end && part.start < other.end) {
                    let (number, other) = (part.number, other.number);
                    self.problem(format!("partition {number} of {} would lie over partition {other}", table.disk));
                }
                missing.push(part);
                continue;
            };
            let is_off =
                is.start.abs_diff(part.start) > TOLERANCE || is.end.abs_diff(part.start + part.size) > TOLERANCE;
            // Without a type the table is somebody else's, and only added to.
            if is_off && table.kind.is_some() {
                let text = format!("from {} to {}, not from {}", Size(is.start), Size(is.end), Size(part.start));
                let to = Size(part.start + part.size);
                self.problem(format!(
                    "partition {} of {} is there already, {text} to {to}; nothing was changed",
                    part.number, table.disk
                ));
            }
        }
        if !missing.is_empty() {
            self.add_parts(&table.disk, &missing);
            self.acts.push(Act::AddParts { disk: table.disk.clone(), parts: missing });
        }
    }

    fn raid(&mut self, raid: &Raid) {
        if let Some(level) = self.seen.raids.get(&raid.device) {
            if level != raid.level.name {
                self.problem(format!(
                    "{} is a RAID {level}, not a RAID {}; nothing was changed",
                    raid.device, raid.level.name
                ));
            }
            return;
        }
        if let Some(block) = self.seen.blocks.get(&raid.device) {
            return self.problem(format!("{} is there already and is no RAID ({})", raid.device, block.content));
        }
        let (mut blank, mut members) = (0, 0);
        for device in &raid.members {
            match self.content(device, &format!("a member of {}", raid.device)) {
                Some(Content::Nothing) => blank += 1,
                Some(Content::Signature { kind, .. }) if kind == "linux_raid_member" => members += 1,
                Some(other) => self.refuse(device, &format!("made a member of {}", raid.device), &other),
                None => {}
            }
        }
        let smallest = raid.members.iter().map(|member| self.size(member)).min().unwrap_or(Size(0));
        if blank == raid.members.len() {
            self.set(&raid.device, smallest, Content::Nothing);
            self.acts.push(Act::CreateRaid(raid.clone()));
        } else if members == raid.members.len() {
            self.set(&raid.device, smallest, Content::Unknown);
            self.acts.push(Act::AssembleRaid(raid.clone()));
        } else if blank + members == raid.members.len() {
            self.problem(format!(
                "some devices of {} are members of a RAID and some carry nothing; nothing was changed",
                raid.device
            ));
        }
    }

    fn crypt(&mut self, crypt: &Crypt) {
        let target = Device::mapped(&crypt.target);
        let Some(content) = self.content(&crypt.device, "encrypted") else { return };
        let is_open = self.seen.blocks.contains_key(&target);
        let size = self.size(&crypt.device);
        match content {
            Content::Nothing if is_open => {
                self.problem(format!("{target} is there already, but {} is no LUKS container", crypt.device))
            }
            Content::Nothing => {
                self.acts.extend([Act::Encrypt(crypt.clone()), Act::Open(crypt.clone())]);
                self.set(&target, size, Content::Nothing);
            }
            Content::Signature { kind, .. } if kind == "crypto_LUKS" => {
                if !is_open {
                    self.acts.push(Act::Open(crypt.clone()));
                    self.set(&target, size, Content::Unknown);
                }
            }
            Content::Unknown => self.set(&target, size, Content::Unknown),
            other => self.refuse(&crypt.device, "encrypted", &other),
        }
    }

    fn format(&mut self, format: &Format, layout: &Layout) {
        match self.content(&format.device, &format!("formatted as {}", format.kind.name())) {
            Some(Content::Nothing) => {
                self.acts.push(Act::Format(format.clone()));
                let content = Content::Signature { kind: format.kind.name().to_owned(), label: label(&format.options) };
                let size = self.size(&format.device);
                for device in self.names_of(&format.device, layout) {
                    self.set(&device, size, content.clone());
                }
            }
            Some(Content::Signature { kind, .. }) if kind == format.kind.name() => {}
            Some(Content::Unknown) | None => {}
            Some(other) => self.refuse(&format.device, &format!("formatted as {}", format.kind.name()), &other),
        }
    }

    /// A volume that is not there yet has two names already.
    fn names_of(&self, device: &Device, layout: &Layout) -> Vec<Device> {
        let mut volumes = layout.volumes.iter().map(|volume| Device::logical(&volume.group, &volume.name));
        volumes.find(|names| names.contains(device)).map_or_else(|| vec![device.clone()], Vec::from)
    }

    fn mount(&mut self, mount: &Mount, layout: &Layout) {
        let target = mount.target.as_str();
        let unknown = self.seen.blocks.values().any(|block| block.content == Content::Unknown);
        let real = match &mount.source {
            FileSystemRef::Device(device) => {
                match self.content(device, &format!("mounted on {target}")) {
                    None | Some(Content::Unknown) => return,
                    Some(Content::Signature { kind, .. }) if mount.kind.is_none_or(|wanted| wanted.name() == kind) => {}
                    Some(Content::Nothing) => {
                        return self.problem(format!(
                            "{device} carries nothing that could be mounted on {target}; add it to 'format'"
                        ));
                    }
                    Some(other) => {
                        return self.problem(format!("{device} carries {other} and cannot be mounted on {target}"));
                    }
                }
                self.seen.real.get(device).cloned()
            }
            FileSystemRef::Label(wanted) => {
                let maker = layout.formats.iter().find(|format| label(&format.options).as_ref() == Some(wanted));
                // What it is to be made on may carry it already, and may not: seen once that is open.
                let is_made = maker.is_some_and(|format| {
                    self.seen.blocks.get(&format.device).is_none_or(|block| block.content != Content::Unknown)
                });
                let mut found = self.seen.drives.iter().filter(|drive| drive.label == *wanted);
                match (found.next(), found.next()) {
                    (Some(one), Some(other)) => {
                        let text =
                            format!("two file systems are labelled '{wanted}', {} and {}", one.device, other.device);
                        return self.problem(format!("{text}; which one belongs on {target}?"));
                    }
                    (Some(one), None) => Some(one.device.clone()),
                    (None, _) if is_made => None,
                    (None, _) if unknown => return,
                    (None, _) => {
                        return self.problem(format!(
                            "no file system is labelled '{wanted}', which is to be mounted on {target}"
                        ));
                    }
                }
            }
            FileSystemRef::Uuid(_) => None,
        };
        match (self.seen.mounted.get(target), real) {
            (Some(there), Some(real)) if *there != real => {
                let text =
                    format!("{there} is mounted on {target}, but {} is asked for; nothing was changed", mount.source);
                self.problem(text);
            }
            (Some(_), _) => {}
            (None, _) => self.acts.push(Act::Mount(mount.clone())),
        }
    }

    fn swap(&mut self, device: &Device) {
        match self.content(device, "swap") {
            Some(Content::Signature { kind, .. }) if kind == FsKind::Swap.name() => {}
            None | Some(Content::Unknown) => return,
            Some(other) => {
                return self.problem(format!("{device} carries {other}, not swap; add it to 'format' as swap"));
            }
        }
        if !self.seen.real.get(device).is_some_and(|real| self.seen.swaps.contains(real)) {
            self.acts.push(Act::Swap(device.clone()));
        }
    }
}

/// The label among a mkfs's options: `-L x`, `-Lx`, `-n x` of vfat, `--label=x`.
pub fn label(options: &[String]) -> Option<String> {
    let mut words = options.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "-L" | "-n" | "--label" => return words.next().cloned(),
            word => {
                let rest = word.strip_prefix("--label=").or_else(|| word.strip_prefix("-L"));
                if let Some(rest) = rest.filter(|rest| !rest.is_empty()) {
                    return Some(rest.to_owned());
                }
            }
        }
    }
    None
}

#[cfg(test)]
mod tests;
