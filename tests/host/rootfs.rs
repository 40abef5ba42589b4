//! What a host boots from: a Debian root file system, and Docker's data with the base images already in it. Both are
//! built once and kept by a hash of their recipe, outside of the checkout so that a clean clone finds them.

use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Debian's packages of a host.
const PACKAGES: &str = "systemd,systemd-sysv,dbus,udev,iproute2,kmod,docker.io,postgresql,nginx-light,ca-certificates,\
iptables,openssl,git,openssh-client,curl,procps,adduser,strace,locales,busybox-static,inotify-tools,\
gpg,gpg-agent,nftables,xorriso,python3-yaml,jq,faketime,bsdextrautils,openssh-server,restic,python3-aiosmtpd";
/// Peers that Debian 12 has too old: an ACME server with renewal information, a second one of another make, and the client that
/// issued before us; and a registry, whose package would start it. Each runs on any Debian as it is unpacked.
const NEWER: &str = "pebble caddy dehydrated docker-registry";
const NEWER_SUITE: &str = "trixie";
const NEWER_SCRIPT: &str = include_str!("../newer.sh");
/// What a Debian 13 has beside: Docker's client in a package of its own, and, as after an upgrade of the distribution, the PostgreSQL of
/// Debian 12.
const TRIXIE: &str = "docker-cli,postgresql-15";
/// The demo app's base image.
const APP_PACKAGES: &str = "redis-server,memcached,python3-django,gunicorn,python3-celery,python3-redis,\
python3-psycopg2,python3-pymemcache";

/// Before Docker starts: the kernel's control groups are mounted read-only by nspawn.
const CGROUPS_UNIT: &str = "[Unit]\nDefaultDependencies=no\nBefore=docker.service containerd.service\nAfter=local-fs.target\n\
[Service]\nType=oneshot\nExecStart=/bin/sh -c 'mount -o remount,bind,rw /sys/fs/cgroup || true; for c in cpu cpuacct \
cpu,cpuacct cpuset memory devices freezer blkio pids net_cls net_prio perf_event hugetlb; do [ ! -d /sys/fs/cgroup/$c ] || \
mount -o remount,bind,rw /sys/fs/cgroup/$c || true; done'\n[Install]\nWantedBy=sysinit.target\n";

/// A tiny image that stands for those that cannot be pulled: answers HTTP on the ports that ECS's stack uses.
const STUB: &str = "#!/bin/busybox sh\n/bin/busybox mkdir -p /www && echo stub > /www/index.html\n\
/bin/busybox httpd -p 5000 -h /www; /bin/busybox httpd -p 8080 -h /www\ntrap 'exit 0' TERM INT\n\
while true; do /bin/busybox sleep 1000 & wait $!; done\n";

/// Built parts of a host.
pub struct Parts {
    pub rootfs: PathBuf,
    /// A `/var/lib/docker` with the base images.
    pub docker: PathBuf,
}

/// Where built parts are kept.
pub fn cache() -> PathBuf {
    std::env::var_os("APPLIANCE_TEST_CACHE").map_or_else(|| PathBuf::from("/var/cache/appliance-test"), PathBuf::from)
}

pub fn part_hash(recipe: &[&str]) -> String {
    hex(&Sha256::digest(recipe.join("\n")))
}

/// The beginning of a digest, which is enough of a name.
pub fn hex(digest: &[u8]) -> String {
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// One process at a time builds; the others wait until this is dropped.
pub fn lock_cache() -> File {
    let cache = cache();
    fs::create_dir_all(&cache).expect("the cache directory can be made");
    let lock = File::create(cache.join("lock")).expect("the cache's lock can be made");
    lock.lock().expect("the cache's lock can be taken");
    lock
}

/// The parts, built if they are not there.
pub fn parts() -> Parts {
    let _lock = lock_cache();
    let cache = cache();
    let rootfs_hash = part_hash(&[PACKAGES, CGROUPS_UNIT, NEWER, NEWER_SUITE, NEWER_SCRIPT, "bookworm 3"]);
    let rootfs = cache.join(format!("rootfs-{rootfs_hash}"));
    build_part(&rootfs, |target| {
        make_rootfs(target, PACKAGES, "bookworm", &[]);
        let target = target.display().to_string();
        let mut newer = vec![concat!(env!("CARGO_MANIFEST_DIR"), "/tests/newer.sh"), NEWER_SUITE, &target];
        newer.extend(NEWER.split(' '));
        run("sh", &newer);
    });
    let docker = cache.join(format!("docker-{}", part_hash(&[&rootfs_hash, APP_PACKAGES, STUB, "5"])));
    build_part(&docker, |target| make_docker(target, &rootfs));
    Parts { rootfs, docker }
}

/// The same with Debian 13, with the same images.
pub fn trixie_parts() -> Parts {
    let Parts { docker, .. } = parts();
    let _lock = lock_cache();
    let rootfs = cache().join(format!("trixie-{}", part_hash(&[PACKAGES, TRIXIE, CGROUPS_UNIT, "1"])));
    build_part(&rootfs, |target| {
        let mirror = run(
            "sh",
            &["-c", "apt-get indextargets --format '$(REPO_URI)' 'Origin: Debian' | grep -v security | head -n 1"],
        );
        let sources = ["trixie", "bookworm"].map(|suite| format!("deb {} {suite} main", mirror.trim()));
        make_rootfs(target, &format!("{PACKAGES},{TRIXIE}"), "trixie", &[&sources[0], &sources[1]]);
    });
    Parts { rootfs, docker }
}

/// Builds beside and renames, so that a half-built part is never used.
pub fn build_part(target: &Path, make: impl FnOnce(&Path)) {
    if target.exists() {
        return;
    }
    let beside = target.with_extension("building");
    if beside.exists() {
        fs::remove_dir_all(&beside).expect("what a killed build left can be removed");
    }
    eprintln!("building {} (once; it is kept)", target.display());
    make(&beside);
    fs::rename(&beside, target).expect("the built part can be put in place");
}

pub fn run(program: &str, args: &[&str]) -> String {
    let output =
        Command::new(program).args(args).output().unwrap_or_else(|error| panic!("could not run {program}: {error}"));
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{program} {args:?}: {stdout}{}", String::from_utf8_lossy(&output.stderr));
    stdout
}

pub fn mmdebstrap(variant: &str, packages: &str, suite: &str, target: &str, sources: &[&str]) {
    let variant = format!("--variant={variant}");
    let include = format!("--include={packages}");
    let slim = ["man/*", "doc/*", "locale/*"].map(|what| format!("--dpkgopt=path-exclude=/usr/share/{what}"));
    let clean = "--customize-hook=rm -rf \"$1\"/var/cache/apt/* \"$1\"/var/lib/apt/lists/*";
    let apt = "--aptopt=APT::Install-Recommends \"false\"";
    let mut args = vec![apt, &variant, &include, &slim[0], &slim[1], &slim[2], clean, suite, target];
    args.extend(sources);
    run("mmdebstrap", &args);
}

/// A root file system that a host can be booted from.
pub fn make_rootfs(target: &Path, packages: &str, suite: &str, sources: &[&str]) {
    mmdebstrap("minbase", packages, suite, &target.display().to_string(), sources);
    let unit = target.join("etc/systemd/system/test-cgroups.service");
    fs::write(&unit, CGROUPS_UNIT).expect("the unit can be written");
    let wants = target.join("etc/systemd/system/sysinit.target.wants");
    fs::create_dir_all(&wants).expect("the directory can be made");
    std::os::unix::fs::symlink("/etc/systemd/system/test-cgroups.service", wants.join("test-cgroups.service"))
        .expect("the unit can be enabled");
    // Timers of the distribution that would wake up in the middle of a test, and a server that a test runs itself.
    for unit in [
        "apt-daily.timer",
        "apt-daily-upgrade.timer",
        "e2scrub_all.timer",
        "fstrim.timer",
        "dpkg-db-backup.timer",
        "ssh.service",
    ] {
        let mask = target.join("etc/systemd/system").join(unit);
        drop(fs::remove_file(&mask));
        std::os::unix::fs::symlink("/dev/null", mask).expect("the unit can be masked");
    }
}

fn make_docker(target: &Path, rootfs: &Path) {
    let tar = target.with_extension("app.tar");
    mmdebstrap("essential", APP_PACKAGES, "bookworm", &tar.display().to_string(), &[]);
    fs::create_dir_all(target).expect("the directory can be made");
    let machine = super::Machine::boot_bare("seed", rootfs, target);
    machine.wait_for_unit("docker.service");
    machine.put_file(&tar, "/var/lib/docker/app.tar");
    machine.ok("docker import /var/lib/docker/app.tar notes/base:1 && rm /var/lib/docker/app.tar");
    machine.put("/root/stub/stub", STUB, 0o755);
    machine.ok(
        "cd /root/stub && mkdir -p bin && cp /bin/busybox bin/ && mv stub bin/stub && ln -s busybox bin/sh && tar c . | \
         docker import -c 'ENTRYPOINT [\"/bin/stub\"]' -c 'ENV PATH=/bin' - stub:1",
    );
    for name in [
        "redis:3",
        "memcached:latest",
        "timonwong/uwsgi-exporter:latest",
        "prom/memcached-exporter:latest",
        "oliver006/redis_exporter:latest",
    ] {
        machine.ok(&format!("docker tag stub:1 {name}"));
    }
    machine.power_off();
    fs::remove_file(&tar).expect("the image's tar can be removed");
}
