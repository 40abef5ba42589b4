use super::*;
use crate::env::Env;
use crate::host::Drive;
use crate::prepare::storage::made::Made;
use crate::prepare::storage::seen::{Group, Volume as SeenVolume};

/// The layout of a text.
fn layout(setup: &str) -> Layout {
    let text = format!(
        "appliance: {{domain: a.example.test, storage: {{setup: {{{setup}}}}}}}\napp: {{name: shop, git: {{source: /srv/x}}}}\n"
    );
    Env::of_text(&text).appliance.storage.setup.expect("a layout")
}

fn device(path: &str) -> Device {
    path.parse().expect("it is a device")
}

fn signature(kind: &str) -> Content {
    Content::Signature { kind: kind.into(), label: None }
}

/// What is there: a path, its size in GiB, what it carries. The kernel calls it by the same path.
fn seen(blocks: &[(&str, u64, Content)]) -> Seen {
    let mut seen = Seen::default();
    for (path, size, content) in blocks {
        let block = Block { size: Size(size << 30), content: content.clone(), uuid: Some(format!("{}", path.len())) };
        seen.blocks.insert(device(path), block);
        seen.real.insert(device(path), (*path).to_owned());
    }
    seen
}

fn table(kind: &str, parts: &[(u64, u64)]) -> Content {
    let part =
        |(index, (start, end)): (usize, &(u64, u64))| Extent { number: index + 1, start: start << 20, end: end << 20 };
    Content::Table { kind: kind.into(), parts: parts.iter().enumerate().map(part).collect() }
}

/// The acts in words.
fn acts(setup: &str, seen: &Seen) -> Vec<String> {
    let acts = plan(&layout(setup), seen).unwrap_or_else(|problems| panic!("{problems:?}"));
    acts.iter().map(crate::prepare::storage::make::spoken).map(|(_, object, how)| format!("{object}: {how}")).collect()
}

/// The problems, of which there must be some.
fn problems(setup: &str, seen: &Seen) -> String {
    match plan(&layout(setup), seen) {
        Ok(acts) => panic!("no problem, but {acts:?}"),
        Err(problems) => [problems.others, problems.missing].concat().join("\n"),
    }
}

const WHOLE: &str = "parted: {/dev/vdb: {type: gpt, parts: [{name: r, start: 1MiB, end: 50%, flags: [raid]}, {start: 50%, end: 100%, flags: [raid]}]}}, \
                     mdadm: {/dev/md0: {level: 1, devices: [/dev/vdb1, /dev/vdb2]}}, \
                     crypt: {/dev/md0: {password: hush, target: vault}}, \
                     lvm: {pv: [/dev/mapper/vault], vg: {vg0: {devices: [/dev/mapper/vault]}}, \
                     lv: {data: {vgname: vg0, size: 1g}, rest: {vgname: vg0, size: 100%FREE}}}, \
                     format: {/dev/vg0/data: {fstype: ext4, options: -L ecs-data}, /dev/mapper/vg0-rest: {fstype: swap}}, \
                     mount: {/data: {device: LABEL=ecs-data, fstype: ext4}}, swap: [/dev/vg0/rest]";

#[test]
fn a_whole_layout_is_planned_before_anything_of_it_exists() {
    let told = acts(WHOLE, &seen(&[("/dev/vdb", 10, Content::Nothing)]));
    // The swap volume is formatted by one of its names and used by the other: both lead to it.
    let expected = [
        "/dev/vdb: partition as gpt: 1 'r' 1 MiB to 5 GiB; 2 5 GiB to 9.9 GiB",
        "/dev/md0: make a RAID 1 of /dev/vdb1, /dev/vdb2",
        "/dev/md0: encrypt (LUKS)",
        "/dev/md0: open as vault",
        "/dev/mapper/vault: make a physical volume of LVM",
        "vg0: make a group of /dev/mapper/vault",
        "vg0/data: make a volume of 1 GiB",
        "vg0/rest: make a volume of 100% of what is free",
        "/dev/vg0/data: format as ext4 (-L ecs-data)",
        "/dev/mapper/vg0-rest: format as swap",
        "/data: mount LABEL=ecs-data",
        "/dev/vg0/rest: swap to it",
    ];
    assert_eq!(told, expected);
}

#[test]
fn whatever_carries_something_else_is_refused_by_name_with_what_it_carries() {
    let format = "format: {/dev/vdb: {fstype: ext4}}";
    for (content, said) in [
        (signature("xfs"), "/dev/vdb carries a file system of the kind xfs, so it is not formatted as ext4"),
        (signature("LVM2_member"), "carries a physical volume of LVM"),
        (signature("linux_raid_member"), "carries a member of a RAID"),
        (signature("crypto_LUKS"), "carries a LUKS container"),
        (table("dos", &[(1, 2)]), "carries a dos partition table with 1 partitions"),
        (Content::Ambiguous, "carries several things at once"),
    ] {
        let told = problems(format, &seen(&[("/dev/vdb", 10, content)]));
        assert!(told.contains(said) && told.contains("wipefs --all /dev/vdb"), "{told}");
    }
    let mut labelled =
        seen(&[("/dev/vdb", 10, Content::Signature { kind: "ext4".into(), label: Some("precious".into()) })]);
    for setup in [
        "parted: {/dev/vdb: {type: gpt, parts: [{start: 0, end: 100%}]}}",
        "mdadm: {/dev/md0: {level: 1, devices: [/dev/vdb, /dev/vdc]}}",
        "crypt: {/dev/vdb: {password: x, target: y}}",
        "lvm: {pv: [/dev/vdb]}",
        "format: {/dev/vdb: {fstype: xfs}}",
    ] {
        labelled
            .blocks
            .insert(device("/dev/vdc"), Block { size: Size(1 << 30), content: Content::Nothing, uuid: None });
        assert!(problems(setup, &labelled).contains("('precious')"), "{setup}");
    }
}

#[test]
fn a_table_is_left_completed_or_refused() {
    let setup = "parted: {/dev/vdb: {type: gpt, parts: [{start: 1MiB, end: 1g}, {start: 1g, end: 100%}]}}";
    let with = |content| seen(&[("/dev/vdb", 10, content)]);
    assert_eq!(acts(setup, &with(table("gpt", &[(1, 1024), (1024, 10238)]))), Vec::<String>::new());
    // Another tool's alignment is near enough.
    assert_eq!(acts(setup, &with(table("gpt", &[(2, 1024), (1024, 10239)]))), Vec::<String>::new());
    assert_eq!(acts(setup, &with(table("gpt", &[(1, 1024)]))), ["/dev/vdb: add partitions: 2 1 GiB to 9.9 GiB"]);
    assert!(
        problems(setup, &with(table("dos", &[(1, 1024)])))
            .contains("carries a dos partition table with 1 partitions, so it is not given a gpt one")
    );
    assert!(
        problems(setup, &with(table("gpt", &[(1, 2048)])))
            .contains("partition 1 of /dev/vdb is there already, from 1 MiB to 2 GiB, not from 1 MiB to 1 GiB")
    );
    assert!(
        problems(setup, &with(table("gpt", &[(1, 1024), (3000, 4000)])))
            .contains("partition 2 of /dev/vdb is there already")
    );
    let added = "parted: {/dev/vdb: {parts: [{start: 0, end: 1g}, {start: 5g, end: 100%}]}}";
    assert_eq!(acts(added, &with(table("dos", &[(1, 4000)]))), ["/dev/vdb: add partitions: 2 5 GiB to 9.9 GiB"]);
    assert!(
        problems(added, &with(table("dos", &[(1, 6000)])))
            .contains("partition 2 of /dev/vdb would lie over partition 1")
    );
    assert!(problems(added, &with(Content::Nothing)).contains("has no partition table"));
}

#[test]
fn sizes_that_the_disk_does_not_have_are_told_before_anything_is_written() {
    let disk = seen(&[("/dev/vdb", 10, Content::Nothing)]);
    let parts = |parts: &str| problems(&format!("parted: {{/dev/vdb: {{type: gpt, parts: [{parts}]}}}}"), &disk);
    assert!(parts("{start: 0, end: 11g}").contains("partition 1 of /dev/vdb ends at 11 GiB, but the disk has 10 GiB"));
    assert!(parts("{start: 6g, end: 50%}").contains("has no room"));
    assert!(
        parts("{start: 0, end: 60%}, {start: 5g, end: 9g}").contains("begins at 5 GiB, before the one before it ends")
    );
    let lvm = "lvm: {vg: {vg0: {devices: [/dev/vdb]}}, lv: {a: {vgname: vg0, size: 6g}, b: {vgname: vg0, size: 6g}}}";
    assert!(problems(lvm, &disk).contains("the volume b needs 6 GiB more, but the group vg0 has 3.9 GiB left"));
    assert!(problems("lvm: {lv: {a: {vgname: vg9, size: 6g}}}", &disk).contains("there is no group vg9"));
}

#[test]
fn devices_that_are_missing_are_told_with_what_they_were_to_be() {
    let told = problems(
        "mdadm: {/dev/md0: {level: 1, devices: [/dev/vdb, /dev/vdc]}}",
        &seen(&[("/dev/vdb", 1, Content::Nothing)]),
    );
    assert_eq!(told, "there is no /dev/vdc, which is to be a member of /dev/md0");
}

#[test]
fn members_of_a_raid_are_made_assembled_or_refused() {
    let setup = "mdadm: {/dev/md0: {level: 1, devices: [/dev/vdb, /dev/vdc]}}";
    let of = |one: Content, other: Content| seen(&[("/dev/vdb", 1, one), ("/dev/vdc", 1, other)]);
    let member = || signature("linux_raid_member");
    assert_eq!(acts(setup, &of(member(), member())), ["/dev/md0: assemble from /dev/vdb, /dev/vdc"]);
    assert!(problems(setup, &of(member(), Content::Nothing)).contains("some devices of /dev/md0 are members"));
    let mut running = of(member(), member());
    running.blocks.insert(device("/dev/md0"), Block { size: Size(1 << 30), content: Content::Nothing, uuid: None });
    running.raids.insert(device("/dev/md0"), "5".into());
    assert!(problems(setup, &running).contains("/dev/md0 is a RAID 5, not a RAID 1"));
}

#[test]
fn what_lies_behind_a_closed_device_is_left_for_when_it_is_open() {
    let seen = seen(&[("/dev/vdb", 10, signature("crypto_LUKS"))]);
    let setup = "crypt: {/dev/vdb: {password: x, target: v}}, lvm: {vg: {g: {devices: [/dev/mapper/v]}}, lv: {a: {vgname: g, size: 1g}}}, \
                 format: {/dev/g/a: {fstype: ext4}}, mount: {/data: {device: /dev/g/a}}";
    assert_eq!(acts(setup, &seen), ["/dev/vdb: open as v"]);
}

/// Killed right after a container was made: nothing is in it yet, and what is to be mounted by its label comes later.
#[test]
fn what_is_made_behind_a_closed_device_is_mounted_once_that_is_open() {
    let mut world =
        seen(&[("/dev/vdb", 10, table("gpt", &[(1, 5120), (5120, 10239)])), ("/dev/md0", 5, signature("crypto_LUKS"))]);
    for part in ["/dev/vdb1", "/dev/vdb2"] {
        let block = Block { size: Size(5 << 30), content: signature("linux_raid_member"), uuid: None };
        world.blocks.insert(device(part), block);
    }
    world.raids.insert(device("/dev/md0"), "1".to_owned());
    assert_eq!(acts(WHOLE, &world), ["/dev/md0: open as vault"]);
    // Open, and blank: all of it is made, and mounted.
    world
        .blocks
        .insert(device("/dev/mapper/vault"), Block { size: Size(5 << 30), content: Content::Nothing, uuid: None });
    let told = acts(WHOLE, &world);
    assert_eq!(told.first().map(String::as_str), Some("/dev/mapper/vault: make a physical volume of LVM"), "{told:?}");
    assert!(told.contains(&"/data: mount LABEL=ecs-data".to_owned()), "{told:?}");
}

#[test]
fn volumes_grow_only_where_that_is_asked_for() {
    let mut seen = seen(&[
        ("/dev/vdb", 10, signature("LVM2_member")),
        ("/dev/g/a", 1, signature("ext4")),
        ("/dev/mapper/g-a", 1, signature("ext4")),
    ]);
    seen.physical.insert("/dev/vdb".into(), "g".into());
    seen.groups.insert("g".into(), Group { size: Size(9 << 30), free: 8 << 30, extent: 4 << 20 });
    seen.volumes.insert(("g".into(), "a".into()), SeenVolume { size: Size(1 << 30), is_active: true });
    let setup =
        |more: &str| format!("lvm: {{vg: {{g: {{devices: [/dev/vdb]}}}}, lv: {{a: {{vgname: g, size: 2g{more}}}}}}}");
    assert_eq!(acts(&setup(""), &seen), Vec::<String>::new());
    assert_eq!(acts(&setup(", expand: true"), &seen), ["g/a: grow from 1 GiB to 2 GiB, its file system too"]);
    seen.volumes.insert(("g".into(), "a".into()), SeenVolume { size: Size(2 << 30), is_active: true });
    assert_eq!(acts(&setup(", expand: true"), &seen), Vec::<String>::new());
    // Killed between the volume and what is on it.
    seen.making = Some(Made { device: device("/dev/g/a"), uuid: String::new() });
    assert_eq!(acts(&setup(", expand: true"), &seen), ["g/a: grow its file system"]);
    seen.physical.insert("/dev/vdb".into(), "other".into());
    assert!(problems(&setup(""), &seen).contains("/dev/vdb belongs to the group other, not to g"));
}

#[test]
fn what_a_killed_run_left_is_cleared_and_made_anew_by_its_uuid_alone() {
    let mut seen = seen(&[("/dev/vdb", 10, signature("ext4")), ("/dev/vdcc", 10, signature("xfs"))]);
    // The devices have changed their names since.
    seen.making = Some(Made { device: device("/dev/vdz"), uuid: "8".into() });
    let told = acts("format: {/dev/vdb: {fstype: ext4}}", &seen);
    assert_eq!(told, ["/dev/vdb: clear what an interrupted run left", "/dev/vdb: format as ext4"]);
    assert!(problems("format: {/dev/vdcc: {fstype: ext4}}", &seen).contains("carries a file system of the kind xfs"));
}

#[test]
fn a_raid_goes_with_its_half_made_members_and_stays_under_what_is_half_made_on_it() {
    let setup =
        "mdadm: {/dev/md0: {level: 1, devices: [/dev/vdb, /dev/vdcc]}}, crypt: {/dev/md0: {password: x, target: v}}";
    let member = || signature("linux_raid_member");
    let mut seen =
        seen(&[("/dev/vdb", 1, member()), ("/dev/vdcc", 1, member()), ("/dev/md0", 1, signature("crypto_LUKS"))]);
    seen.raids.insert(device("/dev/md0"), "1".into());
    for block in seen.blocks.values_mut() {
        block.uuid = Some(if block.content == member() { "a".into() } else { "c".into() });
    }
    seen.making = Some(Made { device: device("/dev/md0"), uuid: "c".into() });
    assert_eq!(acts(setup, &seen)[..2], ["/dev/md0: clear what an interrupted run left", "/dev/md0: encrypt (LUKS)"]);
    seen.making = Some(Made { device: device("/dev/md0"), uuid: "a".into() });
    let told = acts(setup, &seen);
    assert_eq!(told[..2], ["/dev/vdb", "/dev/vdcc"].map(|path| format!("{path}: clear what an interrupted run left")));
    assert_eq!(told[2], "/dev/md0: make a RAID 1 of /dev/vdb, /dev/vdcc");
}

#[test]
fn two_volumes_of_one_label_are_not_chosen_between() {
    let drive = |device: &str| Drive { device: device.into(), label: "ecs-data".into(), kind: "ext4".into() };
    let mut seen = seen(&[]);
    let setup = "mount: {/data: {device: LABEL=ecs-data}}";
    assert!(problems(setup, &seen).contains("no file system is labelled 'ecs-data'"));
    seen.drives = vec![drive("/dev/vdb"), drive("/dev/vdc")];
    assert!(problems(setup, &seen).contains("two file systems are labelled 'ecs-data', /dev/vdb and /dev/vdc"));
    seen.drives.pop();
    assert_eq!(acts(setup, &seen), ["/data: mount LABEL=ecs-data"]);
    seen.mounted.insert("/data".into(), "/dev/vdb".into());
    assert_eq!(acts(setup, &seen), Vec::<String>::new());
    seen.mounted.insert("/data".into(), "tmpfs".into());
    assert!(problems(setup, &seen).contains("tmpfs is mounted on /data, but LABEL=ecs-data is asked for"));
}
