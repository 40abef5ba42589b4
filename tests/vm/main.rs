//! In a virtual machine: what the kernel of the machine that tests does not have (file systems of drives, cloud-init as
//! the machine's own).
#![allow(clippy::disallowed_methods)] // The house's door is for the house; tests drive the machine from outside.

mod appliance;
#[path = "../host/mod.rs"]
mod host;
mod image;
mod repository;
mod storage;
mod vagrant;

use host::{rootfs::run, vm};
use std::path::Path;

/// The drive that `env package` makes is taken by cloud-init and by the appliance, and so are the other kinds.
#[test]
fn drives_as_clouds_have_them_are_read() {
    let directory = tempfile::tempdir().expect("a directory can be made");
    let here = |name: &str| directory.path().join(name);
    let path = |name: &str| here(name).display().to_string();
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test/appliance");
    let appliance = program.display().to_string();
    let env = |domain: &str| {
        format!(
            "#cloud-config\nlocale: C.UTF-8\nssh_genkeytypes: []\nwrite_files: [{{path: /etc/seen, content: {domain}}}]\nappliance: {{domain: {domain}}}\n\
             app: {{name: shop, git: {{source: /srv/x.git}}}}\n"
        )
    };
    std::fs::write(here("env.yml"), env("cdrom.example.test")).expect("the file can be written");
    run(&appliance, &["env", "package", &path("env.yml")]);
    // FAT has only upper-case labels; config-2 as OpenStack makes it.
    std::fs::write(here("user-data"), env("fat.example.test")).expect("the file can be written");
    std::fs::write(here("user_data"), env("config.example.test")).expect("the file can be written");
    run("truncate", &["--size=8M", &path("fat.img")]);
    run("mkfs.vfat", &["-n", "CIDATA", &path("fat.img")]);
    run("mcopy", &["-i", &path("fat.img"), &path("user-data"), "::user-data"]);
    let graft = format!("openstack/latest/user_data={}", path("user_data"));
    run(
        "xorriso",
        &[
            "-as",
            "mkisofs",
            "-quiet",
            "-volid",
            "config-2",
            "-J",
            "-R",
            "-output",
            &path("config.iso"),
            "-graft-points",
            &graft,
        ],
    );

    let said = vm::Vm::new().cdrom(&here("env-cidata.iso")).boot(
        &[&program, &here("fat.img"), &here("config.iso")],
        "set -e; A=$PWD/appliance
         cloud-init status --long > status || true; grep -A9 errors status || true; echo cloud-init: $(sed -n 1p status) $(hostname) $(cat /etc/seen)
         domain() { $A env check > check 2> said || { cat said; exit 1; }; echo $1 $(cut -d' ' -f1 check) $($A env show --format env appliance | grep _DOMAIN=); }
         domain cdrom
         F=$(losetup --find --show fat.img); domain fat; losetup --detach $F
         C=$(losetup --find --show config.iso); domain both
         echo 1 > /sys/block/sr0/device/delete; domain config
         ! grep -e iso9660 -e vfat /proc/self/mountinfo",
    );
    let lines: Vec<&str> = said.lines().filter(|line| !line.starts_with('[')).collect();
    assert_eq!(
        lines,
        [
            "cloud-init: status: done cdrom cdrom.example.test",
            "cdrom cidata:user-data APPLIANCE_DOMAIN=cdrom.example.test",
            "fat cidata:user-data APPLIANCE_DOMAIN=fat.example.test",
            "both cidata:user-data APPLIANCE_DOMAIN=cdrom.example.test",
            "config config-2:openstack/latest/user_data APPLIANCE_DOMAIN=config.example.test",
        ],
        "{said}"
    );
}
