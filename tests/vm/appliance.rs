//! The disk image as a virtual machine: two empty disks, an env from a drive or a metadata service, and the app's repository beside it.
//! What is tested with it is in `image.rs`.

use crate::host::rootfs::run;
use crate::host::wait_for;
use crate::repository::Repository;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// How long an emulated machine may take from its start to the app's first answer.
const UP: Duration = Duration::from_secs(1500);

const ENV: &str = r#"#cloud-config
ssh_authorized_keys: ["KEY"]
appliance:
  domain: shop.example.test
  allowed_hosts: shop.example.test 127.0.0.1
  ssl: {letsencrypt: {enabled: no}}
  storage:
    grow_root: true
    setup:
      format:
        /dev/disk/by-id/virtio-data: {fstype: ext4, options: -L ecs-data}
        /dev/disk/by-id/virtio-volatile: {fstype: ext4, options: -L ecs-volatile}
app:
  name: shop
  git: {source: "git://HOST:GIT/shop.git", branch: main}
  migrate: {service: web, command: migrate}
"#;

/// A port of this machine that nobody uses now.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port can be had");
    listener.local_addr().expect("it has an address").port()
}

/// Where the env comes from, as clouds have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A drive of `env package`.
    Cidata,
    /// OpenStack's drive.
    Config2,
    /// A metadata service, as asked by EC2's and by GCE's ways.
    Ec2,
    Gce,
}

impl Source {
    fn has_service(self) -> bool {
        matches!(self, Source::Ec2 | Source::Gce)
    }
}

/// What this machine's loopback is in the virtual one's network, and that network. A metadata service lies in it.
const HOST: (&str, &str) = ("10.0.2.2", "net=10.0.2.0/24");
const HOST_BESIDE_SERVICE: (&str, &str) = ("169.254.2.2", "net=169.254.0.0/16");

/// The machine: the image, two empty disks, and where its env comes from.
pub struct Appliance {
    pub work: tempfile::TempDir,
    source: Source,
    pub https: u16,
    ssh: u16,
    qemu: Option<Child>,
    /// The metadata service, and its port.
    service: Option<(Child, u16)>,
    boots: usize,
}

impl Appliance {
    pub fn new(source: Source, repository: &Repository) -> Appliance {
        let image = std::env::var("APPLIANCE_IMAGE");
        let image = image.unwrap_or_else(|_| "target/image/test/appliance-bookworm.qcow2".to_owned());
        let image = Path::new(env!("CARGO_MANIFEST_DIR")).join(image);
        assert!(image.exists(), "{} is missing; make test builds it", image.display());
        let work = tempfile::tempdir().expect("a directory can be made");
        let path = |name: &str| work.path().join(name).display().to_string();
        let backing = image.display().to_string();
        run("qemu-img", &["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", &backing, &path("root.qcow2"), "8G"]);
        for disk in ["data", "volatile"] {
            run("truncate", &["--size=4G", &path(disk)]);
        }
        fs::copy("/usr/share/OVMF/OVMF_VARS_4M.fd", path("uefi")).expect("there is a UEFI (make installs it)");
        run("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", &path("key")]);
        let key = fs::read_to_string(path("key.pub")).expect("the key was made");
        let (host, _) = if source.has_service() { HOST_BESIDE_SERVICE } else { HOST };
        let env = ENV.replace("KEY", key.trim()).replace("HOST", host).replace("GIT", &repository.port().to_string());
        let mut service = None;
        match source {
            Source::Cidata => {
                fs::write(path("env.yml"), env).expect("the env can be written");
                run(
                    concat!(env!("CARGO_MANIFEST_DIR"), "/target/test/appliance"),
                    &["env", "package", &path("env.yml")],
                );
                fs::rename(path("env-cidata.iso"), path("drive")).expect("env package has made the drive");
            }
            Source::Config2 => {
                fs::create_dir_all(work.path().join("d/openstack/latest")).expect("the directory can be made");
                fs::write(path("d/openstack/latest/user_data"), env).expect("the env can be written");
                fs::write(
                    path("d/openstack/latest/meta_data.json"),
                    r#"{"uuid": "83679162-1378-4288-a2d4-70e13ec132aa"}"#,
                )
                .expect("the metadata can be written");
                let drive = path("drive");
                run(
                    "xorriso",
                    &["-as", "mkisofs", "-quiet", "-volid", "config-2", "-J", "-R", "-output", &drive, &path("d")],
                );
            }
            Source::Ec2 | Source::Gce => {
                fs::write(path("md.env"), env).expect("the env can be written");
                fs::write(path("md.mode"), if source == Source::Ec2 { "v2" } else { "gce" })
                    .expect("the mode can be written");
                let relay = "exec 3<>/dev/tcp/127.0.0.1/$1; cat <&3 & cat >&3; wait\n";
                fs::write(path("relay"), relay).expect("the relay can be written");
                let port = free_port();
                let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/host/metadata.py");
                let here = work.path().display().to_string();
                let child = Command::new("python3").args([script, &here, "127.0.0.1", &port.to_string()]).spawn();
                service = Some((child.expect("python can be run"), port));
            }
        }
        Appliance { source, https: free_port(), ssh: free_port(), qemu: None, service, boots: 0, work }
    }

    /// Switches it on. By BIOS the first time, then by UEFI and BIOS in turn.
    pub fn start(&mut self) {
        let path = |name: &str| self.work.path().join(name).display().to_string();
        self.boots += 1;
        let log = PathBuf::from(format!(
            "{}/target/host-failures/image-{:?}-{}.console.txt",
            env!("CARGO_MANIFEST_DIR"),
            self.source,
            self.boots
        ));
        fs::create_dir_all(log.parent().expect("it lies in a directory")).expect("the directory can be made");
        let mut command = Command::new("qemu-system-x86_64");
        command.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-m", "2048", "-smp", "2", "-display", "none"]);
        command.args(["-monitor", "none", "-serial", &format!("file:{}", log.display())]);
        if self.boots.is_multiple_of(2) {
            command.args(["-drive", "if=pflash,format=raw,unit=0,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd"]);
            command.args(["-drive", &format!("if=pflash,format=raw,unit=1,file={}", path("uefi"))]);
        }
        let (_, network) = if self.source.has_service() { HOST_BESIDE_SERVICE } else { HOST };
        let mut nic = format!("user,model=virtio,{network}");
        for (ours, theirs) in [(self.https, 443), (self.ssh, 22)] {
            nic.push_str(&format!(",hostfwd=tcp:127.0.0.1:{ours}-:{theirs}"));
        }
        if let Some((_, port)) = &self.service {
            nic.push_str(&format!(",guestfwd=tcp:169.254.169.254:80-cmd:bash {} {port}", path("relay")));
        }
        command.args(["-nic", &nic]);
        match self.source {
            // By which cloud-init too knows it.
            Source::Ec2 => {
                let id = "serial=ec2a1b2c-1378-4288-a2d4-70e13ec132aa,uuid=ec2a1b2c-1378-4288-a2d4-70e13ec132aa";
                command.args(["-smbios", &format!("type=1,manufacturer=Amazon EC2,product=t3.small,{id}")]);
            }
            Source::Gce => drop(command.args(["-smbios", "type=1,manufacturer=Google,product=Google Compute Engine"])),
            Source::Cidata | Source::Config2 => {
                command.args(["-drive", &format!("file={},if=none,id=cd,media=cdrom,readonly=on", path("drive"))]);
                command.args(["-device", "virtio-scsi-pci", "-device", "scsi-cd,drive=cd"]);
            }
        }
        command.args(["-drive", &format!("file={},if=none,id=root,format=qcow2", path("root.qcow2"))]);
        command.args(["-device", "virtio-blk-pci,drive=root,serial=root,bootindex=0"]);
        for disk in ["data", "volatile"] {
            command.args(["-drive", &format!("file={},if=none,id={disk},format=raw", path(disk))]);
            command.args(["-device", &format!("virtio-blk-pci,drive={disk},serial={disk}")]);
        }
        self.qemu = Some(command.stdin(Stdio::null()).spawn().expect("QEMU can be run (make installs it)"));
    }

    /// A command in the machine, by ssh with the key of the env.
    pub fn ssh(&self, script: &str) -> Command {
        let mut command = Command::new("ssh");
        command.args(["-q", "-p", &self.ssh.to_string(), "-i", &self.work.path().join("key").display().to_string()]);
        for option in ["BatchMode=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "ConnectTimeout=60"]
        {
            command.args(["-o", option]);
        }
        command.args(["root@127.0.0.1", script]).stdin(Stdio::null());
        command
    }

    /// What a command in the machine prints; it must succeed.
    pub fn ok(&self, script: &str) -> String {
        let output = self.ssh(script).output().expect("ssh can be run (make installs it)");
        let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        assert!(output.status.success(), "in the machine: {script}\nended with {}:\n{text}", output.status);
        text
    }

    /// Nothing in the machine gets to do anything more.
    pub fn cut(&mut self) {
        if let Some(mut qemu) = self.qemu.take() {
            qemu.kill().expect("QEMU can be killed");
            qemu.wait().expect("QEMU ends");
        }
    }

    /// Waits for the app on https; its version and its notes, of one answer: for a moment after the first one, workers of nginx
    /// that are about to end still have the page.
    pub fn wait_for_notes(&self) -> (String, Vec<String>) {
        wait_for("the app on https", UP, || {
            let (code, body) = curl(self.https, &[]);
            let value: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
            let text = |value: &serde_json::Value| value.as_str().unwrap_or("?").to_owned();
            match value["notes"].as_array() {
                Some(notes) if code == 200 => Ok((text(&value["version"]), notes.iter().map(text).collect())),
                _ => Err(format!("{code} {body:.200}")),
            }
        })
    }
}

pub fn curl(https: u16, args: &[&str]) -> (u16, String) {
    let output = Command::new("curl")
        .args(["--silent", "--insecure", "--noproxy", "*", "--max-time", "30", "--write-out", "\n%{http_code}"])
        .args(args)
        .arg(format!("https://127.0.0.1:{https}/notes"))
        .output()
        .expect("curl can be run");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, code) = text.rsplit_once('\n').unwrap_or(("", &text));
    (code.trim().parse().unwrap_or(0), body.to_owned())
}

impl Drop for Appliance {
    fn drop(&mut self) {
        for mut child in self.qemu.take().into_iter().chain(self.service.take().map(|(child, _)| child)) {
            drop(child.kill());
            drop(child.wait());
        }
    }
}
