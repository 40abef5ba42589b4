//! What `appliance.storage.setup` asks for: partitions, RAID, encryption, LVM, file systems, mounts, swap, as checked types. How the text
//! is found is `setup.rs`; what does not fit together `layout_rules.rs`; what is done about it `prepare/storage/`.

use crate::value::{AbsPath, Device, FileSystemRef, Invalid, PartName, Position, Secret, Size, VolumeName};
use std::str::FromStr;

/// Everything, in the order in which it is made.
#[derive(Debug, Clone, Default)]
pub struct Layout {
    pub tables: Vec<Table>,
    pub raids: Vec<Raid>,
    pub crypts: Vec<Crypt>,
    pub physical: Vec<Device>,
    pub groups: Vec<Group>,
    pub volumes: Vec<Volume>,
    pub formats: Vec<Format>,
    pub mounts: Vec<Mount>,
    pub swaps: Vec<Device>,
}

/// A disk's partitions.
#[derive(Debug, Clone)]
pub struct Table {
    pub disk: Device,
    /// `None`: the table must be there already, and is only added to.
    pub kind: Option<TableKind>,
    /// In their order, which numbers them from 1.
    pub parts: Vec<Part>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableKind {
    Gpt,
    Mbr,
}

#[derive(Debug, Clone)]
pub struct Part {
    pub name: Option<PartName>,
    pub start: Position,
    pub end: Position,
    pub flags: Vec<Flag>,
}

/// What a partition is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flag {
    Boot,
    BiosGrub,
    Esp,
    Raid,
    Lvm,
    Swap,
}

#[derive(Debug, Clone)]
pub struct Raid {
    pub device: Device,
    pub level: RaidLevel,
    pub members: Vec<Device>,
}

/// The level, and the fewest members that it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RaidLevel {
    pub name: &'static str,
    pub fewest: usize,
}

#[derive(Debug, Clone)]
pub struct Crypt {
    pub device: Device,
    pub key: CryptKey,
    pub target: VolumeName,
}

#[derive(Debug, Clone)]
pub enum CryptKey {
    Password(Secret),
    File(AbsPath),
}

#[derive(Debug, Clone)]
pub struct Group {
    pub name: VolumeName,
    pub devices: Vec<Device>,
}

#[derive(Debug, Clone)]
pub struct Volume {
    pub name: VolumeName,
    pub group: VolumeName,
    pub size: VolumeSize,
    /// Grown to its size, its file system too, where it is smaller.
    pub expand: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VolumeSize {
    Bytes(Size),
    /// Per cent of what the group has left.
    OfFree(u8),
    /// Per cent of the group.
    OfGroup(u8),
}

#[derive(Debug, Clone)]
pub struct Format {
    pub device: Device,
    pub kind: FsKind,
    /// For the program that makes it; the device comes behind.
    pub options: Vec<String>,
}

/// The file systems that are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FsKind {
    Ext2,
    Ext3,
    Ext4,
    Xfs,
    Btrfs,
    Vfat,
    Swap,
}

#[derive(Debug, Clone)]
pub struct Mount {
    pub target: AbsPath,
    pub source: FileSystemRef,
    pub kind: Option<FsKind>,
    /// As fstab(5) has them.
    pub options: Vec<String>,
}

/// Parses a word out of a table of words.
fn one_of<T: Copy>(table: &[(&str, T)], text: &str) -> Result<T, Invalid> {
    let found = table.iter().find(|(name, _)| name.eq_ignore_ascii_case(text)).map(|(_, value)| *value);
    let names = || table.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    found.ok_or_else(|| Invalid::new(format!("one of {}", names())))
}

impl FromStr for TableKind {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        one_of(
            &[("gpt", TableKind::Gpt), ("mbr", TableKind::Mbr), ("msdos", TableKind::Mbr), ("dos", TableKind::Mbr)],
            text,
        )
    }
}

impl FromStr for Flag {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let all = [
            ("boot", Flag::Boot),
            ("bios_grub", Flag::BiosGrub),
            ("esp", Flag::Esp),
            ("raid", Flag::Raid),
            ("lvm", Flag::Lvm),
            ("swap", Flag::Swap),
        ];
        one_of(&all, text)
    }
}

impl FromStr for RaidLevel {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let all = [("0", 2), ("1", 2), ("4", 3), ("5", 3), ("6", 4), ("10", 2)]
            .map(|(name, fewest)| (name, RaidLevel { name, fewest }));
        one_of(&all, text.trim_start_matches("raid"))
    }
}

impl FromStr for FsKind {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        one_of(&FsKind::ALL.map(|kind| (kind.name(), kind)), text)
    }
}

impl FsKind {
    pub const ALL: [FsKind; 7] =
        [FsKind::Ext2, FsKind::Ext3, FsKind::Ext4, FsKind::Xfs, FsKind::Btrfs, FsKind::Vfat, FsKind::Swap];

    /// As mount(8) and blkid(8) name it.
    pub fn name(self) -> &'static str {
        match self {
            FsKind::Ext2 => "ext2",
            FsKind::Ext3 => "ext3",
            FsKind::Ext4 => "ext4",
            FsKind::Xfs => "xfs",
            FsKind::Btrfs => "btrfs",
            FsKind::Vfat => "vfat",
            FsKind::Swap => "swap",
        }
    }
}

impl FromStr for VolumeSize {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let percent = |text: &str| text.trim().parse::<u8>().ok().filter(|percent| (1..=100).contains(percent));
        let right = || Invalid::new("a size like '10g', '100%FREE' or '50%VG'");
        let upper = text.to_ascii_uppercase();
        match upper.split_once('%') {
            Some((number, "FREE")) => percent(number).map(VolumeSize::OfFree).ok_or_else(right),
            Some((number, "VG")) => percent(number).map(VolumeSize::OfGroup).ok_or_else(right),
            Some(_) => Err(right()),
            None => text.parse().map(VolumeSize::Bytes).map_err(|_| right()),
        }
    }
}
