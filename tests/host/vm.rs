//! A virtual machine for what needs a kernel of its own: Debian's, under QEMU without hardware help. It boots, runs one
//! script as root, and powers off; what the script printed is the result.

use super::rootfs::{build_part, cache, lock_cache, mmdebstrap, part_hash, run};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Debian's packages of the machine.
const PACKAGES: &str = "systemd,systemd-sysv,dbus,udev,iproute2,procps,ca-certificates,cloud-init,linux-image-cloud-amd64,\
initramfs-tools,zstd,dosfstools,kmod,fdisk,mdadm,cryptsetup-bin,lvm2,e2fsprogs,xfsprogs,btrfs-progs";
/// Runs the script of the payload disk when everything else is up, cloud-init included.
const UNIT: &str = "[Unit]\nAfter=multi-user.target cloud-final.service\n[Service]\nType=idle\nStandardOutput=tty\nStandardError=tty\n\
TTYPath=/dev/ttyS0\nExecStart=/bin/sh -c 'mkdir -p /root/payload && tar -xf /dev/disk/by-id/virtio-payload -C /root/payload; \
echo VM-BEGIN; cd /root/payload && sh ./script 2>&1; echo VM-END $?; systemctl poweroff --force'\n\
[Install]\nWantedBy=graphical.target\n";
/// How long a run may take, in seconds: an emulated machine is slow.
const RUN_S: u64 = 900;

struct Image {
    disk: PathBuf,
    kernel: PathBuf,
    initrd: PathBuf,
}

fn image() -> Image {
    let _lock = lock_cache();
    let directory = cache().join(format!("vm-{}", part_hash(&[PACKAGES, UNIT, "3"])));
    build_part(&directory, |target| {
        let tree = target.join("tree");
        fs::create_dir_all(target).expect("the directory can be made");
        mmdebstrap("minbase", PACKAGES, "bookworm", &tree.display().to_string(), &[]);
        fs::write(tree.join("etc/fstab"), "LABEL=vm-root / ext4 rw 0 1\n").expect("fstab can be written");
        fs::write(tree.join("etc/systemd/system/payload.service"), UNIT).expect("the unit can be written");
        let wants = tree.join("etc/systemd/system/graphical.target.wants");
        fs::create_dir_all(&wants).expect("the directory can be made");
        std::os::unix::fs::symlink("../payload.service", wants.join("payload.service"))
            .expect("the unit can be enabled");
        for (pattern, name) in [("vmlinuz-*", "vmlinuz"), ("initrd.img-*", "initrd")] {
            let copy = format!("cp '{0}'/boot/{pattern} '{1}/{name}'", tree.display(), target.display());
            run("sh", &["-ec", &copy]);
        }
        let disk = target.join("disk.raw").display().to_string();
        run("truncate", &["--size=3G", &disk]);
        // A partition, so that it can grow; behind it there is room for the GPT's copy.
        run("sh", &["-ec", &format!("echo 'start=2048, size=6287360' | sfdisk --quiet --label gpt '{disk}'")]);
        let tree_text = tree.display().to_string();
        run("mkfs.ext4", &["-q", "-F", "-L", "vm-root", "-E", "offset=1048576", "-d", &tree_text, &disk, "3070M"]);
        fs::remove_dir_all(&tree).expect("the tree can be removed");
    });
    Image { disk: directory.join("disk.raw"), kernel: directory.join("vmlinuz"), initrd: directory.join("initrd") }
}

/// A machine that keeps its disks from boot to boot.
pub struct Vm {
    work: tempfile::TempDir,
    image: Image,
    disks: Vec<PathBuf>,
    cdrom: Option<PathBuf>,
}

impl Vm {
    pub fn new() -> Vm {
        let image = image();
        let work = tempfile::tempdir().expect("a directory can be made");
        let root = work.path().join("root.qcow2").display().to_string();
        run("qemu-img", &["create", "-q", "-f", "qcow2", "-F", "raw", "-b", &image.disk.display().to_string(), &root]);
        Vm { work, image, disks: Vec::new(), cdrom: None }
    }

    pub fn cdrom(mut self, path: &Path) -> Vm {
        self.cdrom = Some(path.to_owned());
        self
    }

    /// Another, empty disk: `/dev/vdc` and so on. Takes a size as truncate(1) does.
    pub fn disk(mut self, size: &str) -> Vm {
        let path = self.work.path().join(format!("disk{}.raw", self.disks.len()));
        run("truncate", &[&format!("--size={size}"), &path.display().to_string()]);
        self.disks.push(path);
        self
    }

    /// Makes a disk larger, while the machine is off.
    pub fn grow_root(&self, size: &str) {
        run("qemu-img", &["resize", "-q", &self.work.path().join("root.qcow2").display().to_string(), size]);
    }

    /// Boots, runs a script with some files beside it, and gives back what it printed.
    ///
    /// # Panics
    /// The machine does not get to the end of the script, or the script fails.
    pub fn boot(&self, files: &[&Path], script: &str) -> String {
        let payload = self.work.path().join("payload");
        drop(fs::remove_dir_all(&payload));
        fs::create_dir_all(&payload).expect("the directory can be made");
        fs::write(payload.join("script"), script).expect("the script can be written");
        for file in files {
            let name = file.file_name().expect("it is a file");
            fs::copy(file, payload.join(name)).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        }
        let tar = self.work.path().join("payload.tar").display().to_string();
        run("tar", &["-cf", &tar, "-C", &payload.display().to_string(), "."]);
        // A disk is whole sectors long.
        run("truncate", &["--size=%1M", &tar]);
        self.run(&tar)
    }

    fn run(&self, payload: &str) -> String {
        let mut command = Command::new("timeout");
        command.arg((RUN_S * u64::from(super::patience::factor())).to_string()).arg("qemu-system-x86_64");
        command.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-m", "1024", "-smp", "2"]);
        command.args(["-display", "none", "-no-reboot", "-serial", "stdio", "-monitor", "none", "-nic", "none"]);
        command.arg("-kernel").arg(&self.image.kernel).arg("-initrd").arg(&self.image.initrd);
        command.args(["-append", "root=LABEL=vm-root rw console=ttyS0 quiet"]);
        let mut drive = |name: &str, file: &str, options: &str| {
            command.args(["-drive", &format!("file={file},if=none,id={name},{options}")]);
            command.args(["-device", &format!("virtio-blk-pci,drive={name},serial={name}")]);
        };
        drive("root", &self.work.path().join("root.qcow2").display().to_string(), "format=qcow2");
        drive("payload", payload, "format=raw,readonly=on");
        for (index, disk) in self.disks.iter().enumerate() {
            drive(&format!("disk{index}"), &disk.display().to_string(), "format=raw");
        }
        if let Some(cdrom) = &self.cdrom {
            // By SCSI, as clouds have it: Debian's kernel for clouds knows no IDE.
            command.args(["-device", "virtio-scsi-pci", "-device", "scsi-cd,drive=cd"]);
            command.args(["-drive", &format!("file={},if=none,id=cd,media=cdrom,readonly=on", cdrom.display())]);
        }
        // Watched while it goes, and kept where it fails; two machines at once have two.
        let name = std::thread::current().name().unwrap_or("vm").replace("::", "-");
        let log = PathBuf::from(format!("{}/target/host-failures/{name}.console.txt", env!("CARGO_MANIFEST_DIR")));
        fs::create_dir_all(log.parent().expect("it lies in a directory")).expect("the directory can be made");
        let file = fs::File::create(&log).expect("the console's log can be made");
        let errors = file.try_clone().expect("the console's log can be shared");
        let status = command
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(errors)
            .status()
            .expect("QEMU can be run (make installs it)");
        let console = fs::read(&log).expect("the console's log can be read");
        let console = String::from_utf8_lossy(&console).replace('\r', "");
        let said = console.split_once("VM-BEGIN\n").map(|(_, rest)| rest).unwrap_or_default();
        match said.split_once("VM-END ") {
            Some((said, rest)) if rest.starts_with("0\n") => said.to_owned(),
            _ => panic!("the machine did not get through ({status}):\n{console}"),
        }
    }
}
