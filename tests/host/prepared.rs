//! The appliance's package, installed once for all tests: what that changes is a layer over the root file system, and each host starts
//! from there. A host is as it is right after `dpkg --install`: nothing was started that the package does not start.

use super::Machine;
use super::rootfs::{Parts, build_part, cache, hex, lock_cache, part_hash, run};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// How the layer is made; another one makes another layer.
const RECIPE: &str = "1";
/// What the package enables, for the next boot.
const ENABLED: [(&str, &str); 3] = [
    ("multi-user.target.wants", "appliance.service"),
    ("timers.target.wants", "appliance-crl.timer"),
    ("timers.target.wants", "appliance-update.timer"),
];
/// Layers of packages that were built before are kept this long: somebody else's tests may be running on one.
const KEPT: Duration = Duration::from_secs(24 * 3600);

/// The package that tests install.
fn package() -> PathBuf {
    let given = std::env::var_os("APPLIANCE_DEB").map(PathBuf::from);
    let package = given.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/deb/appliance-test.deb"));
    assert!(
        package.exists(),
        "{} is missing; the Makefile builds it (make test, make bench, make demo)",
        package.display()
    );
    package
}

/// The layer, made if it is not there.
pub fn installed(parts: &Parts) -> PathBuf {
    let package = package();
    let _lock = lock_cache();
    let digest = hex(&Sha256::digest(fs::read(&package).expect("the package can be read")));
    let parts_name = format!("{} {}", parts.rootfs.display(), parts.docker.display());
    let layer = cache().join(format!("installed-{}", part_hash(&[&digest, &parts_name, RECIPE])));
    build_part(&layer, |target| {
        remove_old();
        let machine = Machine::boot_plain("install", parts);
        machine.put_file(&package, "/root/appliance.deb");
        // There is no network: an update would wait for each of Debian's servers.
        machine.ok("truncate -s 0 /etc/apt/sources.list; dpkg --install /root/appliance.deb");
        for (wants, unit) in ENABLED {
            machine.ok(&format!("rm /etc/systemd/system/{wants}/{unit}"));
        }
        machine.power_off();
        run("cp", &["-a", &machine.changes().display().to_string(), &target.display().to_string()]);
        // Of that boot.
        run("rm", &["-rf", &target.join("var/log/journal").display().to_string()]);
    });
    layer
}

/// After the boot, what the package enables is as it is after the installation.
pub fn wake(machine: &Machine) {
    let links =
        ENABLED.map(|(wants, unit)| format!("ln -s /lib/systemd/system/{unit} /etc/systemd/system/{wants}/{unit}"));
    // The program is made the host's own file: one of a layer below gets another inode number when it is linked, as no disk's does.
    machine.ok(&format!(
        "set -e; cd /usr/lib/appliance; cp -a appliance own; mv own appliance; mkdir -p /etc/systemd/system/timers.target.wants; {}; systemctl daemon-reload; systemctl start appliance-crl.timer",
        links.join("; ")
    ));
}

fn remove_old() {
    let entries = fs::read_dir(cache()).expect("the cache can be listed");
    for entry in entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with("installed-")) {
        let made = entry.metadata().and_then(|meta| meta.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
        if made.elapsed().is_ok_and(|age| age > KEPT) {
            run("rm", &["-rf", &entry.path().display().to_string()]);
        }
    }
}
