//! The appliance's own upgrade: the supervisor is replaced and the containers are not; a version that does not come up is put back.

use super::packages::{NEWER, installed, newer};
use crate::host::apps::*;
use crate::host::{Machine, wait_for};
use std::time::Duration;

const COMPOSE: &str = "services:\n  a:\n    image: stub:1\n    restart: always\n    stop_grace_period: 1s\n  b:\n    image: stub:1\n    restart: \
                       always\n    stop_grace_period: 1s\n";

/// Ids and start times of all containers.
fn containers(machine: &Machine) -> String {
    machine.ok("docker inspect -f '{{.Id}} {{.State.StartedAt}} {{.State.Pid}}' $(docker ps -q)")
}

fn supervisor(machine: &Machine) -> String {
    machine.ok("systemctl show -p MainPID --value appliance-supervisor").trim().to_owned()
}

/// Puts a newer version into the repository whose program is /root/program.
fn publish(machine: &Machine, generation: u32) {
    newer(machine, generation, "appliance");
    machine.ok(
        "set -e; rm -rf /root/own; dpkg-deb -R /srv/repo/appliance.deb /root/own; cd /root/own/usr/lib/appliance; \
                rm appliance; cp /root/program appliance; ln -sfn appliance current; rm /srv/repo/*; \
                dpkg-deb --root-owner-group -Znone -b /root/own /srv/repo/appliance.deb >/dev/null; sh /root/newer.sh",
    );
}

/// An update whose new version of the appliance does not come up.
fn put_back(machine: &Machine, generation: u32, program: &str, how: &str) {
    machine.put("/root/program", program, 0o755);
    publish(machine, generation);
    let before = containers(machine);
    let out = machine.sh_for(300, "appliance update");
    assert!(out.code == 1 && out.stderr.contains("did not come up, so"), "{}", out.all());
    assert!(installed(machine, "appliance").contains(&format!("+newer{generation} install ok installed")));
    assert_eq!(machine.ok("readlink /usr/lib/appliance/current"), "good\n");
    wait_for("the version before", Duration::from_secs(60), || {
        let said = machine.ok("journalctl -u appliance-supervisor --no-pager -o cat");
        let is_told = said.contains("a new version of the appliance is not used: version 0.1.0")
            && said.contains(&format!("+newer{generation} did not come up ({how}"));
        if is_told { Ok(()) } else { Err(said) }
    });
    machine.wait_for_unit("appliance-supervisor.service");
    assert_eq!((containers(machine), phase(machine).0.as_str()), (before, "running"), "nobody touched them");
    assert_ne!(machine.sh("test -e /var/lib/appliance/put-back").code, 0, "it was told");
}

#[test]
fn the_appliance_is_upgraded_beside_its_containers_and_put_back_if_it_does_not_come_up() {
    let machine = Machine::boot("own");
    machine.put("/root/newer.sh", NEWER, 0o644);
    start_stack(&machine, "g", COMPOSE);
    // It tells systemd that it is up once it has kept itself.
    machine.wait_for_unit("appliance-supervisor.service");
    machine.ok("cd /usr/lib/appliance && test good -ef appliance");
    let (before, first) = (containers(&machine), supervisor(&machine));

    newer(&machine, 1, "appliance");
    let waits = machine.sh("appliance update --check");
    assert!(waits.code == 2 && waits.stdout.contains("host: appliance "), "{}", waits.all());
    let said = machine.ok("appliance update");
    assert!(said.contains("+newer1 is now") || said.contains("+newer1 now"), "{said}");
    assert!(installed(&machine, "appliance").contains("+newer1 install ok installed"));
    machine.ok("cd /usr/lib/appliance && test good -ef appliance");
    assert_ne!(supervisor(&machine), first);
    assert_eq!((containers(&machine), phase(&machine).0.as_str()), (before, "running"));

    // One that says nothing; its time is shortened for the test.
    machine.ok(
        "mkdir -p /etc/systemd/system/appliance-supervisor.service.d && printf '[Service]\\nTimeoutStartSec=20\\n' > \
                /etc/systemd/system/appliance-supervisor.service.d/short.conf && systemctl daemon-reload",
    );
    put_back(&machine, 2, "#!/bin/sh\nexec sleep 10000\n", "timeout");
    // Not tried again: not by an update, not by a restart, not by a reboot.
    let pid = supervisor(&machine);
    machine.ok("appliance update");
    assert_eq!((supervisor(&machine), machine.ok("readlink /usr/lib/appliance/current")), (pid, "good\n".to_owned()));
    machine.reboot();
    wait_for_phase(&machine, "running");
    assert_eq!(machine.ok("readlink /usr/lib/appliance/current"), "good\n");
    let said = machine.ok("journalctl -b -u appliance-supervisor --no-pager -o cat");
    assert!(said.contains("the installed version of the appliance did not come up and is not used"), "{said}");

    // One that ends by itself, after which systemd would not start it again.
    put_back(&machine, 3, "#!/bin/sh\nexit 1\n", "exit-code");
    // One that crashes: somebody may have killed it, so it has three tries.
    put_back(&machine, 4, "#!/bin/sh\nkill -SEGV $$\n", "");

    // The next one that is sound is used again.
    machine.ok("cp /usr/lib/appliance/good /root/program");
    publish(&machine, 5);
    machine.ok("appliance update");
    machine.ok("cd /usr/lib/appliance && test good -ef appliance && test $(readlink current) = appliance");
    wait_for("the supervisor", Duration::from_secs(60), || match phase(&machine).0.as_str() {
        "running" => Ok(()),
        other => Err(other.to_owned()),
    });
    // Taken away, nothing of it stays there.
    machine.ok("DEBIAN_FRONTEND=noninteractive apt-get -y purge appliance");
    assert_ne!(machine.sh("test -e /usr/lib/appliance").code, 0);
}
