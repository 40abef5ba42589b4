//! A Docker that is killed while it publishes ports forgets whose some of them are, and gives them to nobody any more.

use crate::host::apps::*;
use crate::host::{Machine, wait_for};
use std::time::Duration;

/// How many services start at once; with that many, the first kill loses ports nearly always.
const SERVICES: usize = 5;
const MOST_KILLS: usize = 5;

#[test]
fn ports_that_docker_holds_for_nobody_are_got_back() {
    let machine = Machine::boot("lost-port");
    let service = |number: usize| {
        format!("  s{number}: {{image: stub:1, stop_grace_period: 1s, ports: ['127.0.0.1:810{number}:53/udp']}}\n")
    };
    let compose = format!("services:\n{}", (0..SERVICES).map(service).collect::<String>());
    start_stack(&machine, "lost", &compose);
    for kills in 1.. {
        machine.ok("systemctl stop appliance");
        machine.put(
            "/root/kill.sh",
            "docker events --filter event=start --format '{{.Action}}' > /root/starts & E=$!\n\
             until docker events --since 1s --until 0s >/dev/null; do :; done\n\
             systemctl start --no-block appliance\n\
             timeout 60 sh -c 'until [ -s /root/starts ]; do :; done'\n\
             systemctl kill -s KILL docker.service; kill $E; true\n",
            0o644,
        );
        machine.ok("sh /root/kill.sh");
        wait_for("all to run", Duration::from_secs(180), || {
            let (phase, _) = phase(&machine);
            let running = machine.sh("docker ps -q | wc -l").stdout;
            if phase == "running" && running.trim() == SERVICES.to_string() {
                Ok(())
            } else {
                Err(format!("{phase} {running}"))
            }
        });
        if machine.ok("journalctl -u appliance-supervisor --no-pager").contains("for no container") {
            return;
        }
        assert!(kills < MOST_KILLS, "no port was lost in {kills} kills: nothing was tried");
    }
}

/// An update whose new containers meet such a port is done all the same.
#[test]
fn an_update_that_meets_one_is_tried_once_more() {
    let machine = Machine::boot("lost-update");
    let compose = |version: usize| {
        let service = |number: usize| {
            format!(
                "  s{number}: {{image: stub:1, stop_grace_period: 1s, labels: {{version: '{version}'}}, ports: ['127.0.0.1:810{number}:53/udp']}}\n"
            )
        };
        format!("services:\n{}", (0..SERVICES).map(service).collect::<String>())
    };
    let put = |version: usize| machine.put("/data/etc/lost/docker-compose.yml", compose(version), 0o644);
    start_stack(&machine, "lost", &compose(0));
    for kills in 1.. {
        put(2 * kills - 1);
        machine.put(
            "/root/kill.sh",
            "docker events --filter event=start --format '{{.Action}}' > /root/starts & E=$!\n\
             until docker events --since 1s --until 0s >/dev/null; do :; done\n\
             appliance update --force > /root/update 2>&1 & U=$!\n\
             timeout 60 sh -c 'until [ -s /root/starts ]; do :; done'\n\
             systemctl kill -s KILL docker.service; kill $E; wait $U; true\n",
            0o644,
        );
        machine.ok("sh /root/kill.sh");
        wait_for_phase(&machine, "running");
        put(2 * kills);
        let said = machine.sh("appliance update --force 2>&1");
        assert_eq!(said.code, 0, "{}", said.all());
        let version = machine.ok("docker ps -q | xargs docker inspect --format '{{.Config.Labels.version}}'");
        assert_eq!(version, format!("{}\n", 2 * kills).repeat(SERVICES));
        if said.all().contains("for no container") {
            assert!(said.all().contains("trying once more"), "{}", said.all());
            return;
        }
        assert!(kills < MOST_KILLS, "no port was lost in {kills} kills: nothing was tried");
    }
}
