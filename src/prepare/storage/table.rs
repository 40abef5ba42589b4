//! Our lines in `/etc/fstab`, in a managed block: by UUID, and so that a boot does not wait for a disk that is gone. A disk that comes
//! later is mounted when it does.

use crate::env::layout::Mount;
use crate::host::{Dir, File, Host, replace_block};
use anyhow::Result;

const FSTAB: &str = "/etc/fstab";
const MAX: u64 = 1 << 20;
const BLOCK: &str = "appliance";
/// How long a boot waits for a disk.
const PATIENCE: &str = "nofail,x-systemd.device-timeout=30s";

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fstab {
    uuid: String,
    /// `none` for swap.
    target: String,
    kind: String,
    options: String,
}

impl Fstab {
    pub fn of(uuid: &str, mount: &Mount) -> Fstab {
        Fstab {
            uuid: uuid.to_owned(),
            target: mount.target.to_string(),
            kind: mount.kind.map_or("auto", |kind| kind.name()).to_owned(),
            options: Fstab::options(mount),
        }
    }

    pub fn swap(uuid: &str) -> Fstab {
        Fstab { uuid: uuid.to_owned(), target: "none".into(), kind: "swap".into(), options: "sw".into() }
    }

    /// The options that the user asked for, or the usual ones. On the data volume, which containers and host user 1000 write, nothing becomes
    /// root or is a device.
    pub fn options(mount: &Mount) -> String {
        let asked: Vec<&str> = mount.options.iter().map(String::as_str).filter(|option| !option.is_empty()).collect();
        match (asked.is_empty(), mount.target.as_str()) {
            (true, "/data") => "defaults,nosuid,nodev".to_owned(),
            (true, _) => "defaults".to_owned(),
            (false, _) => asked.join(","),
        }
    }

    fn line(&self) -> String {
        let pass = if self.kind == "swap" { 0 } else { 2 };
        let fields =
            [&*format!("UUID={}", self.uuid), &self.target, &self.kind, &format!("{},{PATIENCE}", self.options)];
        format!("{} 0 {pass}\n", fields.map(escaped).join(" "))
    }

    /// The file with this line in our block in the place of the one for the same target or UUID; as it is where others mount there.
    fn merged_into(&self, text: &str) -> String {
        let (begin, end) = (format!("# begin {BLOCK}\n"), format!("# end {BLOCK}\n"));
        let block = text.split_once(&begin).and_then(|(_, rest)| rest.split_once(&end)).map_or("", |(block, _)| block);
        let theirs = text.replace(block, "");
        let column = |line: &str, index| line.split_whitespace().nth(index).unwrap_or_default().to_owned();
        let target = escaped(&self.target);
        let uuid = format!("UUID={}", self.uuid);
        let is_same = |line: &str| column(line, 0) == uuid || target != "none" && column(line, 1) == target;
        if theirs.lines().any(|line| !line.trim_start().starts_with('#') && is_same(line)) {
            return text.to_owned();
        }
        // In its place: the order of lines is nobody's wish.
        let mut own = Some(self.line());
        let mut lines = String::new();
        for line in block.lines() {
            lines.push_str(&if is_same(line) { own.take().unwrap_or_default() } else { format!("{line}\n") });
        }
        replace_block(text, BLOCK, &(lines + &own.unwrap_or_default()))
    }

    /// Brings the line about, and that a disk which comes after the boot is mounted when it does.
    pub async fn ensure(&self, host: &Host) -> Result<()> {
        let text = host.read_text(FSTAB, MAX)?.unwrap_or_default();
        let changed = host.ensure_file(FSTAB, &File::text(self.merged_into(&text)))?;
        let mut linked = crate::host::Changed::No;
        if self.target != "none" {
            let device =
                format!("/etc/systemd/system/{}.device.wants", unit_name(&format!("dev/disk/by-uuid/{}", self.uuid)));
            let unit = format!("{}.mount", unit_name(self.target.trim_matches('/')));
            host.ensure_dir(&device, &Dir::plain())?;
            linked = host.ensure_link(&format!("{device}/{unit}"), &format!("/run/systemd/generator/{unit}"))?;
        }
        if changed.or(linked).yes() && host.applies() {
            host.reload_units().await?;
        }
        Ok(())
    }
}

/// As fstab(5) escapes what would end a field.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\134").replace(' ', "\\040").replace('\t', "\\011").replace('\n', "\\012")
}

/// A path as a unit's name has it (systemd.unit(5), "String escaping for inclusion in unit names").
fn unit_name(path: &str) -> String {
    let byte = |(index, byte): (usize, u8)| match byte {
        b'/' => "-".to_owned(),
        b'.' if index > 0 => ".".to_owned(),
        byte if byte.is_ascii_alphanumeric() || b":_".contains(&byte) => char::from(byte).to_string(),
        byte => format!("\\x{byte:02x}"),
    };
    path.bytes().enumerate().map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(uuid: &str, target: &str) -> Fstab {
        Fstab { uuid: uuid.into(), target: target.into(), kind: "ext4".into(), options: "defaults".into() }
    }

    #[test]
    fn a_line_replaces_the_one_for_the_same_place_and_leaves_others_alone() {
        let own = "proc /proc proc defaults 0 0\n";
        let once = line("1", "/data").merged_into(own);
        let ours = "UUID=1 /data ext4 defaults,nofail,x-systemd.device-timeout=30s 0 2\n";
        assert_eq!(once, format!("{own}# begin appliance\n{ours}# end appliance\n"));
        assert_eq!(line("1", "/data").merged_into(&once), once);
        let second = line("2", "/a b").merged_into(&once);
        assert!(second.contains(ours) && second.contains("UUID=2 /a\\040b ext4"), "{second}");
        assert_eq!(line("1", "/data").merged_into(&second), second);
        let moved = line("3", "/data").merged_into(&second);
        assert!(!moved.contains("UUID=1") && moved.contains("UUID=3 /data") && moved.contains("UUID=2"), "{moved}");
    }

    #[test]
    fn where_others_mount_already_nothing_is_added() {
        let theirs = "/dev/sdb1 /data ext4 defaults 0 2\n";
        assert_eq!(line("1", "/data").merged_into(theirs), theirs);
        assert!(line("1", "/data").merged_into("# /dev/sdb1 /data ext4\n").contains("UUID=1"));
    }

    #[test]
    fn unit_names_are_escaped_as_systemd_escapes_them() {
        assert_eq!(unit_name("dev/disk/by-uuid/0a-1b"), "dev-disk-by\\x2duuid-0a\\x2d1b");
        assert_eq!(unit_name(".a/b.c"), "\\x2ea-b.c");
    }
}
