//! The PostgreSQL cluster: made where there is none, started where it is stopped, told of changes as gently as they allow, and reached by
//! nobody but the host and the app.

use crate::host::apps::*;
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

    // Without the filter it could get in, so the test could fail; and whatever emptied the rules, they are there again.
    machine.ok("nft delete table inet appliance");
    assert!(outsider_gets_in(&machine), "the way is open but for the filter");
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
