//! The disk image in a virtual machine: from nothing to an app on https, by a drive and two empty disks; power cuts; once more.

use crate::host::rootfs::{self, run};
use crate::host::wait_for;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long an emulated machine may take from its start to the app's first answer.
const UP: Duration = Duration::from_secs(1500);
/// Python with its PostgreSQL client, and nothing else.
const BASE: &str = "python3,python3-psycopg2";

const ENV: &str = r#"#cloud-config
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
  git: {source: "git://10.0.2.2:GIT/shop.git", branch: main}
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
    _directory: tempfile::TempDir,
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
        Repository { _directory: directory, port, daemon }
    }
}

impl Drop for Repository {
    fn drop(&mut self) {
        drop(self.daemon.kill());
        drop(self.daemon.wait());
    }
}

/// The machine: the image, two empty disks, a drive with the env.
struct Appliance {
    work: tempfile::TempDir,
    https: u16,
    qemu: Option<Child>,
    drive: PathBuf,
    boots: usize,
}

impl Appliance {
    fn new(env: &str) -> Appliance {
        let image = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/image/appliance-bookworm.qcow2");
        assert!(image.exists(), "{} is missing; make image builds it", image.display());
        let work = tempfile::tempdir().expect("a directory can be made");
        let path = |name: &str| work.path().join(name).display().to_string();
        run(
            "qemu-img",
            &[
                "create",
                "-q",
                "-f",
                "qcow2",
                "-F",
                "qcow2",
                "-b",
                &image.display().to_string(),
                &path("root.qcow2"),
                "8G",
            ],
        );
        for disk in ["data", "volatile"] {
            run("truncate", &["--size=4G", &path(disk)]);
        }
        fs::write(path("env.yml"), env).expect("the env can be written");
        let program = concat!(env!("CARGO_MANIFEST_DIR"), "/target/quick/appliance");
        run(program, &["env", "package", &path("env.yml")]);
        let drive = work.path().join("env-cidata.iso");
        assert!(drive.exists(), "env package has made the drive");
        Appliance { work, https: free_port(), qemu: None, drive, boots: 0 }
    }

    fn start(&mut self) {
        let path = |name: &str| self.work.path().join(name).display().to_string();
        self.boots += 1;
        let log = PathBuf::from(format!(
            "{}/target/host-failures/image-{}.console.txt",
            env!("CARGO_MANIFEST_DIR"),
            self.boots
        ));
        fs::create_dir_all(log.parent().expect("it lies in a directory")).expect("the directory can be made");
        let mut command = Command::new("qemu-system-x86_64");
        command.args([
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            "max",
            "-m",
            "2048",
            "-smp",
            "2",
            "-display",
            "none",
            "-monitor",
            "none",
        ]);
        command.args(["-serial", &format!("file:{}", log.display())]);
        command.args(["-nic", &format!("user,model=virtio,hostfwd=tcp:127.0.0.1:{}-:443", self.https)]);
        command.args(["-drive", &format!("file={},if=none,id=root,format=qcow2", path("root.qcow2"))]);
        command.args(["-device", "virtio-blk-pci,drive=root,serial=root,bootindex=0"]);
        for disk in ["data", "volatile"] {
            command.args(["-drive", &format!("file={},if=none,id={disk},format=raw", path(disk))]);
            command.args(["-device", &format!("virtio-blk-pci,drive={disk},serial={disk}")]);
        }
        command.args(["-drive", &format!("file={},if=none,id=cd,media=cdrom,readonly=on", self.drive.display())]);
        command.args(["-device", "virtio-scsi-pci", "-device", "scsi-cd,drive=cd"]);
        self.qemu = Some(command.stdin(Stdio::null()).spawn().expect("QEMU can be run (make installs it)"));
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
        if let Some(mut qemu) = self.qemu.take() {
            drop(qemu.kill());
            drop(qemu.wait());
        }
    }
}

#[test]
fn the_image_comes_up_by_itself_and_keeps_what_was_acknowledged() {
    let seed = std::env::var("APPLIANCE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(std::process::id);
    println!("APPLIANCE_SEED={seed}");
    let cuts = if std::env::var_os("APPLIANCE_MATRIX").is_some() { 10 } else { 2 };
    let repository = Repository::serve();
    let mut appliance = Appliance::new(&ENV.replace("GIT", &repository.port.to_string()));
    let began = Instant::now();
    appliance.start();
    assert!(appliance.wait_for_notes().is_empty());
    println!("from power on to the first answer: {:.0} s", began.elapsed().as_secs_f64());
    let mut acknowledged: Vec<String> = Vec::new();
    let mut random = seed;
    for round in 1..=cuts {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let use_for = Duration::from_secs_f64(3.0 + f64::from(random >> 16) / 65536.0 * 20.0);
        // Somebody pulls the plug while they write.
        let writes = std::thread::spawn({
            let https = appliance.https;
            move || {
                let texts = (1..).map(|number| format!("{round}.{number}"));
                texts
                    .take_while(|text| curl(https, &["--data-urlencode", &format!("text={text}")]).0 == 201)
                    .collect::<Vec<_>>()
            }
        });
        std::thread::sleep(use_for);
        appliance.cut();
        let written = writes.join().expect("the writer does not panic");
        assert!(!written.is_empty(), "nothing was written in {use_for:?}");
        acknowledged.extend(written);
        let began = Instant::now();
        appliance.start();
        let seen = appliance.wait_for_notes();
        let kept: Vec<&String> = seen.iter().filter(|note| acknowledged.contains(note)).collect();
        assert_eq!(kept, acknowledged.iter().collect::<Vec<_>>(), "what was acknowledged is there, in its order");
        assert!(seen.len() <= acknowledged.len() + 1, "{seen:?}");
        // One may have been on its way.
        acknowledged = seen;
        println!(
            "cut {round} after {use_for:.1?} of use: the next answer after {:.0} s",
            began.elapsed().as_secs_f64()
        );
    }
}
