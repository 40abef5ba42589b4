//! The storage layout on real disks: made from nothing, killed before and after every single command, once more, refused, at the next boot.

use crate::host::sample::{is_soak, seed};
use crate::host::vm::Vm;
use std::path::Path;

/// Disks as large as the layout needs them; they are holes in files.
const DISK: &str = "3G";

const ENV: &str = r#"appliance:
  domain: a.example.test
  storage:
    setup:
      parted:
        /dev/vdc: &disk
          type: gpt
          parts:
            - {name: grub, start: 1024kiB, end: 2048KiB, flags: [bios_grub]}
            - {name: mirror, start: 2MiB, end: 60%, flags: [raid]}
            - {name: "own part", start: 60%, end: 100%}
        /dev/vdd: *disk
        /dev/disk/by-id/virtio-disk2:
          type: mbr
          parts:
            - {start: 1MiB, end: 50%, flags: [boot]}
            - {start: 50%, end: 100%, flags: [lvm]}
      mdadm:
        /dev/md0:
          - level: 1
          - devices: [/dev/vdc2, /dev/vdd2]
      crypt:
        /dev/md0: {password: "my useless pass'word", target: vault}
      lvm:
        pv: [/dev/mapper/vault]
        vg:
          vg-0: {devices: [/dev/mapper/vault]}
        lv:
          data: {vgname: vg-0, size: 400m}
          images: {vgname: vg-0, size: 0.4g}
          swap: {vgname: vg-0, size: 100%FREE}
      format:
        /dev/vg-0/data: {fstype: ext4, options: ["-L ecs-data", -m 0]}
        /dev/mapper/vg--0-images: {fstype: xfs, options: -L images}
        /dev/vg-0/swap: {fstype: swap}
        /dev/vdc3: {fstype: ext4, options: -L ecs-volatile}
        /dev/vdd3: {fstype: btrfs}
        /dev/disk/by-id/virtio-disk2-part1: {fstype: vfat, options: -n EFI}
      mount:
        /data: {device: LABEL=ecs-data, fstype: ext4, opts: "noatime,nosuid"}
        /srv/images: {device: /dev/vg-0/images, mkmnt: true}
        "/srv/my files": {device: /dev/vdd3, fstype: btrfs}
        /boot/efi: {device: LABEL=EFI}
      swap: [/dev/vg-0/swap]
app: {name: shop, git: {source: /srv/x.git}}
"#;

/// Runs the program until it gets through. Wrappers stand in the way of every command that changes a disk: some of them, by the seed,
/// end the program before the command runs or after it; all of them do both where `EVERY` is 1.
const KILLED: &str = r#"
mkdir -p /run/acts
cat > /run/wrapper <<'W'
#!/bin/sh
tool=$(basename "$0"); real=/usr/sbin/$tool; [ -x $real ] || real=/usr/bin/$tool
case "$*" in *--json*|*--detail*|*--test-passphrase*|*--export*) exec $real "$@";; esac
for last in "$@"; do :; done
key=$tool.$(echo "$1 $last" | tr -c 'a-zA-Z0-9\n' _)
times=$(cat /run/acts/$key 2>/dev/null || echo 0); echo $((times + 1)) > /run/acts/$key
hash=$(echo SEED $key | cksum | cut -d ' ' -f 1)
before=no; after=no
if [ EVERY = 1 ]; then
  [ $times = 0 ] && before=yes; [ $times = 1 ] && after=yes
elif [ $((hash % EVERY)) = 0 ] && [ $times = 0 ]; then
  if [ $((hash / EVERY % 2)) = 0 ]; then before=yes; else after=yes; fi
fi
[ $before = yes ] && { echo "before $key" >> /run/killed; kill -9 $PPID; exit 9; }
$real "$@"; code=$?
[ $after = yes ] && { echo "after $key" >> /run/killed; kill -9 $PPID; }
exit $code
W
for tool in sfdisk mdadm cryptsetup pvcreate vgcreate lvcreate lvextend fsadm mkfs.ext4 mkfs.xfs mkfs.btrfs mkfs.vfat mkswap mount swapon wipefs; do
  cp /run/wrapper /usr/local/sbin/$tool; chmod 755 /usr/local/sbin/$tool
done
: > /run/killed
runs=1
until $A prepare --step storage > /run/said 2>&1; do
  runs=$((runs + 1))
  # What ends with an error, and not by the wrappers, is one.
  grep error: /run/said && { cat /proc/mdstat; lsblk; cat /var/lib/appliance/*.json; exit 1; }
  [ $runs -lt 200 ] || exit 1
done
rm /usr/local/sbin/*
echo "runs: $runs, killed: $(tr '\n' ',' < /run/killed)"
"#;

const LOOK: &str = r#"
# What udev knows may be from before the format, where it had much to do.
udevadm trigger --settle --subsystem-match=block
lsblk --noheadings --raw --output NAME,TYPE,FSTYPE,LABEL,MOUNTPOINTS | grep -v -e ^vda -e ^vdb -e ^sr -e ^loop | sort -u
findmnt --noheadings --output TARGET,OPTIONS /data | grep -o -e /data -e noatime -e nosuid
"#;

#[test]
fn a_layout_is_made_from_nothing_whatever_is_killed_and_found_again() {
    let directory = tempfile::tempdir().expect("a directory can be made");
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test/appliance");
    let env = directory.path().join("env.yml");
    std::fs::write(&env, ENV).expect("the file can be written");
    let vm = Vm::new().disk(DISK).disk(DISK).disk(DISK);
    let begin = "set -e; A=$PWD/appliance; mkdir -p /app /var/lib/appliance; cp env.yml /app/env.yml\n\
                 id app >/dev/null 2>&1 || { useradd --create-home app; useradd --system postgres; }\n";
    let killed = KILLED.replace("SEED", &seed().to_string()).replace("EVERY", if is_soak() { "1" } else { "5" });
    let script = format!(
        "{begin}echo PLAN; $A plan --step storage || [ $? = 2 ]
         [ ! -e /dev/vdc1 ]
         echo MADE; {killed}{LOOK}
         echo AGAIN; $A prepare --step storage
         echo precious > /data/kept; echo cached > /volatile/kept; echo image > /srv/images/kept; sync"
    );
    let said = vm.boot(&[&program, &env], &script);
    println!("{said}");
    let (plan, rest) = said.split_once("MADE\n").expect("the plan comes first");
    for part in [
        "/dev/vdc  partition as gpt: 1 'grub' 1 MiB to 2 MiB; 2 'mirror' 2 MiB to 1.7 GiB; 3 'own part' 1.8 GiB to 2.9 GiB",
        "/dev/md0  make a RAID 1 of /dev/vdc2, /dev/vdd2",
        "/dev/md0  encrypt (LUKS)",
        "vg-0/swap  make a volume of 100% of what is free",
        "/dev/vg-0/data  format as ext4 (-L ecs-data -m 0)",
        "/data  mount LABEL=ecs-data",
    ] {
        let squeezed = plan.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(squeezed.contains(&part.replace("  ", " ")), "{part}: {plan}");
    }
    assert!(!said.contains("useless"), "the password shows: {said}");
    for part in [
        "vg--0-data lvm ext4 ecs-data /data\n",
        "vg--0-images lvm xfs images /srv/images\n",
        "vg--0-swap lvm swap  [SWAP]\n",
        "vdc3 part ext4 ecs-volatile /volatile\n",
        "vdd3 part btrfs  /srv/my\\x20files\n",
        "vde1 part vfat EFI /boot/efi\n",
        "vault crypt LVM2_member  \n",
        "/data\nnosuid\nnoatime\n",
        "AGAIN\nnothing to do\n",
    ] {
        assert!(rest.contains(part), "{part:?} is not in: {rest}");
    }

    // The next boot: what is not encrypted is there by itself, the rest with the appliance. Then what must be refused.
    let script = format!(
        "{begin}findmnt --noheadings --output SOURCE /volatile; ! findmnt /data
         echo WRONG; sed -i 's/my useless/your useless/' /app/env.yml; ! $A prepare --step storage
         cp env.yml /app/env.yml; $A prepare --step storage; cat /data/kept /volatile/kept /srv/images/kept
         echo GROWN; sed -i 's/size: 400m/size: 480m, expand: true/; s/100%FREE/10%VG/' /app/env.yml; swapoff -a; lvremove -qq --yes vg-0/swap
         umount /volatile; $A prepare --step storage | tr -s ' '; df --output=size -m /data | tail -1; cat /data/kept
         echo REFUSED; umount /volatile; sed -i 's/fstype: btrfs}}/fstype: xfs}}/; s/end: 60%/end: 50%/' /app/env.yml; ! $A prepare --step storage; findmnt --noheadings --output TARGET /data"
    );
    let said = vm.boot(&[&program, &env], &script);
    println!("{said}");
    for part in [
        "/dev/vdc3\n",
        "the key in appliance.storage.setup does not open /dev/md0; nothing was changed",
        "precious\ncached\nimage\n",
        "grow from 400 MiB to 480 MiB, its file system too",
        "partition 2 of /dev/vdc is there already",
        "/dev/vdd3 carries a file system of the kind btrfs",
    ] {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
    let grown = said.split_once("GROWN\n").and_then(|(_, rest)| rest.split_once("precious")).expect("it has grown").0;
    let size: u32 = grown.lines().last().and_then(|line| line.trim().parse().ok()).expect("df tells a size");
    assert!(size > 430, "the file system has {size} MB");
}

const GROWN: &str = r#"
cat > /run/wrapper <<'W'
#!/bin/sh
tool=$(basename "$0"); real=/usr/sbin/$tool; [ -x $real ] || real=/usr/bin/$tool; [ $tool != systemd-growfs ] || real=/run/growfs
times=$(cat /run/times-$tool 2>/dev/null || echo 0); echo $((times + 1)) > /run/times-$tool
[ $times = 0 ] && { echo "before $tool" >> /run/killed; kill -9 $PPID; exit 9; }
$real "$@"; code=$?
[ $times = 1 ] && { echo "after $tool" >> /run/killed; kill -9 $PPID; }
exit $code
W
chmod 755 /run/wrapper; mount -o remount,exec /run
for tool in sfdisk partx; do cp /run/wrapper /usr/local/sbin/$tool; done
cp /lib/systemd/systemd-growfs /run/growfs; mount --bind /run/wrapper /lib/systemd/systemd-growfs
: > /run/killed
runs=1
until $A prepare --step storage > /run/said 2>&1; do
  runs=$((runs + 1))
  grep error: /run/said && { lsblk; cat /var/lib/appliance/*.json; exit 1; }
  [ $runs -lt 20 ] || exit 1
done
umount /lib/systemd/systemd-growfs; rm /usr/local/sbin/*
echo "killed: $(tr '\n' ',' < /run/killed)"
"#;

#[test]
fn the_root_grows_with_its_disk_whatever_is_killed() {
    let directory = tempfile::tempdir().expect("a directory can be made");
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test/appliance");
    let env = directory.path().join("env.yml");
    let text = "appliance:\n  domain: a.example.test\n  storage: {grow_root: true, ignore: {data: true, volatile: true}}\n\
                app: {name: shop, git: {source: /srv/x.git}}\n";
    std::fs::write(&env, text).expect("the file can be written");
    let vm = Vm::new();
    vm.grow_root("5G");
    let begin = "set -e; A=$PWD/appliance; mkdir -p /app /var/lib/appliance; cp env.yml /app/env.yml\n\
                 id app >/dev/null 2>&1 || { useradd --create-home app; useradd --system postgres; }\n";
    let size = "df --output=size --block-size=1M / | tail -n 1";
    let script = format!(
        "{begin}echo BEFORE $({size}); $A plan --step storage || [ $? = 2 ]
         echo PLANNED $({size}); {GROWN}
         echo AFTER $({size}); sfdisk --verify /dev/vda; $A prepare --step storage"
    );
    let said = vm.boot(&[&program, &env], &script);
    println!("{said}");
    let number = |word: &str| -> u64 {
        let line = said.lines().find_map(|line| line.strip_prefix(word));
        line.and_then(|number| number.trim().parse().ok()).unwrap_or_else(|| panic!("no {word} in {said}"))
    };
    assert!(said.contains("/dev/vda1") && said.contains("grow by 2.0 GiB"), "{said}");
    assert!(number("BEFORE") < 3100 && number("PLANNED") == number("BEFORE"), "{said}");
    assert!(number("AFTER") > 4700, "{said}");
    let killed =
        "killed: before sfdisk,after sfdisk,before partx,after partx,before systemd-growfs,after systemd-growfs,";
    for part in killed.trim_start_matches("killed: ").split_terminator(',') {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(said.contains("No errors detected") && said.ends_with("nothing to do\n"), "{said}");
}
