//! The Debian package: installed by apt as the whole of the installation, upgraded, removed, purged; on a host that ran the scripts
//! before this program too.

use crate::host::Machine;
use crate::host::apps::*;
use std::path::Path;

fn own_files(machine: &Machine) -> String {
    machine.ok("dpkg -L appliance | while read -r path; do [ -d \"$path\" ] || echo \"$path\"; done")
}

#[test]
fn it_is_installed_upgraded_removed_and_purged_and_data_stays() {
    let machine = Machine::boot("package");
    // From nothing, by the one command of the README.
    machine.ok("dpkg --purge appliance >/dev/null; rm -rf /app; deluser --quiet app 2>/dev/null || true");
    let said = machine.ok(
        "mkdir /root/got && cd /root/got && cp ../appliance.deb appliance_1_amd64.deb && DEBIAN_FRONTEND=noninteractive apt-get install -y ./appliance_*.deb 2>&1",
    );
    assert!(!said.to_lowercase().contains("warn") && !said.to_lowercase().contains("failed"), "{said}");
    assert_eq!(
        machine.ok("systemctl is-enabled appliance appliance-update.timer appliance-crl.timer appliance-watch"),
        "enabled\nenabled\nenabled\nenabled\n"
    );
    assert_eq!(machine.ok("stat -c '%U %a' /app; getent passwd app | cut -d: -f6").trim(), "root 755\n/app");
    assert_eq!(machine.ok("dpkg-query -W -f '${Conffiles}' appliance"), "", "nothing that the program rewrites");
    machine.ok("bash -c '. /usr/share/bash-completion/completions/appliance && complete -p appliance'");

    // What needs little is given little (systemd.exec(5)); 10 is a process that may do anything. Why two are above 5 stands in them.
    for (unit, most) in [
        ("appliance", 2.3),
        ("appliance-crl", 1.7),
        ("appliance-filter", 1.8),
        ("appliance-supervisor", 6.7),
        ("appliance-update", 6.7),
        ("appliance-backup", 6.7),
        ("appliance-watch", 3.0),
    ] {
        let said = machine.ok(&format!("systemd-analyze security --no-pager {unit} | tail -n 1"));
        let level: Option<f32> = said.split(": ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
        assert!(level.is_some_and(|level| level <= most), "at most {most}: {said}");
    }

    start_notes(&machine, "v1");
    wait_for_phase(&machine, "running");
    keep_note(&machine, "kept");
    // An upgrade leaves containers alone, and what an administrator has disabled disabled.
    machine.ok("systemctl disable --quiet appliance-crl.timer");
    let started = machine.ok("docker inspect -f '{{.State.StartedAt}}' $(docker ps -q)");
    let pid = machine.ok("systemctl show -p MainPID --value appliance-supervisor");
    machine.ok(
        "set -e; cd /root && dpkg-deb -R appliance.deb newer && sed -i 's/^Version: .*/&+1/' newer/DEBIAN/control && dpkg-deb -b newer newer.deb >/dev/null
         DEBIAN_FRONTEND=noninteractive apt-get install -y ./newer.deb >/dev/null 2>&1",
    );
    crate::host::wait_for("the new supervisor", UP, || {
        let now = machine.ok("systemctl show -p MainPID --value appliance-supervisor");
        if now != pid && now.trim() != "0" { Ok(()) } else { Err(now) }
    });
    wait_for_phase(&machine, "running");
    assert_eq!(machine.ok("docker inspect -f '{{.State.StartedAt}}' $(docker ps -q)"), started);
    assert_eq!(machine.sh("systemctl is-enabled appliance-crl.timer").stdout, "disabled\n");
    assert_eq!(notes(&machine), ["kept"]);

    let files = own_files(&machine);
    machine.ok("apt-get remove -y appliance >/dev/null 2>&1");
    assert_eq!(machine.ok("docker ps -q"), "", "the app was stopped");
    for file in files.lines() {
        machine.ok(&format!("test ! -e '{file}' || {{ echo '{file} was left'; exit 1; }}"));
    }
    machine.ok("test -e /var/lib/appliance && test -e /data/appliance/apps/*/ledger.json && systemctl is-active postgresql@15-main nginx docker");
    // As an update leaves it where a node exporter is.
    machine.put("/var/lib/prometheus/node-exporter/appliance.prom", "x 1\n", 0o644);
    assert_ne!(machine.ok("ls /var/www/html | grep -e 503 -e unavailable"), "");
    machine.ok("dpkg --purge appliance");
    assert_eq!(machine.ok("ls /var/www/html | grep -e 503 -e unavailable || true"), "");
    let left = machine.ok(
        "find / -xdev \\( -path /proc -o -path /data -o -path /app -o -path /root -o -path /var/lib/docker -o -path /srv -o -path /var/log -o \
         -path /var/lib/postgresql -o -path /var/backups \\) -prune -o -name '*appliance*' -print | grep -v -e /etc/postgresql/ -e ^/sys -e ^/dev || true",
    );
    assert_eq!(left, "", "what is left after a purge");
    assert_eq!(machine.ok("systemctl list-units --all --no-legend '*appliance*' | grep -v not-found || true"), "");
    machine.ok("nginx -t -q && systemctl restart nginx postgresql@15-main docker && test -e /data/appliance/apps/*/ledger.json && test -e /app/env.yml");

    // Installed again, everything is there as it was.
    machine.ok("cd /root && DEBIAN_FRONTEND=noninteractive apt-get install -y ./appliance.deb >/dev/null 2>&1 && systemctl start appliance");
    wait_for_phase(&machine, "running");
    assert_eq!(notes(&machine), ["kept"]);
    assert_eq!(machine.ok("appliance prepare"), "nothing to do\n");
}

#[test]
fn units_of_the_scripts_before_are_moved_aside_or_masked() {
    let machine = Machine::boot("oldunits");
    machine.ok("dpkg --purge appliance >/dev/null");
    let unit = |name: &str, start: &str| {
        let text =
            format!("[Unit]\nDescription=Old {name}\n[Service]\n{start}\n[Install]\nWantedBy=multi-user.target\n");
        machine.put(&format!("/etc/systemd/system/{name}"), text, 0o644);
    };
    unit("appliance.service", "ExecStart=/bin/sleep 100000");
    unit("prepare-ecs.service", "Type=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true");
    unit("appliance-failed@.service", "ExecStart=/bin/touch /run/appliance-failed");
    unit("appliance-backup.service", "ExecStart=/bin/true");
    unit("watch-ecs-ca.service", "ExecStart=/bin/true");
    unit("docker.service", "ExecStart=/usr/bin/dockerd");
    machine.ok("systemctl daemon-reload && systemctl enable --quiet appliance prepare-ecs && systemctl start appliance prepare-ecs");
    assert_ne!(machine.sh("systemctl restart docker; systemctl is-active docker").code, 0, "theirs cannot start");
    let said = machine.ok("cd /root && DEBIAN_FRONTEND=noninteractive apt-get install -y ./appliance.deb 2>&1");
    assert!(said.contains("/etc/systemd/system/appliance.service is in /var/backups/appliance/units now"), "{said}");
    let look = "systemctl show -p FragmentPath --value appliance; systemctl is-active appliance; systemctl is-enabled prepare-ecs 'appliance-failed@x' \
                appliance-backup watch-ecs-ca appliance; pgrep -fc 'sleep 10000[0]'; ls /var/backups/appliance/units; \
                systemctl show -p FragmentPath --value docker; systemctl is-active docker";
    assert_eq!(
        machine.sh(look).stdout,
        "/lib/systemd/system/appliance.service\ninactive\nmasked\nmasked\ndisabled\nmasked\nenabled\n0\nappliance-failed@.service\nappliance.service\n\
         docker.service\nprepare-ecs.service\nwatch-ecs-ca.service\n/lib/systemd/system/docker.service\nactive\n"
    );
    put_stack(&machine, "quiet", "services:\n  a: {image: stub:1, stop_grace_period: 1s}\n");
    machine.ok("systemctl start appliance");
    wait_for_phase(&machine, "running");
    // A later version takes an administrator's own unit for what it is.
    machine.put("/etc/systemd/system/appliance-update.service", "[Service]\nExecStart=/bin/true\n", 0o644);
    machine.ok(
        "dpkg --install /root/appliance.deb >/dev/null 2>&1 && test -e /etc/systemd/system/appliance-update.service",
    );
    // Purged, nothing of it keeps the units of before from being put back.
    machine.ok("dpkg --purge appliance && test ! -L /etc/systemd/system/prepare-ecs.service && test -e /var/backups/appliance/units/prepare-ecs.service");
}

/// What the Vagrantfile runs in its machine, with what it has copied there; twice, as `vagrant provision` does.
#[test]
fn the_script_of_the_vagrantfile_brings_an_app_up() {
    let machine = Machine::boot("vagrant");
    machine.ok("dpkg --purge appliance >/dev/null; rm -rf /app");
    put_stack(&machine, "quiet", "services:\n  a: {image: stub:1, stop_grace_period: 1s}\n");
    machine.ok("mv /app/env.yml /tmp/env.yml; cp /root/appliance.deb /tmp/appliance.deb; chmod 644 /tmp/appliance.deb");
    let script = include_str!("../../appliance-image/vagrant/provision.sh");
    machine.put("/tmp/provision.sh", script, 0o755);
    for _ in 0..2 {
        let said = machine.ok("/tmp/provision.sh");
        assert!(said.contains("running"), "{said}");
        assert_eq!(phase(&machine), ("running".to_owned(), 0));
    }
    assert_eq!(machine.ok("stat -c '%U %a' /app/env.yml"), "root 600\n");
}

/// What Debian's own checker says.
#[test]
fn lintian_has_nothing_to_say() {
    let package = std::env::var("APPLIANCE_DEB")
        .unwrap_or_else(|_| format!("{}/target/deb/appliance-test.deb", env!("CARGO_MANIFEST_DIR")));
    assert!(Path::new(&package).exists(), "{package} is missing; the Makefile builds it");
    let output = std::process::Command::new("lintian")
        .args(["--allow-root", "--fail-on", "error,warning", &package])
        .output()
        .expect("lintian can be run (make installs it)");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
}
