//! What does not fit together in a storage layout, as far as it is known without looking at the host's disks.

use super::document::{Key, Place};
use super::layout::{Flag, FsKind, Layout, Part, Table, TableKind, VolumeSize};
use super::reader::Fields;
use crate::value::{Device, FileSystemRef, Position};
use std::collections::HashMap;

/// An MBR has four entries; a GPT as it is made 128.
const MOST_PARTS: usize = 128;
const MOST_PRIMARY: usize = 4;

pub(super) fn check(setup: &Fields, layout: &Layout) {
    for table in &layout.tables {
        check_table(setup, table);
    }
    for raid in &layout.raids {
        if raid.members.len() < raid.level.fewest {
            let text = format!("RAID {} needs at least {} devices", raid.level.name, raid.level.fewest);
            setup.error(place(setup, &["mdadm"], raid.device.as_str()), text);
        }
    }
    used_twice(setup, layout);
    check_lvm(setup, layout);
    for format in &layout.formats {
        let place = place(setup, &["format"], format.device.as_str());
        let own = |option: &&String| {
            matches!(option.as_str(), "-U" | "-i" | "--uuid")
                || option.starts_with("--uuid=")
                || option.contains("uuid=")
        };
        if let Some(option) = format.options.iter().find(own) {
            setup.error(
                place,
                format!("the option '{option}' is the appliance's own: by the UUID it knows what it made"),
            );
        }
        if let Some(option) = format.options.iter().find(|option| option.starts_with('/')) {
            setup.error(place, format!("'{option}' is not an option; the device to format is the key"));
        }
    }
    let swaps =
        |device: &Device| layout.formats.iter().find(|format| &format.device == device).map(|format| format.kind);
    for swap in &layout.swaps {
        if let Some(kind) = swaps(swap).filter(|kind| *kind != FsKind::Swap) {
            let text = format!("{swap} is to be swap, but is formatted as {}", kind.name());
            setup.error(place(setup, &[], "swap"), text);
        }
    }
    for mount in &layout.mounts {
        let FileSystemRef::Device(device) = &mount.source else { continue };
        let Some(made) = swaps(device) else { continue };
        let wanted = mount.kind.unwrap_or(made);
        if made != wanted || made == FsKind::Swap {
            let text = format!("{device} is formatted as {} and cannot be mounted as {}", made.name(), wanted.name());
            setup.error(place(setup, &["mount"], mount.target.as_str()), text);
        }
    }
}

/// Where a key of the layout stands.
fn place(setup: &Fields, way: &[&'static str], name: &str) -> Place {
    let mut node = setup.mapping();
    for key in way {
        node = node.and_then(|node| node.get(key));
    }
    let named = |(key, _): &&(Key, super::document::Node)| key.text == name;
    let entry = node.and_then(|node| node.entries().iter().find(named).map(|(key, _)| key.place));
    entry.or(node.map(|node| node.place)).unwrap_or(setup.place())
}

fn check_table(setup: &Fields, table: &Table) {
    let place = place(setup, &["parted"], table.disk.as_str());
    let most = if table.kind == Some(TableKind::Mbr) { MOST_PRIMARY } else { MOST_PARTS };
    if table.parts.len() > most {
        setup.error(place, format!("{} has {} partitions, at most {most} fit in", table.disk, table.parts.len()));
    }
    if table.kind.is_none() && table.parts.is_empty() {
        setup.error(place, format!("neither 'type' nor 'parts' is said for {}", table.disk));
    }
    let name = |part: &Part, number: usize| match &part.name {
        Some(name) => format!("partition {number} ('{name}') of {}", table.disk),
        None => format!("partition {number} of {}", table.disk),
    };
    for (index, part) in table.parts.iter().enumerate() {
        if is_before(part.end, part.start).or((part.end == part.start).then_some(true)) == Some(true) {
            setup.error(
                place,
                format!("{} ends at {}, before it begins at {}", name(part, index + 1), part.end, part.start),
            );
        }
        if let Some(next) = table.parts.get(index + 1)
            && is_before(next.start, part.end) == Some(true)
        {
            let text = format!(
                "{} begins at {}, before {} ends at {}",
                name(next, index + 2),
                next.start,
                name(part, index + 1),
                part.end
            );
            setup.error(place, text);
        }
        if table.kind == Some(TableKind::Mbr) && part.flags.contains(&Flag::BiosGrub) {
            setup.error(place, format!("{}: 'bios_grub' is a flag of gpt only", name(part, index + 1)));
        }
    }
}

/// Whether one place lies before another; `None` where that depends on the disk.
fn is_before(one: Position, other: Position) -> Option<bool> {
    match (one, other) {
        (Position::Bytes(one), Position::Bytes(other)) => Some(one < other),
        (Position::Percent(one), Position::Percent(other)) => Some(one < other),
        (Position::Bytes(_), Position::Percent(0)) => Some(false),
        (Position::Percent(100), _) => Some(false),
        _ => None,
    }
}

/// Every device is made into one thing.
fn used_twice(setup: &Fields, layout: &Layout) {
    let mut uses: HashMap<&Device, &str> = HashMap::new();
    let all = (layout.tables.iter().map(|table| (&table.disk, "parted")))
        .chain(layout.raids.iter().flat_map(|raid| raid.members.iter().map(|member| (member, "mdadm"))))
        .chain(layout.crypts.iter().map(|crypt| (&crypt.device, "crypt")))
        .chain(layout.physical.iter().map(|device| (device, "lvm")))
        .chain(layout.formats.iter().map(|format| (&format.device, "format")));
    for (device, by) in all {
        if let Some(other) = uses.insert(device, by) {
            let way: &[&'static str] = if by == "format" { &["format"] } else { &[] };
            let name = if by == "format" { device.as_str() } else { by };
            setup.error(place(setup, way, name), format!("{device} is used twice, by '{other}' and by '{by}'"));
        }
    }
    let mut targets = HashMap::new();
    for mount in &layout.mounts {
        if let Some(other) = targets.insert(mount.source.to_string(), &mount.target) {
            let text = format!("{} is mounted twice, on {other} and on {}", mount.source, mount.target);
            setup.error(place(setup, &["mount"], mount.target.as_str()), text);
        }
    }
}

fn check_lvm(setup: &Fields, layout: &Layout) {
    let mut members: HashMap<&Device, &str> = HashMap::new();
    for group in &layout.groups {
        for device in &group.devices {
            if let Some(other) = members.insert(device, group.name.as_str()) {
                let text = format!("{device} is a member of two groups, {other} and {}", group.name);
                setup.error(place(setup, &["lvm", "vg"], group.name.as_str()), text);
            }
        }
    }
    for volume in &layout.volumes {
        let expand = volume.expand && matches!(volume.size, VolumeSize::OfFree(_));
        if expand {
            let text = format!(
                "{} cannot be expanded to a part of what is free; say a size, or a part of the group (%VG)",
                volume.name
            );
            setup.error(place(setup, &["lvm", "lv"], volume.name.as_str()), text);
        }
    }
    for group in &layout.groups {
        let percent: u64 = layout.volumes.iter().filter(|volume| volume.group == group.name).map(of_group).sum();
        if percent > 100 {
            let text = format!("the volumes of {} take {percent} % of it", group.name);
            setup.error(place(setup, &["lvm", "vg"], group.name.as_str()), text);
        }
    }
}

fn of_group(volume: &super::layout::Volume) -> u64 {
    match volume.size {
        VolumeSize::OfGroup(percent) => u64::from(percent),
        _ => 0,
    }
}
