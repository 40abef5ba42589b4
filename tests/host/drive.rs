//! A drive for a test host: an image on a loop device of this machine, and its node on the host.

use super::{Machine, rootfs};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::PathBuf;

/// `/var/lib` on a file system that is no overlay, as on a real host: Docker and PostgreSQL live there as directories.
pub fn put_lib_on(machine: &Machine, device: &str) {
    machine.ok(&format!(
        "set -e; systemctl stop docker.socket docker.service postgresql.service
         mount {device} /mnt; cp -a /var/lib/. /mnt/; umount /mnt; umount /var/lib/docker
         mount {device} /var/lib; systemctl start postgresql.service docker.service
         ! mountpoint -q /var/lib/docker; docker info -f '{{{{.Driver}}}}' | grep -q overlay2"
    ));
}

pub struct Drive {
    image: PathBuf,
    device: String,
}

impl Drive {
    /// A file system of that kind (ext4, xfs) and label; `fill` is a script that runs in its root.
    pub fn plug_in(machine: &Machine, kind: &str, label: &str, fill: &str) -> Drive {
        // The smallest that mkfs.xfs makes.
        Drive::of_size(machine, kind, label, "300M", fill)
    }

    /// The same, of a size that truncate(1) understands; a hole in a file.
    pub fn of_size(machine: &Machine, kind: &str, label: &str, size: &str, fill: &str) -> Drive {
        let address = machine.address();
        let image = std::env::temp_dir().join(format!("appliance-drive-{address}-{label}-{kind}.img"));
        let path = image.display().to_string();
        rootfs::run("truncate", &[&format!("--size={size}"), &path]);
        match kind {
            "ext4" => drop(rootfs::run("mkfs.ext4", &["-q", "-F", "-L", label, &path])),
            _ => drop(rootfs::run("mkfs.xfs", &["-q", "-f", "-L", label, &path])),
        }
        let device = rootfs::run("losetup", &["--find", "--show", &path]).trim().to_owned();
        let mounted = std::env::temp_dir().join(format!("appliance-drive-{address}-{label}-{kind}"));
        fs::create_dir_all(&mounted).expect("the mount point can be made");
        let script =
            format!("mount {device} '{0}'; trap \"cd /; umount '{0}'\" EXIT; cd '{0}'; {fill}", mounted.display());
        rootfs::run("sh", &["-ec", &script]);
        let number = device.trim_start_matches("/dev/loop");
        machine.ok(&format!("test -e {device} || mknod {device} b 7 {number}"));
        Drive { image, device }
    }

    pub fn device(&self) -> &str {
        &self.device
    }

    /// What is on the drive, to see whether somebody wrote to it.
    pub fn digest(&self) -> Vec<u8> {
        rootfs::run("sync", &[]);
        Sha256::digest(fs::read(&self.image).expect("the image can be read")).to_vec()
    }

    /// Takes the drive away; fails while it is mounted anywhere.
    pub fn unplug(self, machine: &Machine) {
        super::wait_for("the drive to be free", std::time::Duration::from_secs(20), || {
            let users = rootfs::run("losetup", &["--list", "--noheadings", "--output", "AUTOCLEAR", &self.device]);
            let output = std::process::Command::new("losetup")
                .args(["--detach", &self.device])
                .output()
                .expect("losetup can be run");
            // Detaching a device in use succeeds at once and takes place when the last user goes.
            let gone = !rootfs::run("losetup", &["--list", "--noheadings", "--output", "NAME"])
                .lines()
                .any(|name| name.trim() == self.device);
            if gone { Ok(()) } else { Err(format!("autoclear {users}; {}", String::from_utf8_lossy(&output.stderr))) }
        });
        machine.ok(&format!("rm {}", self.device));
    }
}

impl Drop for Drive {
    fn drop(&mut self) {
        // Gone already after `unplug`.
        drop(std::process::Command::new("losetup").args(["--detach", &self.device]).output());
        drop(fs::remove_file(&self.image));
    }
}
