//! The disk image in a virtual machine: from nothing to an app on https, by a drive or a metadata service and two empty disks; power
//! cuts while it is used and while it is updated, by BIOS and by UEFI.

use crate::host::rootfs::{self, run};
use crate::host::wait_for;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long an emulated machine may take from its start to the app's first answer.
const UP: Duration = Duration::from_secs(1500);
/// Python with its PostgreSQL client, and nothing else.
const BASE: &str = "python3,python3-psycopg2";

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
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port can be had");
    listener.local_addr().expect("it has an address").port()
}

/// The app's repository, served by git on loopback.
struct Repository {
    /// Kept for as long as it is served.
    directory: tempfile::TempDir,
    port: u16,
    daemon: Child,
}

impl Repository {
    fn serve() -> Repository {
        let directory = tempfile::tempdir().expect("a directory can be made");
        let work = directory.path().join("work");
        let base = rootfs::cache().join("vm-app-base-2.tar.gz");
        {
            let _lock = rootfs::lock_cache();
            rootfs::build_part(&base, |target| {
                let tar = target.display().to_string();
                rootfs::mmdebstrap("extract", BASE, "bookworm", &format!("{tar}.tar"), &[]);
                run("sh", &["-ec", &format!("gzip -1 <'{tar}.tar' >'{tar}'; rm '{tar}.tar'")]);
            });
        }
        fs::create_dir_all(&work).expect("the directory can be made");
        let script = format!(
            "cd '{work}'; cp -r {app}/. .; cp '{base}' base.tar.gz; git init -q -b main .; git config user.name S; git config user.email s@example.test
             git add -A; git commit -q -m v1; git clone -q --bare . ../shop.git",
            work = work.display(),
            app = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vm/app"),
            base = base.display()
        );
        run("sh", &["-ec", &script]);
        let port = free_port();
        let daemon = Command::new("git")
            .args(["daemon", "--reuseaddr", "--export-all", "--listen=127.0.0.1", &format!("--port={port}")])
            .arg(format!("--base-path={}", directory.path().display()))
            .stdin(Stdio::null())
            .spawn()
            .expect("git can be run");
        Repository { directory, port, daemon }
    }

    /// Another version, which migrates the database.
    fn push(&self, version: usize) {
        let script = format!(
            "cd '{}/work'; sed -i -e 's/^VERSION = .*/VERSION = \"v{version}\"/' app.py
             sed -i -e '/CREATE TABLE/a\\        database().execute(\"ALTER TABLE note ADD COLUMN IF NOT EXISTS v{version} text\")' app.py
             git commit -q -a -m v{version}; git push -q ../shop.git main",
            self.directory.path().display()
        );
        run("sh", &["-ec", &script]);
    }
}

impl Drop for Repository {
    fn drop(&mut self) {
        drop(self.daemon.kill());
        drop(self.daemon.wait());
    }
}

/// Where the env comes from, as clouds have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
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
const HOST_BESIDE_SERVICE: (&str, &str) = ("169.254.0.2", "net=169.254.0.0/16,dhcpstart=169.254.0.15");

/// The machine: the image, two empty disks, and where its env comes from.
struct Appliance {
    work: tempfile::TempDir,
    source: Source,
    https: u16,
    ssh: u16,
    qemu: Option<Child>,
    /// The metadata service, and its port.
    service: Option<(Child, u16)>,
    boots: usize,
}

impl Appliance {
    fn new(source: Source, repository: &Repository) -> Appliance {
        let image = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/image/test/appliance-bookworm.qcow2");
        assert!(image.exists(), "{} is missing; make soak builds it", image.display());
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
        let env = ENV.replace("KEY", key.trim()).replace("HOST", host).replace("GIT", &repository.port.to_string());
        let mut service = None;
        match source {
            Source::Cidata => {
                fs::write(path("env.yml"), env).expect("the env can be written");
                run(
                    concat!(env!("CARGO_MANIFEST_DIR"), "/target/quick/appliance"),
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
    fn start(&mut self) {
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
            Source::Ec2 => drop(command.args(["-smbios", "type=1,manufacturer=Amazon EC2,product=t3.small"])),
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
    fn ssh(&self, script: &str) -> Command {
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
    fn ok(&self, script: &str) -> String {
        let output = self.ssh(script).output().expect("ssh can be run (make installs it)");
        let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        assert!(output.status.success(), "in the machine: {script}\nended with {}:\n{text}", output.status);
        text
    }

    /// Nothing in the machine gets to do anything more.
    fn cut(&mut self) {
        if let Some(mut qemu) = self.qemu.take() {
            qemu.kill().expect("QEMU can be killed");
            qemu.wait().expect("QEMU ends");
        }
    }

    /// Waits for the app on https; its notes.
    fn wait_for_notes(&self) -> Vec<String> {
        wait_for("the app on https", UP, || {
            let (code, body) = curl(self.https, &[]);
            let value: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
            let notes = value["notes"].as_array().filter(|_| code == 200);
            let text = |note: &serde_json::Value| note.as_str().unwrap_or("?").to_owned();
            notes.map(|notes| notes.iter().map(text).collect()).ok_or_else(|| format!("{code} {body:.200}"))
        })
    }

    fn version(&self) -> String {
        let (_, body) = curl(self.https, &[]);
        let value: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
        value["version"].as_str().unwrap_or("?").to_owned()
    }
}

/// Somebody who writes notes, until told to end; which ones were acknowledged.
struct Writer {
    ends: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Vec<String>>,
}

impl Writer {
    fn begin(https: u16, round: u32) -> Writer {
        let ends = Arc::new(AtomicBool::new(false));
        let told = ends.clone();
        let thread = std::thread::spawn(move || {
            let mut acknowledged = Vec::new();
            for number in 1.. {
                if told.load(Ordering::Relaxed) {
                    break;
                }
                let text = format!("{round}.{number}");
                if curl(https, &["--data-urlencode", &format!("text={text}")]).0 == 201 {
                    acknowledged.push(text);
                }
            }
            acknowledged
        });
        Writer { ends, thread }
    }

    fn end(self) -> Vec<String> {
        self.ends.store(true, Ordering::Relaxed);
        self.thread.join().expect("the writer does not panic")
    }
}

fn curl(https: u16, args: &[&str]) -> (u16, String) {
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

#[test]
fn the_image_comes_up_by_itself_and_keeps_what_was_acknowledged() {
    let seed = std::env::var("APPLIANCE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(std::process::id);
    println!("APPLIANCE_SEED={seed}");
    let cuts = if std::env::var_os("APPLIANCE_MATRIX").is_some() { 10 } else { 2 };
    let repository = Repository::serve();
    let mut appliance = Appliance::new(Source::Cidata, &repository);
    let began = Instant::now();
    appliance.start();
    assert!(appliance.wait_for_notes().is_empty());
    println!("from power on to the first answer: {:.0} s", began.elapsed().as_secs_f64());
    println!(
        "{}",
        appliance.ok("systemd-analyze; systemd-analyze blame --no-pager | head -n 25; df -h / /data /volatile")
    );
    let mut acknowledged: Vec<String> = Vec::new();
    let (mut random, mut version) = (seed, 1);
    for round in 1..=cuts {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let part = f64::from(random >> 16) / 65536.0;
        let writer = Writer::begin(appliance.https, round);
        // Somebody pulls the plug: while the app is used, and while it is updated.
        let updates = round % 2 == 0;
        let mut update = updates.then(|| {
            version += 1;
            repository.push(version);
            appliance
                .ssh("appliance update")
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("ssh can be run")
        });
        let moment = Duration::from_secs_f64(if updates { 5.0 + part * UPDATE_S } else { 3.0 + part * 20.0 });
        std::thread::sleep(moment);
        appliance.cut();
        let written = writer.end();
        assert!(updates || !written.is_empty(), "nothing was written in {moment:?}");
        let was_over = update.as_mut().map(|update| update.try_wait().expect("it can be looked at").is_some());
        if let Some(mut update) = update {
            drop(update.kill());
            update.wait().expect("ssh ends");
        }
        acknowledged.extend(written);
        let began = Instant::now();
        appliance.start();
        let seen = appliance.wait_for_notes();
        let took = began.elapsed().as_secs_f64();
        let kept: Vec<&String> = seen.iter().filter(|note| acknowledged.contains(note)).collect();
        assert_eq!(kept, acknowledged.iter().collect::<Vec<_>>(), "what was acknowledged is there once, in its order");
        // Some may have been on their way.
        acknowledged = seen;
        println!(
            "cut {round} after {moment:.1?} of {}{}: version {}, the next answer after {took:.0} s",
            if updates { "an update" } else { "use" },
            if was_over == Some(true) { " (which was over)" } else { "" },
            appliance.version()
        );
        appliance.ok(CHECK);
        if updates {
            appliance.ok("appliance update");
            assert_eq!(appliance.version(), format!("v{version}"), "it can be updated after that");
            assert_eq!(appliance.wait_for_notes(), acknowledged);
        }
    }
}

/// Every table and index of the cluster is whole, and can be read; nothing of that stays.
const CHECK: &str = r#"set -e; PATH=$PATH:$(echo /usr/lib/postgresql/*/bin); pg_amcheck -U postgres --all --install-missing; pg_dumpall -U postgres >/dev/null
for d in $(psql -U postgres -Atc 'SELECT datname FROM pg_database WHERE datallowconn'); do psql -U postgres -q -d $d -c 'DROP EXTENSION amcheck'; done"#;

/// How long an update takes in an emulated machine, in seconds; about.
const UPDATE_S: f64 = 90.0;

#[test]
fn the_image_takes_its_env_from_every_kind_of_cloud() {
    let repository = Repository::serve();
    for source in [Source::Config2, Source::Ec2, Source::Gce] {
        let mut appliance = Appliance::new(source, &repository);
        let began = Instant::now();
        appliance.start();
        assert!(appliance.wait_for_notes().is_empty());
        let status = appliance.ok("appliance status --json");
        let status: serde_json::Value = serde_json::from_str(&status).expect("status is JSON");
        let expected = match source {
            Source::Cidata => "cidata:user-data",
            Source::Config2 => "config-2:openstack/latest/user_data",
            Source::Ec2 => "ec2:user-data",
            Source::Gce => "gce:user-data",
        };
        assert_eq!(status["source"], expected);
        println!("{source:?}: from power on to the first answer: {:.0} s", began.elapsed().as_secs_f64());
    }
}
