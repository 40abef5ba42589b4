//! Upgrades of the host's packages, from a repository of its own with newer versions of what is installed.

use super::update::{ledger, start_v1, version};
use crate::host::Machine;
use crate::host::apps::*;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

/// Makes a package anew from its installed files, with a higher version, and puts it into the repository.
pub const NEWER: &str = r#"
set -e
mkdir -p /srv/repo
for package in "$@"; do
    root=$(mktemp -d); mkdir "$root/DEBIAN"
    dpkg -L "$package" | while read -r path; do
        # /lib is a link to /usr/lib, but a directory in packages.
        if [ -d "$path" ] && { [ ! -L "$path" ] || [ "$path" = /lib ]; }; then mkdir -p "$root$path"; elif [ -e "$path" ] || [ -L "$path" ]; then cp -a --parents "$path" "$root"; fi
    done
    dpkg-query -s "$package" | grep -v -e '^Status:' -e '^Conffiles:' -e '^ /etc/' | sed "s/^Version: .*/&+newer$GENERATION/" > "$root/DEBIAN/control"
    for part in preinst postinst prerm postrm conffiles triggers; do
        for file in /var/lib/dpkg/info/"$package".$part /var/lib/dpkg/info/"$package":*.$part; do
            [ ! -e "$file" ] || cp "$file" "$root/DEBIAN/$part"
        done
    done
    dpkg-deb --root-owner-group -Znone -b "$root" "/srv/repo/$package.deb" >/dev/null
    rm -rf "$root"
done
cd /srv/repo
for deb in *.deb; do
    dpkg-deb -f "$deb"; echo "Filename: ./$deb"; echo "Size: $(stat -c %s "$deb")"; echo "SHA256: $(sha256sum "$deb" | cut -d' ' -f1)"; echo
done > Packages
rm -f /etc/apt/sources.list.d/*
echo 'deb [trusted=yes] file:/srv/repo ./' > /etc/apt/sources.list
"#;

pub fn newer(machine: &Machine, generation: u32, packages: &str) {
    machine.ok(&format!("rm -rf /srv/repo; GENERATION={generation} sh /root/newer.sh {packages}"));
}

pub fn installed(machine: &Machine, package: &str) -> String {
    machine.ok(&format!("dpkg-query -W -f '${{Version}} ${{Status}}' {package}"))
}

#[test]
fn the_hosts_packages_are_upgraded_and_the_app_stops_only_where_it_must() {
    let machine = start_v1("packages");
    machine.put("/root/newer.sh", NEWER, 0o644);
    keep_note(&machine, "kept");

    // A harmless one: the app does not notice.
    newer(&machine, 1, "jq");
    let waits = machine.sh("appliance update --check");
    assert!(waits.code == 2 && waits.stdout.contains("host: jq "), "{}", waits.all());
    let started = machine.ok("docker inspect -f '{{.State.StartedAt}}' $(docker ps -q)");
    let said = machine.ok("appliance update");
    assert!(said.contains("jq ") && said.contains("+newer1 now\n"), "{said}");
    assert!(installed(&machine, "jq").contains("+newer1 install ok installed"));
    assert_eq!(machine.ok("docker inspect -f '{{.State.StartedAt}}' $(docker ps -q)"), started);
    assert_eq!(machine.sh("appliance update --check").code, 0);

    // A power cut in the middle of dpkg's work: the next one finishes it first.
    newer(&machine, 9, "jq");
    machine.ok("apt-get -q update && dpkg --unpack /srv/repo/jq.deb");
    assert!(installed(&machine, "jq").ends_with("+newer9 install ok unpacked"), "{}", installed(&machine, "jq"));
    machine.ok("appliance update");
    assert!(installed(&machine, "jq").ends_with("+newer9 install ok installed"), "{}", installed(&machine, "jq"));

    // Docker and PostgreSQL: the page meanwhile, then everything is back.
    newer(&machine, 2, "docker.io postgresql-15 jq");
    let waits = machine.ok("appliance update --check --json || true");
    for package in ["docker.io", "postgresql-15", "jq"] {
        assert!(waits.contains(&format!("\"package\": \"{package}\"")), "{waits}");
    }
    let stop = AtomicBool::new(false);
    let (out, seen) = std::thread::scope(|scope| {
        let look = scope.spawn(|| {
            let mut seen = BTreeSet::new();
            while !stop.load(Ordering::Relaxed) {
                seen.insert(get(&machine, "/notes").0);
            }
            seen
        });
        let out = machine.sh_for(400, "appliance update");
        stop.store(true, Ordering::Relaxed);
        (out, look.join().expect("the visitor comes back"))
    });
    assert_eq!(out.code, 0, "{}", out.all());
    assert_eq!(seen, BTreeSet::from([200, 503]), "the app, or the page");
    for package in ["docker.io", "postgresql-15", "jq"] {
        assert!(installed(&machine, package).contains("+newer2 install ok installed"), "{package}");
    }
    assert_eq!((version(&machine).as_str(), notes(&machine)), ("v1", vec!["kept".to_owned()]));
    assert!(ledger(&machine)["in_flight"].is_null());
    wait_for_phase(&machine, "running");

    // A reboot that is needed: announced and on its way, unless the env forbids it.
    machine.ok("touch /run/reboot-required");
    let said = machine.ok("appliance update");
    assert!(said.contains("the host reboots in a minute"), "{said}");
    assert!(machine.get("/run/systemd/shutdown/scheduled").contains("MODE=reboot"));
    machine.ok("shutdown -c");
    let env = machine.get("/app/env.yml").replace("appliance:\n", "appliance:\n  update: {reboot: no}\n");
    machine.put("/app/env.yml", env, 0o600);
    machine.ok("appliance env activate");
    let out = machine.sh("appliance update");
    assert!(out.code == 0 && out.all().contains("does not allow it"), "{}", out.all());
    assert_ne!(machine.sh("test -e /run/systemd/shutdown/scheduled").code, 0);

    // One that cannot be installed: said, and the app runs.
    machine.ok("mkdir -p /root/broken && cd /root/broken && dpkg-deb -R /srv/repo/jq.deb . && sed -i 's/newer2/newer3/' DEBIAN/control && \
                printf '#!/bin/sh\\nexit 1\\n' > DEBIAN/preinst && chmod 755 DEBIAN/preinst && dpkg-deb -b . /root/jq3.deb >/dev/null");
    machine.ok("rm -rf /srv/repo; mkdir /srv/repo; cp /root/jq3.deb /srv/repo/jq.deb; sh /root/newer.sh");
    let out = machine.sh("appliance update");
    assert!(out.code == 1 && out.stderr.contains("could not upgrade the host's packages"), "{}", out.all());
    assert_eq!(get(&machine, "/health").0, 200);
}
