//! restic's rest-server as a target, open and append-only: it takes a run and a shipment, is drilled, and it is said what is wrong with a
//! password, which is told in no log.

use crate::host::apps::wait_for_phase;
use crate::host::several::*;
use crate::host::{Machine, wait_for};
use std::path::Path;
use std::time::Duration;

const KEY: &str = "canary-key-of-the-repository-0123456789";
const PASSWORD: &str = "canary-password-of-the-server";
const TOOLS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/tools");

fn env(backup: &str) -> String {
    let backup = format!("  backup: {{{backup}, encrypt: {KEY}}}\n");
    env_yml(&backup, "").replace("apps:\n  - name: one\n", "app:\n    name: one\n")
}

/// Takes another env.yml into use, for commands that are called by hand.
fn use_env(machine: &Machine, backup: &str) {
    machine.put("/app/env.yml", env(backup), 0o600);
    machine.ok("appliance env activate; systemctl stop appliance-ship.timer");
}

fn serve(machine: &Machine, unit: &str, command: &str, port: u16) {
    machine.ok(&format!("systemd-run -q --unit={unit} {command}"));
    wait_for(unit, Duration::from_secs(30), || {
        let out = machine.sh(&format!("ss -Hltn sport = :{port} | grep -q ."));
        if out.code == 0 { Ok(()) } else { Err(machine.sh(&format!("journalctl -u {unit} --no-pager")).all()) }
    });
}

/// A run, a shipment, and both brought back.
fn is_used(machine: &Machine, n: u32) {
    machine.ok(&format!(
        "psql -U postgres one -qc 'INSERT INTO note VALUES ({n})'; appliance backup run --new-repository"
    ));
    machine.ok(&format!(
        "psql -U postgres one -qc 'INSERT INTO note VALUES ({n})'; appliance backup ship; appliance backup verify"
    ));
    let told = machine.ok("appliance backup drill 2>/dev/null");
    assert!(told.contains(", passed (") && told.contains("as they were shipped last"), "{told}");
}

fn refused(machine: &Machine, expected: &str) {
    let out = machine.sh("appliance backup run");
    assert!(out.code == 1 && out.stderr.contains(expected), "{expected}: {}", out.all());
    assert!(!out.all().contains(PASSWORD), "the password is told");
}

/// A host with two servers of one directory, the second append-only.
fn start(name: &str) -> Machine {
    let machine = Machine::boot(name);
    install(&machine);
    machine.put("/app/env.yml", env("url: /srv/nothing"), 0o600);
    machine.ok("mkdir /srv/nothing; systemctl start appliance");
    wait_for_phase(&machine, "running");
    machine.ok("systemctl stop appliance-ship.timer; psql -U postgres one -qc 'CREATE TABLE note (n int); ALTER TABLE note OWNER TO app'");
    let server = Path::new(TOOLS).join("rest-server/usr/bin/restic-rest-server");
    machine.put_file(&server, "/usr/local/bin/rest-server");
    machine.ok("chmod 755 /usr/local/bin/rest-server");
    machine.ok(&format!("mkdir -p /srv/rest; printf 'shop:{{SHA}}%s\\n' \"$(printf %s {PASSWORD} | openssl dgst -sha1 -binary | base64)\" > /root/htpasswd"));
    let rest = "/usr/local/bin/rest-server --path /srv/rest --private-repos --htpasswd-file /root/htpasswd";
    serve(&machine, "rest", &format!("{rest} --listen 127.0.0.1:18000"), 18000);
    serve(&machine, "append", &format!("{rest} --listen 127.0.0.1:18001 --append-only"), 18001);
    machine
}

#[test]
fn a_rest_server_is_written_and_read_back_and_tells_what_is_wrong() {
    let machine = start("targets");
    // An open one, which then becomes append-only: what is stored can still be read, and nothing of it is removed.
    use_env(&machine, "url: 'rest:http://shop:not-the-password@127.0.0.1:18000/shop/'");
    refused(&machine, "the backup's target does not answer");
    use_env(&machine, &format!("url: 'rest:http://shop:{PASSWORD}@127.0.0.1:18000/shop/'"));
    is_used(&machine, 1);
    use_env(&machine, &format!("url: 'rest:http://shop:{PASSWORD}@127.0.0.1:18001/shop/'"));
    machine.ok("appliance backup run && appliance backup ship && appliance backup drill && appliance backup verify");
    let restic = "eval \"$(appliance backup key)\"; restic snapshots --json | jq length";
    let before = machine.ok(restic);
    machine.sh("eval \"$(appliance backup key)\"; restic forget latest");
    assert_eq!(machine.ok(restic), before, "the server removes nothing");
    // One that is away.
    machine.ok("systemctl stop append");
    refused(&machine, "the backup's target does not answer");

    machine.ok("systemctl stop rest");
    let told = machine.ok("journalctl --no-pager -o cat _COMM=appliance; cat /data/appliance/host/*.json; appliance backup status || true; appliance status");
    assert!(!told.contains(PASSWORD) && !told.contains(KEY), "a secret is told");
}

/// In `make soak`: it takes a quarter of an hour until it is certain.
#[test]
fn a_server_that_stands_still_is_given_up_and_the_app_does_not_mind() {
    let machine = start("targets-still");
    use_env(&machine, &format!("url: 'rest:http://shop:{PASSWORD}@127.0.0.1:18000/shop/'"));
    is_used(&machine, 1);
    machine.ok("psql -U postgres one -qc 'INSERT INTO note VALUES (2)'; systemctl kill -s STOP rest");
    machine.ok(
        "systemd-run -q --unit=still-run appliance backup run; systemd-run -q --unit=still-ship appliance backup ship",
    );
    let visitors = Visitors::of(&machine, "one", 60);
    visitors.all_served();
    for unit in ["still-run", "still-ship"] {
        wait_for("whoever waits for the server to give it up", Duration::from_secs(1800), || {
            let state = machine.ok(&format!("systemctl show -P SubState {unit}"));
            if state == "failed\n" { Ok(()) } else { Err(state) }
        });
        let said = machine.ok(&format!("journalctl -u {unit} -o cat"));
        assert!(said.contains("did nothing for 900 s and was stopped"), "{said}");
    }
    let status = machine.sh("appliance backup status");
    assert!(status.code == 1 && status.stdout.contains("did nothing for 900 s"), "{}", status.all());
    // It goes on as if nothing had been, and so does the backup.
    machine.ok("systemctl kill -s CONT rest; appliance backup run && appliance backup ship && appliance backup status");
    machine.ok("appliance backup verify && appliance backup drill");
}
