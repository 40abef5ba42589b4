//! Block devices, and what is made of them: names that go to the storage tools' argument lists, sizes, and where partitions begin and
//! end. What is to be made is `env/setup.rs`.

use super::names::{Invalid, checked_text};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

checked_text!(
    /// The path of a block device: below `/dev`, without `..`, of characters that need no quoting.
    Device, check_device
);
checked_text!(
    /// A name of LVM's, for a group or a volume (lvm(8)), or a device mapper's target.
    VolumeName, check_volume
);
checked_text!(
    /// A partition's name, in a GPT: at most 36 characters.
    PartName, check_part_name
);

fn check_device(text: &str) -> Result<String, Invalid> {
    let inner = text.strip_prefix("/dev/").unwrap_or_default();
    let good = !inner.is_empty()
        && text.len() <= 255
        && inner.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
        && inner.bytes().all(|b| b.is_ascii_alphanumeric() || b"/+_.:@=-".contains(&b));
    if good { Ok(text.to_owned()) } else { Err(Invalid::new("the path of a block device, like '/dev/vdb1'")) }
}

fn check_volume(text: &str) -> Result<String, Invalid> {
    let good = (1..=100).contains(&text.len())
        && !text.starts_with(['-', '.'])
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+_.-".contains(&b))
        && !["control", "snapshot", "pvmove"].contains(&text);
    if good { Ok(text.to_owned()) } else { Err(Invalid::new("letters, digits, '+', '_', '.' and '-'")) }
}

fn check_part_name(text: &str) -> Result<String, Invalid> {
    let good = (1..=36).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+_.- ".contains(&b))
        && text.trim() == text;
    if good { Ok(text.to_owned()) } else { Err(Invalid::new("1 to 36 letters, digits, '+', '_', '.' and '-'")) }
}

impl Device {
    /// The device of a partition of this disk, as the kernel and udev name it.
    pub fn partition(&self, number: usize) -> Device {
        let separator = match &self.0 {
            path if path.starts_with("/dev/disk/") => "-part",
            path if path.ends_with(|c: char| c.is_ascii_digit()) => "p",
            _ => "",
        };
        Device(format!("{}{separator}{number}", self.0))
    }

    /// The device that an opened LUKS container gets.
    pub fn mapped(target: &VolumeName) -> Device {
        Device(format!("/dev/mapper/{target}"))
    }

    /// Both paths of a logical volume: below its group, and device mapper's, in which a dash of a name is doubled.
    pub fn logical(group: &VolumeName, volume: &VolumeName) -> [Device; 2] {
        let doubled = |name: &VolumeName| name.0.replace('-', "--");
        [
            Device(format!("/dev/{group}/{volume}")),
            Device(format!("/dev/mapper/{}-{}", doubled(group), doubled(volume))),
        ]
    }
}

/// A file system, by its device or by what is written on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileSystemRef {
    Device(Device),
    Label(String),
    Uuid(String),
}

impl FromStr for FileSystemRef {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let right = || Invalid::new("the path of a block device, 'LABEL=…' or 'UUID=…'");
        let plain = |text: &str| {
            (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+_.:-".contains(&b))
        };
        let (label, uuid) = (text.strip_prefix("LABEL="), text.strip_prefix("UUID="));
        let by_path = |kind: &str| text.strip_prefix("/dev/disk/by-").and_then(|rest| rest.strip_prefix(kind));
        match (label.or(by_path("label/")), uuid.or(by_path("uuid/"))) {
            (Some(label), _) if plain(label) => Ok(FileSystemRef::Label(label.to_owned())),
            (_, Some(uuid)) if plain(uuid) => Ok(FileSystemRef::Uuid(uuid.to_owned())),
            (None, None) => text.parse().map(FileSystemRef::Device).map_err(|_| right()),
            _ => Err(right()),
        }
    }
}

impl fmt::Display for FileSystemRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FileSystemRef::Device(device) => write!(f, "{device}"),
            FileSystemRef::Label(label) => write!(f, "LABEL={label}"),
            FileSystemRef::Uuid(uuid) => write!(f, "UUID={uuid}"),
        }
    }
}

/// A number of bytes. `g` and `GiB` are 1024³, `G` and `GB` are 1000³, as LVM has it; so with `k`, `m`, `t`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// The largest size that is taken: 2⁶² bytes, so that sums do not overflow.
const MAX_SIZE: u64 = 1 << 62;

impl FromStr for Size {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let right = || Invalid::new("a size like '10g' or '10GiB' (of 1024³) or '10G' (of 1000³)");
        let text = text.trim();
        let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = (&text[..digits], text[digits..].trim());
        let (letter, rest) = unit.split_at_checked(1).ok_or_else(right)?;
        let power = "kmgt".find(&letter.to_ascii_lowercase()).ok_or_else(right)? + 1;
        let binary = match rest.to_ascii_lowercase().as_str() {
            "" => letter.chars().all(|c| c.is_ascii_lowercase()),
            "b" => false,
            "ib" => true,
            _ => return Err(right()),
        };
        let unit = (if binary { 1024_u64 } else { 1000 }).pow(u32::try_from(power).map_err(|_| right())?);
        let bytes = match number.split_once('.') {
            // Three digits behind the point: finer is finer than any device's unit.
            Some((whole, part)) if part.len() <= 3 && !part.is_empty() => {
                let scale = 10_u64.pow(u32::try_from(part.len()).map_err(|_| right())?);
                let part: u64 = part.parse().map_err(|_| right())?;
                let whole: u64 = whole.parse().map_err(|_| right())?;
                whole.checked_mul(unit).and_then(|bytes| bytes.checked_add(part.checked_mul(unit)? / scale))
            }
            Some(_) => None,
            None => number.parse::<u64>().map_err(|_| right())?.checked_mul(unit),
        };
        match bytes {
            Some(bytes @ 1..=MAX_SIZE) => Ok(Size(bytes)),
            _ => Err(right()),
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = [("TiB", 1_u64 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
        match unit.into_iter().find(|(_, bytes)| self.0 >= *bytes) {
            Some((name, bytes)) if self.0.is_multiple_of(bytes) => write!(f, "{} {name}", self.0 / bytes),
            // One digit, cut off: it is for reading.
            Some((name, bytes)) => write!(f, "{}.{} {name}", self.0 / bytes, self.0 % bytes * 10 / bytes),
            None => write!(f, "{} bytes", self.0),
        }
    }
}

/// Where a partition begins or ends on its disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    Bytes(Size),
    /// 0 to 100.
    Percent(u8),
}

impl FromStr for Position {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let right = || Invalid::new("a place on the disk, like '1MiB', '20g' or '100%'");
        match text.trim().strip_suffix('%') {
            Some(percent) => match percent.trim().parse() {
                Ok(percent @ 0..=100) => Ok(Position::Percent(percent)),
                _ => Err(right()),
            },
            None if text.trim() == "0" => Ok(Position::Percent(0)),
            None => text.parse().map(Position::Bytes).map_err(|_| right()),
        }
    }
}

impl Position {
    /// In bytes, on a disk of that size.
    pub fn on(self, disk: Size) -> u64 {
        match self {
            Position::Bytes(size) => size.0,
            Position::Percent(percent) => disk.0 / 100 * u64::from(percent) + disk.0 % 100 * u64::from(percent) / 100,
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Position::Bytes(size) => write!(f, "{size}"),
            Position::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn takes<T: FromStr>(good: &[&str], bad: &[&str]) {
        for text in good {
            assert!(text.parse::<T>().is_ok(), "{text:?} should be taken");
        }
        for text in bad {
            assert!(text.parse::<T>().is_err(), "{text:?} should be refused");
        }
    }

    #[test]
    fn each_name_takes_only_what_it_is() {
        takes::<Device>(
            &["/dev/vdb", "/dev/mapper/vg0-x", "/dev/disk/by-id/virtio-a"],
            &["", "/dev", "/dev/", "/dev/../etc", "/dev//a", "vdb", "/dev/a b", "/dev/a;b", "/etc/x", "/dev/a\n"],
        );
        takes::<VolumeName>(&["vg0", "my-vol"], &["", "-x", ".", "a b", "a/b", "control"]);
        takes::<PartName>(&["ecs-data", "My Data"], &["", " a", "a\"", "a,b", &"a".repeat(37)]);
        takes::<FileSystemRef>(
            &["/dev/vdb1", "LABEL=ecs-data", "/dev/disk/by-label/x", "UUID=a-b"],
            &["", "LABEL=", "LABEL=a b", "ID=x", "vdb"],
        );
        takes::<Size>(
            &["2g", "10 GiB", "1.5G", "1024kiB", "256Mib"],
            &["", "10", "g", "-1g", "0g", "1x", "1gg", "9999999999t"],
        );
        takes::<Position>(&["1MiB", "100%", "0%", "0"], &["", "101%", "-1%", "end", "1.5%"]);
    }

    #[test]
    fn a_small_letter_counts_by_1024_and_a_capital_one_by_1000() {
        let bytes = |text: &str| text.parse::<Size>().map(|size| size.0).ok();
        assert_eq!(bytes("2g"), Some(2 << 30));
        assert_eq!(bytes("2G"), Some(2_000_000_000));
        assert_eq!(bytes("2GB"), Some(2_000_000_000));
        assert_eq!(bytes("2gib"), Some(2 << 30));
        assert_eq!(bytes("1.5k"), Some(1536));
    }

    #[test]
    fn devices_that_follow_from_others_are_named_as_the_kernel_does() {
        let device = |text: &str| text.parse::<Device>().expect("it is a device");
        let name = |text: &str| text.parse::<VolumeName>().expect("it is a name");
        assert_eq!(device("/dev/vdb").partition(1).as_str(), "/dev/vdb1");
        assert_eq!(device("/dev/nvme0n1").partition(2).as_str(), "/dev/nvme0n1p2");
        assert_eq!(device("/dev/disk/by-id/x-1").partition(2).as_str(), "/dev/disk/by-id/x-1-part2");
        let [short, mapped] = Device::logical(&name("vg-a"), &name("x"));
        assert_eq!((short.as_str(), mapped.as_str()), ("/dev/vg-a/x", "/dev/mapper/vg--a-x"));
    }

    #[test]
    fn a_percentage_is_of_the_whole_disk() {
        assert_eq!(Position::Percent(50).on(Size(1001)), 500);
        assert_eq!(Position::Percent(100).on(Size(u64::MAX >> 1)), u64::MAX >> 1);
    }
}
