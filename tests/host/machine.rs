//! One booted host: a throw-away overlay over the root file system, booted by systemd-nspawn, with an address of its
//! own. It is powered off and removed when it is dropped; a test that failed leaves its journal behind.

use super::{ground, patience, prepared, rootfs, wait_for};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

/// What a command left.
#[derive(Debug, Clone)]
pub struct Out {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Out {
    pub fn all(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

pub struct Machine {
    name: String,
    base: PathBuf,
    docker: PathBuf,
    nspawn: Mutex<Option<(Child, u32)>>,
    /// The third number of its network, 10.77.N.0/24.
    network: u8,
    /// Its network's claim, held as long as the host lives: nspawn inherits it.
    claim: fs::File,
    bare: bool,
}

/// How long booting or powering off may take.
const BOOT: Duration = Duration::from_secs(120);
/// How long a command may take, in seconds, unless told otherwise.
const COMMAND_S: u64 = 180;

impl Machine {
    /// A fresh host with the appliance installed from its package.
    pub fn boot(name: &str) -> Machine {
        Machine::boot_on(name, None, rootfs::parts)
    }

    /// The same with Debian 13, beside whose PostgreSQL 17 there is still the 15 of Debian 12.
    pub fn boot_trixie(name: &str) -> Machine {
        Machine::boot_on(name, None, rootfs::trixie_parts)
    }

    /// The same on a disk of its own, of so many MB, that can become full.
    pub fn boot_small(name: &str, megabytes: u32) -> Machine {
        Machine::boot_on(name, Some(megabytes), rootfs::parts)
    }

    fn boot_on(name: &str, megabytes: Option<u32>, parts: fn() -> rootfs::Parts) -> Machine {
        let parts = parts();
        let installed = prepared::installed(&parts);
        let mut machine = Machine::lay(name, megabytes, &parts);
        machine.bare = false;
        machine.mount(&[&installed, &parts.rootfs]);
        machine.start();
        prepared::wake(&machine);
        machine
    }

    /// A host's directory, with a copy of Docker's data; nothing is mounted or booted.
    fn lay(name: &str, megabytes: Option<u32>, parts: &rootfs::Parts) -> Machine {
        let (network, claim) = claim_network();
        let base = PathBuf::from(format!("/var/tmp/appliance-test/{name}-{network}"));
        ground::remove(&base);
        fs::create_dir_all(&base).expect("the host's directory can be made");
        ground::lay(&base, megabytes);
        let docker = base.join("docker");
        rootfs::run(
            "cp",
            &["-a", "--reflink=auto", &parts.docker.display().to_string(), &docker.display().to_string()],
        );
        Machine { name: name.to_owned(), base, docker, nspawn: Mutex::new(None), network, claim, bare: true }
    }

    /// A host without the package, whose changes to the root file system can be kept as a layer.
    pub(super) fn boot_plain(name: &str, parts: &rootfs::Parts) -> Machine {
        let machine = Machine::lay(name, None, parts);
        machine.mount(&[&parts.rootfs]);
        machine.start();
        machine
    }

    /// Where the host's changes to its root file system lie.
    pub(super) fn changes(&self) -> PathBuf {
        self.base.join("up")
    }

    /// A host without the package: for building the parts, or for what is no appliance.
    pub fn boot_bare(name: &str, rootfs: &Path, docker: &Path) -> Machine {
        let (network, claim) = claim_network();
        let base = PathBuf::from(format!("/var/tmp/appliance-test/{name}-{network}"));
        ground::remove(&base);
        fs::create_dir_all(&base).expect("the host's directory can be made");
        let docker = docker.to_owned();
        let machine =
            Machine { name: name.to_owned(), base, docker, nspawn: Mutex::new(None), network, claim, bare: true };
        machine.mount(&[rootfs]);
        machine.start();
        machine
    }

    /// Mounts the root file system: the layers, the first over the others, and above them what the host changes.
    fn mount(&self, layers: &[&Path]) {
        for part in ["up", "work", "root"] {
            fs::create_dir_all(self.base.join(part)).expect("the overlay's directories can be made");
        }
        let part = |name: &str| self.base.join(name).display().to_string();
        let layers = layers.iter().map(|layer| layer.display().to_string()).collect::<Vec<_>>().join(":");
        let options = format!("lowerdir={layers},upperdir={},workdir={}", part("up"), part("work"));
        rootfs::run("mount", &["-t", "overlay", "overlay", "-o", &options, &part("root")]);
        fs::write(self.base.join("root/etc/machine-id"), "").expect("the machine id can be emptied");
    }

    /// The name that nspawn knows it by: at most eleven characters, since a network device is called after it.
    fn id(&self) -> String {
        format!("apl{}", self.network)
    }

    /// Boots, or boots again after a power off, on the same disk.
    pub fn start(&self) {
        let id = self.id();
        let mut enter = String::new();
        for kind in ["systemd", "unified"] {
            let cgroup = format!("/sys/fs/cgroup/{kind}/{id}");
            if Path::new(&format!("/sys/fs/cgroup/{kind}")).exists() {
                fs::create_dir_all(&cgroup).expect("the host's control group can be made");
                enter.push_str(&format!("echo 0 > {cgroup}/cgroup.procs; "));
            }
        }
        remove_link(&id);
        let console = fs::File::create(self.base.join("console.log")).expect("the console's log can be made");
        let errors = console.try_clone().expect("the console's log can be shared");
        let mut child = Command::new("sh")
            .args([
                "-c",
                &format!("{enter}exec \"$@\""),
                "sh",
                "systemd-nspawn",
                "--quiet",
                "--boot",
                "--register=no",
                "--keep-unit",
            ])
            .args(["--network-veth", "--capability=all", "--system-call-filter=@keyring bpf @mount", "--console=pipe"])
            .args([&format!("--machine={id}"), &format!("--directory={}", self.base.join("root").display())])
            .arg(format!("--bind={}:/var/lib/docker", self.docker.display()))
            .stdin(self.claim.try_clone().expect("the claim can be shared"))
            .stdout(console)
            .stderr(errors)
            .spawn()
            .expect("systemd-nspawn can be started (make installs it)");
        let pid = child.id();
        let leader = wait_for("the host's first process", BOOT, || {
            if let Ok(Some(status)) = child.try_wait() {
                let said = fs::read_to_string(self.base.join("console.log")).unwrap_or_default();
                panic!("systemd-nspawn ended with {status}: {said}");
            }
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
            // nspawn has a helper before it has the host: that one is process 1 of its own namespace.
            let is_first = |leader: &&str| {
                let status = fs::read_to_string(format!("/proc/{leader}/status")).unwrap_or_default();
                status.lines().any(|line| line.starts_with("NSpid:") && line.split_whitespace().last() == Some("1"))
            };
            children
                .split_whitespace()
                .find(is_first)
                .and_then(|leader| leader.parse().ok())
                .ok_or_else(|| children.clone())
        });
        *self.nspawn.lock().expect("no thread panics with it") = Some((child, leader));
        wait_for("the host's boot", BOOT, || {
            let state = self.sh("systemctl is-system-running").stdout;
            if ["running", "degraded"].contains(&state.trim()) {
                Ok(())
            } else {
                Err(format!("{state}; see {}", self.base.join("console.log").display()))
            }
        });
        rootfs::run("ip", &["addr", "replace", &format!("10.77.{}.1/24", self.network), "dev", &format!("ve-{id}")]);
        rootfs::run("ip", &["link", "set", &format!("ve-{id}"), "up"]);
        self.ok(&format!("ip addr replace {}/24 dev host0 && ip link set host0 up", self.address()));
    }

    /// Its address, as seen from this machine.
    pub fn address(&self) -> String {
        format!("10.77.{}.2", self.network)
    }

    pub fn leader(&self) -> u32 {
        self.nspawn.lock().expect("no thread panics with it").as_ref().expect("the host is booted").1
    }

    fn command(&self, seconds: u64, script: &str) -> Command {
        let mut command = Command::new("timeout");
        command.args([
            &(seconds * u64::from(patience::factor())).to_string(),
            "nsenter",
            "--target",
            &self.leader().to_string(),
        ]);
        command.args(["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--"]);
        // A login's environment, not this machine's.
        command.args([
            "env",
            "-i",
            "HOME=/root",
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "LANG=C.UTF-8",
        ]);
        command.args(["sh", "-c", script]);
        command
    }

    /// Runs a script on the host.
    pub fn sh(&self, script: &str) -> Out {
        self.sh_for(COMMAND_S, script)
    }

    /// Runs a script with a deadline of its own, which is stretched; 124 is its exit code when that passes.
    pub fn sh_for(&self, seconds: u64, script: &str) -> Out {
        let output = self.command(seconds, script).stdin(Stdio::null()).output().expect("nsenter can be run");
        Out {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Runs a script that must succeed; gives back what it printed.
    pub fn ok(&self, script: &str) -> String {
        let out = self.sh(script);
        assert!(out.code == 0, "on the host: {script}\nended with {}:\n{}", out.code, out.all());
        out.stdout
    }

    /// Starts a program on the host and leaves it running; its output can be read from the child.
    pub fn spawn(&self, script: &str) -> Child {
        self.command(3600, script)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("nsenter can be run")
    }

    /// Writes a file on the host.
    pub fn put(&self, path: &str, contents: impl AsRef<[u8]>, mode: u32) {
        let script = format!("mkdir -p \"$(dirname '{path}')\" && cat > '{path}' && chmod {mode:o} '{path}'");
        let mut child = self.command(COMMAND_S, &script).stdin(Stdio::piped()).spawn().expect("nsenter can be run");
        // A host that closes the pipe early shows in the exit code below.
        let written = child.stdin.take().expect("the input was asked for").write_all(contents.as_ref());
        let status = child.wait().expect("nsenter ends");
        assert!(status.success() && written.is_ok(), "could not write {path} on the host");
    }

    /// Copies a file to the host.
    pub fn put_file(&self, from: &Path, to: &str) {
        let file = fs::File::open(from).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
        let status =
            self.command(COMMAND_S, &format!("cat > '{to}'")).stdin(file).status().expect("nsenter can be run");
        assert!(status.success(), "could not copy {} to the host", from.display());
    }

    /// Copies a directory of this machine to the host.
    pub fn put_directory(&self, from: &str, to: &str) {
        let tar = self.base.join("put.tar");
        rootfs::run("tar", &["-cf", &tar.display().to_string(), "-C", from, "."]);
        self.put_file(&tar, "/root/put.tar");
        self.ok(&format!("mkdir -p '{to}' && tar -xf /root/put.tar -C '{to}' && rm /root/put.tar"));
        fs::remove_file(&tar).expect("the tar can be removed");
    }

    /// Copies a file of the host to this machine.
    pub fn fetch_file(&self, from: &str, to: &Path) {
        let file = fs::File::create(to).unwrap_or_else(|error| panic!("{}: {error}", to.display()));
        let status = self.command(COMMAND_S, &format!("cat '{from}'")).stdin(Stdio::null()).stdout(file).status();
        assert!(status.expect("nsenter can be run").success(), "could not copy {from} from the host");
    }

    /// Reads a file of the host.
    pub fn get(&self, path: &str) -> String {
        self.ok(&format!("cat '{path}'"))
    }

    pub fn wait_for_unit(&self, unit: &str) {
        wait_for(unit, BOOT, || {
            let state = self.sh(&format!("systemctl is-active {unit}")).stdout;
            if state.trim() == "active" { Ok(()) } else { Err(state) }
        });
    }

    /// Powers off cleanly, as `systemctl poweroff` does.
    pub fn power_off(&self) {
        let Some((mut child, leader)) = self.nspawn.lock().expect("no thread panics with it").take() else { return };
        rootfs::run("kill", &["-s", "RTMIN+4", &leader.to_string()]);
        wait_for("the host's power off", BOOT, || match child.try_wait() {
            Ok(Some(_)) => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }

    /// Cuts the power: nothing on the host gets to do anything more.
    pub fn power_cut(&self) {
        let Some((mut child, leader)) = self.nspawn.lock().expect("no thread panics with it").take() else { return };
        // The first process takes all others with it.
        rootfs::run("kill", &["-9", &leader.to_string()]);
        wait_for("the host's end", BOOT, || match child.try_wait() {
            Ok(Some(_)) => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }

    /// Powers off and boots again.
    pub fn reboot(&self) {
        self.power_off();
        self.start();
    }

    /// What is worth reading after a failure, in a directory of this machine.
    fn keep_evidence(&self) {
        let target = PathBuf::from(format!("{}/target/host-failures/{}", env!("CARGO_MANIFEST_DIR"), self.name));
        if fs::create_dir_all(&target).is_err() {
            return;
        }
        for (name, script) in [
            ("journal.txt", "journalctl --no-pager --output=short-precise"),
            (
                "status.txt",
                "appliance status; appliance ps; systemctl status --no-pager appliance appliance-supervisor nginx docker; docker ps -a",
            ),
            ("nginx-errors.txt", "tail -n 500 /var/log/nginx/error.log"),
            (
                "configs.txt",
                "for f in /etc/nginx/conf.d/*.conf /etc/postgresql/*/main/pg_hba.conf /etc/postgresql/*/main/conf.d/*; do echo \"== $f\"; cat \"$f\"; done",
            ),
        ] {
            // Evidence that cannot be had must not hide the failure itself.
            drop(fs::write(target.join(name), self.sh_for(30, script).all()));
        }
        drop(fs::copy(self.base.join("console.log"), target.join("console.txt")));
        eprintln!("the host's journal, status and configs are in {}", target.display());
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let booted = self.nspawn.lock().is_ok_and(|nspawn| nspawn.is_some());
        if std::thread::panicking() && booted && !self.bare {
            self.keep_evidence();
        }
        if let Ok(mut nspawn) = self.nspawn.lock()
            && let Some((mut child, leader)) = nspawn.take()
        {
            // A power cut is enough for a host that nobody needs any more.
            drop(Command::new("kill").args(["-9", &leader.to_string()]).status());
            drop(child.kill());
            drop(child.wait());
        }
        clean_up(&self.base, &self.id());
    }
}

impl Machine {
    /// Leaves the host running behind this process; gives back what `stop_detached` needs.
    pub fn detach(self) -> String {
        let (child, leader) = self.nspawn.lock().expect("no thread panics with it").take().expect("the host is booted");
        let left = format!("{} {leader} {} {}", child.id(), self.id(), self.base.display());
        std::mem::forget(self);
        left
    }
}

/// Powers a detached host off and removes it.
pub fn stop_detached(left: &str) {
    let words: Vec<&str> = left.split_whitespace().collect();
    let [nspawn, leader, id, base] = words[..] else { panic!("not what a detached host leaves: {left}") };
    if is_alive(leader) {
        rootfs::run("kill", &["-s", "RTMIN+4", leader]);
    }
    wait_for("the host's power off", BOOT, || if is_alive(nspawn) { Err(nspawn.to_owned()) } else { Ok(()) });
    clean_up(Path::new(base), id);
}

/// Whether a process lives.
pub fn is_alive(pid: &str) -> bool {
    // A process that ended but was not waited for counts as gone.
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

fn clean_up(base: &Path, id: &str) {
    ground::remove(base);
    remove_link(id);
    for kind in ["systemd", "unified"] {
        let cgroup = format!("/sys/fs/cgroup/{kind}/{id}");
        let find = ["-depth", "-type", "d", "-exec", "rmdir", "{}", "+"];
        // A control group that is still in use is removed with the next host of that number.
        drop(Command::new("find").arg(cgroup).args(find).stderr(Stdio::null()).status());
    }
}

/// A host that was cut off may leave its end of the cable for a while: as long as anything of its network is in use.
fn remove_link(id: &str) {
    // None there is as good as removed.
    drop(Command::new("ip").args(["link", "delete", &format!("ve-{id}")]).stderr(Stdio::null()).status());
}

/// A network number that no other host on this machine uses.
fn claim_network() -> (u8, fs::File) {
    let directory = Path::new("/run/appliance-test");
    fs::create_dir_all(directory).expect("the claims' directory can be made");
    for network in 1..=250 {
        let file = fs::File::create(directory.join(network.to_string())).expect("a claim can be made");
        if file.try_lock().is_ok() {
            return (network, file);
        }
    }
    panic!("all 250 networks are in use");
}
