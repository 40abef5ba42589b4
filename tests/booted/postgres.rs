//! The PostgreSQL cluster: made where there is none, started where it is stopped, told of changes as gently as they allow, and reached by
//! nobody but the host and the app.

use crate::host::apps::*;
use crate::host::sample::{Random, seed};
use crate::host::{Machine, wait_for};
use std::time::Duration;

/// A name that only quoting brings through a shell, SQL, pg_hba.conf, a URL and a connection string.
const NAME: &str = r#"no tes"; DROP -- 'x' \y $HOME"#;

fn psql(machine: &Machine, sql: &str) -> String {
    machine.ok(&format!("psql -U postgres -Atqc \"{sql}\"")).trim().to_owned()
}

/// When the server was started, and when it read its files.
fn times(machine: &Machine) -> (String, String) {
    let told = psql(machine, "SELECT pg_postmaster_start_time(), pg_conf_load_time()");
    let (started, read) = told.split_once('|').expect("two times");
    (started.to_owned(), read.to_owned())
}

#[test]
fn a_cluster_is_made_started_taken_over_and_told_no_more_than_it_must() {
    let machine = Machine::boot("postgres");
    put_stack(&machine, "quiet", "services:\n  a: {image: stub:1, stop_grace_period: 1s}\n");
    let quoted = NAME.replace('\\', "\\\\").replace('"', "\\\"");
    let env = machine.get("/app/env.yml").replace("name: quiet", &format!("name: quiet\n  database: \"{quoted}\""));
    machine.put("/app/env.yml", &env, 0o600);
    machine.ok("pg_dropcluster --stop 15 main");
    let plan = machine.sh("appliance plan");
    assert!(
        plan.code == 2
            && plan.stdout.split_whitespace().collect::<Vec<_>>().join(" ").contains("15/main create an empty cluster"),
        "{}",
        plan.all()
    );
    machine.ok("test ! -e /etc/postgresql/15/main && test ! -e /var/lib/postgresql/15/main");

    // Killed while it is made; what there is of it is not taken for a cluster.
    for milliseconds in [150, 600, 1200, 2000, 3000] {
        machine.ok("rm -rf /etc/postgresql/15/main.x");
        let out = machine
            .sh(&format!("timeout -s KILL {} appliance prepare --step postgres", f64::from(milliseconds) / 1000.0));
        assert!([0, 137].contains(&out.code), "{}", out.all());
    }
    machine.ok("appliance prepare");
    assert_eq!(machine.ok("appliance prepare"), "nothing to do\n");
    assert!(
        psql(&machine, "SELECT datname FROM pg_database").lines().any(|line| line == NAME),
        "the database has its name"
    );
    assert_eq!(psql(&machine, "SHOW listen_addresses"), "localhost,172.17.0.1");
    // The app's own way in, with that name in its URL.
    machine.ok(
        "set -e; DATABASE_URL=$(sed 's/^DATABASE_URL=//; s/172.17.0.1/127.0.0.1/' /app/etc/quiet/database_url.env); psql \"$DATABASE_URL\" -Atqc 'CREATE TABLE kept AS SELECT 7 AS n'
         appliance database dump /root/it.pgdump >/dev/null && pg_restore -l /root/it.pgdump | grep -q 'TABLE public kept'",
    );

    // Stopped by hand.
    machine.ok("systemctl stop postgresql@15-main");
    machine.ok("appliance prepare --step postgres");
    machine.wait_for_unit("postgresql@15-main");

    // A reload where a reload does, a restart only where it must be.
    let conf = "/etc/postgresql/15/main/conf.d/appliance.conf";
    let work_mem = psql(&machine, "SHOW work_mem");
    let before = times(&machine);
    machine.ok(&format!("sed -i 's/^work_mem = .*/work_mem = 4097kB/' {conf} && systemctl reload postgresql@15-main"));
    wait_for("the other value", Duration::from_secs(10), || {
        let value = psql(&machine, "SHOW work_mem");
        if value == "4097kB" { Ok(()) } else { Err(value) }
    });
    machine.ok("appliance prepare --step postgres");
    wait_for("the value by the formula", Duration::from_secs(10), || {
        let value = psql(&machine, "SHOW work_mem");
        if value == work_mem { Ok(()) } else { Err(value) }
    });
    let after = times(&machine);
    assert!(after.0 == before.0 && after.1 != before.1, "a reload, and no restart: {before:?} {after:?}");
    machine.ok(&format!("sed -i 's/^max_connections = .*/max_connections = 7/' {conf}"));
    machine.ok("appliance prepare --step postgres");
    assert_ne!(times(&machine).0, before.0, "only a restart brings it into force");
    assert_ne!(psql(&machine, "SHOW max_connections"), "7");

    // A cluster of other defaults, that does not read what lies in conf.d.
    machine.ok("set -e; cd /etc/postgresql/15/main; sed -i '/^include_dir/d' postgresql.conf; rm -rf conf.d; systemctl restart postgresql@15-main");
    assert_eq!(psql(&machine, "SHOW listen_addresses"), "localhost");
    machine.ok("appliance prepare --step postgres");
    assert_eq!(psql(&machine, "SHOW listen_addresses"), "localhost,172.17.0.1");

    // Data without its configuration, as on a new root beside an old volume.
    machine.ok(
        "systemctl stop postgresql@15-main && mv /etc/postgresql/15 /root/configuration && systemctl daemon-reload",
    );
    machine.ok("rm /var/lib/appliance/postgres.json");
    let out = machine.sh("timeout -s KILL 0.2 appliance prepare --step postgres");
    assert!([0, 137].contains(&out.code), "{}", out.all());
    machine.ok("appliance prepare");
    machine.ok("psql \"$(sed 's/^DATABASE_URL=//; s/172.17.0.1/127.0.0.1/' /app/etc/quiet/database_url.env)\" -Atqc 'SELECT n FROM kept' | grep -qx 7");

    // The other way round: nothing is made anew in the place of data that is missing.
    machine.ok("systemctl stop postgresql@15-main && mv /var/lib/postgresql/15/main /root/data");
    let out = machine.sh("appliance prepare --step postgres");
    assert!(out.code == 1 && out.stderr.contains("15/main has lost its data"), "{}", out.all());
    machine.ok("test ! -e /var/lib/postgresql/15/main");
    machine.ok("mv /root/data /var/lib/postgresql/15/main && appliance prepare");
    assert_eq!(machine.ok("appliance prepare"), "nothing to do\n");
}

/// Whether somebody behind another interface gets a connection to PostgreSQL's bridge address, from an address of its.
fn outsider_gets_in(machine: &Machine) -> bool {
    let code = machine.sh("ip netns exec outside timeout 3 bash -c 'exec 3<>/dev/tcp/172.17.0.1/5432'").code;
    assert!([0, 124].contains(&code), "neither let in nor left waiting: {code}");
    code == 0
}

#[test]
fn only_the_host_and_the_apps_networks_reach_the_database() {
    let machine = Machine::boot("filter");
    start_notes(&machine, "v1");
    wait_for_phase(&machine, "running");
    keep_note(&machine, "from within");
    // A neighbour that routes the bridge's address to this host.
    machine.ok(
        "set -e; ip netns add outside; ip link add out0 type veth peer name in0 netns outside
         ip addr add 10.99.0.1/24 dev out0; ip link set out0 up
         ip netns exec outside sh -ec 'ip addr add 10.99.0.2/24 dev in0; ip link set in0 up; ip link set lo up; ip route add default via 10.99.0.1'",
    );
    assert!(!outsider_gets_in(&machine));
    assert_eq!(machine.sh("timeout 5 bash -c 'exec 3<>/dev/tcp/172.17.0.1/5432'").code, 0, "the host itself");
    // One that lends itself an address of the app's network: its packets are counted where they end.
    let subnet = machine.ok("docker network inspect -f '{{(index .IPAM.Config 0).Subnet}}' notes_default");
    let lent = subnet.trim().replace(".0.0/16", ".9.9");
    machine.ok(&format!("ip netns exec outside ip addr add {lent}/32 dev lo"));
    let dropped = |machine: &Machine| {
        let table = machine.ok("nft list chain inet appliance postgres");
        let line = table.lines().find(|line| line.contains("oif missing")).expect("the rule is there").to_owned();
        line.split("packets ")
            .nth(1)
            .and_then(|rest| rest.split(' ').next())
            .and_then(|n| n.parse::<u64>().ok())
            .expect("a counter")
    };
    let before = dropped(&machine);
    machine.sh(&format!(
        "ip netns exec outside timeout 3 python3 -c \"import socket; s = socket.create_connection(('172.17.0.1', 5432), 2, ('{lent}', 0))\""
    ));
    assert!(dropped(&machine) > before, "a lent address is no way in");

    // Nor do a container's address, or the host's own loopback, lead past nginx.
    let container =
        machine.ok("docker inspect -f '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' notes_web_1");
    let visit = format!("ip netns exec outside timeout 3 bash -c 'exec 3<>/dev/tcp/{}/8000'", container.trim());
    assert_eq!(machine.sh(&visit).code, 124, "a container is not reached from outside");
    machine.ok(
        "ip netns exec outside sh -ec 'ip addr del 127.0.0.1/8 dev lo; sysctl -qw net.ipv4.conf.all.route_localnet=1; ip route add 127.0.0.1/32 via 10.99.0.1'",
    );
    let loopback = "ip netns exec outside timeout 3 bash -c 'exec 3<>/dev/tcp/127.0.0.1/8000'";
    assert_eq!(machine.sh(loopback).code, 124, "the host's loopback is not reached from outside");
    let table = machine.ok("nft list chain inet appliance prerouting");
    assert!(!table.contains("127.0.0.0/8 counter packets 0 "), "it is the filter that drops it: {table}");

    // Without the filter it could get in, so the test could fail; and whatever emptied the rules, they are there again.
    machine.ok("nft delete table inet appliance");
    assert!(outsider_gets_in(&machine), "the way is open but for the filter");
    assert_eq!(machine.sh(&visit).code, 0, "a container is open but for the filter");
    let plan = machine.sh("appliance plan");
    assert!(plan.code == 2 && plan.stdout.contains("appliance-filter.service"), "{}", plan.all());
    machine.ok("appliance prepare --step postgres");
    assert!(!outsider_gets_in(&machine));
    // Debian's own rules begin with emptying everything.
    for verb in ["start", "reload", "restart", "stop"] {
        machine.ok(&format!("systemctl {verb} nftables && nft list chain inet appliance postgres"));
        assert!(!outsider_gets_in(&machine), "after {verb}");
    }
    keep_note(&machine, "still from within");
    assert_eq!(machine.ok("appliance prepare"), "nothing to do\n");

    machine.reboot();
    wait_for_phase(&machine, "running");
    machine.ok("nft list chain inet appliance postgres | grep -q 'oif missing'");
    let order = machine.ok(
        "systemctl show -p ActiveEnterTimestampMonotonic --value appliance-filter.service; systemctl show -p ExecMainStartTimestampMonotonic --value postgresql@15-main.service",
    );
    let [filter, postgres] =
        &order.split_whitespace().map(|n| n.parse::<u64>().expect("a time")).collect::<Vec<_>>()[..]
    else {
        panic!("not two times: {order}")
    };
    assert!(0 < *filter && filter < postgres, "{order}");
    assert_eq!(notes(&machine), ["from within", "still from within"]);
}

const SIX: &str = "
services:
  a: {image: 'stub:1', stop_grace_period: 1s}
  b: {image: 'stub:1', stop_grace_period: 1s}
networks: {default: {enable_ipv6: true, ipam: {config: [{subnet: 'fd77::/64'}]}}}
";

#[test]
fn containers_with_ipv6_addresses_are_not_reached_from_outside() {
    let machine = Machine::boot("filter6");
    start_stack(&machine, "six", SIX);
    wait_for_phase(&machine, "running");
    machine.ok(
        "set -e; ip netns add outside; ip link add out0 type veth peer name in0 netns outside
         ip -6 addr add fd99::1/64 dev out0 nodad; ip link set out0 up; sysctl -qw net.ipv6.conf.all.forwarding=1
         ip netns exec outside sh -ec 'ip -6 addr add fd99::2/64 dev in0 nodad; ip link set in0 up; ip -6 route add default via fd99::1'",
    );
    let address = |service: &str| {
        let template = "{{range .NetworkSettings.Networks}}{{.GlobalIPv6Address}}{{end}}";
        machine.ok(&format!("docker inspect -f '{template}' six_{service}_1")).trim().to_owned()
    };
    let visit = format!("ip netns exec outside timeout 3 bash -c 'exec 3<>/dev/tcp/{}/5000'", address("a"));
    let inside = || {
        machine.ok(&format!("timeout 5 bash -c 'exec 3<>/dev/tcp/{}/5000'", address("a")));
        machine.ok(&format!(
            "docker exec six_b_1 /bin/busybox timeout 5 /bin/busybox nc {} 5000 < /dev/null",
            address("a")
        ));
    };
    assert_eq!(machine.sh(&visit).code, 124, "a container is not reached from outside");
    inside();
    // The way is there but for the filter.
    machine.ok("nft delete table inet appliance");
    wait_for("the way in", Duration::from_secs(30), || {
        let out = machine.sh(&visit);
        if out.code == 0 { Ok(()) } else { Err(out.all()) }
    });
    machine.ok("appliance prepare --step postgres");
    assert_eq!(machine.sh(&visit).code, 124);
    inside();
    assert_eq!(machine.ok("appliance prepare"), "nothing to do\n");
}

#[test]
fn a_recovery_of_postgresqls_is_waited_for() {
    let machine = Machine::boot("recovers");
    start_notes(&machine, "v1");
    wait_for_phase(&machine, "running");
    keep_note(&machine, "before");
    // As after a power cut with much to read back: longer than a command that wants an answer would wait.
    machine.ok(
        "set -e; systemctl stop appliance postgresql@15-main; touch /var/lib/postgresql/15/main/recovery.signal
         printf \"restore_command = 'test -e /var/lib/postgresql/slept || sleep 90; touch /var/lib/postgresql/slept; false'\\nrecovery_target_timeline = 'current'\\n\" > /etc/postgresql/15/main/conf.d/zz-slow.conf
         systemctl start --no-block appliance",
    );
    wait_for("a PostgreSQL that recovers", Duration::from_secs(60), || {
        let said = machine.sh("psql -U postgres -c 'SELECT 1'").stderr;
        if said.contains("starting up") || said.contains("not yet accepting") { Ok(()) } else { Err(said) }
    });
    wait_for_phase(&machine, "running");
    assert_eq!(notes(&machine), ["before"]);
    assert_eq!(machine.sh("test -e /run/appliance-failed").code, 1);
    wait_for("the end of the recovery", UP, || {
        let said = machine.sh("psql -U postgres -Atc 'SELECT pg_is_in_recovery()'").all();
        if said == "f\n" { Ok(()) } else { Err(said) }
    });
    machine.ok("rm /etc/postgresql/15/main/conf.d/zz-slow.conf; test ! -e /var/lib/postgresql/15/main/recovery.signal");

    // One that is stopped is started, and one that dies in the middle of a step is waited for: whatever the moment.
    machine.ok("systemctl stop postgresql@15-main");
    let out = machine.sh("appliance prepare --step database");
    assert!(out.code == 0 && out.stderr.contains("waiting for PostgreSQL to be back"), "{}", out.all());
    let mut random = Random::of(seed());
    for _ in 0..6 {
        let seconds = random.below(1000) as f64 / 1000.0;
        let out = machine.sh(&format!(
            "(sleep {seconds:.2}; kill -9 $(head -n 1 /var/lib/postgresql/15/main/postmaster.pid)) & appliance prepare --step postgres && \
             appliance prepare --step database; code=$?; wait; exit $code"
        ));
        assert_eq!(out.code, 0, "killed after {seconds:.2} s: {}", out.all());
    }
    // The last one may have died after all was done.
    machine.ok("appliance prepare --step database");
    // A supervisor that starts meanwhile is not the end of the app.
    machine.ok("systemctl kill -s KILL --kill-whom=main appliance-supervisor; kill -9 $(head -n 1 /var/lib/postgresql/15/main/postmaster.pid)");
    wait_for("the app to be well", UP, || {
        let (seen, code) = (phase(&machine), get(&machine, "/notes").0);
        if seen.0 == "running" && code == 200 { Ok(()) } else { Err(format!("{seen:?} {code}")) }
    });
    assert_eq!(machine.sh("test -e /run/appliance-failed").code, 1);
}
