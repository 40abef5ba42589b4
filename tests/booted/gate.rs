//! What `app.gate` asks of a new version's own containers.

use super::checkout::{COMPOSE, env, git, refused, version};
use crate::host::Machine;
use crate::host::apps::*;

/// Pushes a version whose container knows which it is, and holds a secret.
fn push(machine: &Machine, version: &str) {
    let more = "    environment: {VERSION: 'VERSION', PASSWORD: canary-gate-77}\n";
    machine.put("/srv/g/compose.yml", format!("{COMPOSE}{more}").replace("VERSION'", &format!("{version}'")), 0o644);
    machine.ok("chown -R app:app /srv/g");
    git(machine, "add -A");
    git(machine, &format!("commit -q -m {version}"));
}

fn ask(machine: &Machine, gate: &str) {
    machine.put("/app/env.yml", format!("{}  gate:\n{gate}", env(machine, "keep")), 0o600);
    machine.ok("appliance env activate");
}

#[test]
fn a_version_is_used_only_if_everything_holds_that_the_env_asks_of_it() {
    let machine = Machine::boot("gate");
    machine.ok("mkdir -p /srv/g && chown app:app /srv/g");
    git(&machine, "init -q -b main .");
    push(&machine, "one");
    // The first release is asked too.
    let holds = |version: &str| {
        format!(
            "    - http: {{service: a, port: 5000, path: /index.html, body: stub, status: 200}}\n    - tcp: {{service: a, port: 8080}}\n    \
             - command: {{service: a, run: [/bin/busybox, sh, -c, 'test \"$VERSION\" = {version}']}}\n    - sql: {{query: SELECT 1}}\n"
        )
    };
    machine.put("/app/env.yml", format!("{}  gate:\n{}", env(&machine, "keep"), holds("one")), 0o600);
    machine.ok("systemctl start appliance");
    wait_for_phase(&machine, "running");

    // Whatever does not hold is said, and the old container was never touched.
    let id = machine.ok("docker inspect -f '{{.Id}} {{.State.StartedAt}}' g_a_1");
    machine.ok("psql -q -U postgres g -c 'CREATE TABLE t (a int); ALTER TABLE t OWNER TO app'");
    push(&machine, "two");
    for (probe, expected) in [
        (
            "http: {service: a, port: 5000, path: /index.html, body: other, timeout: 1}",
            "not with the text that is asked for",
        ),
        ("http: {service: a, port: 5000, path: /none, timeout: 1}", "it answers 404"),
        ("http: {service: a, port: 5000, path: /none, status: 200, timeout: 1}", "it answers 404, not 200"),
        ("http: {service: a, timeout: 1}", "the service a has no route, so the probe needs a port"),
        ("tcp: {service: a, port: 81, timeout: 1}", "could not connect to 172."),
        ("tcp: {service: b, port: 81, timeout: 1}", "the service b is not in "),
        (
            "command: {service: a, run: [/bin/busybox, sh, -c, 'echo \"$PASSWORD\" is wrong; exit 3'], timeout: 1}",
            "(command in a) does not hold: it ended with 3: (secret) is wrong",
        ),
        ("command: {service: a, run: [/bin/busybox, sleep, '1000'], timeout: 2}", "no answer within 2 s"),
        ("sql: {query: SELECT count(*) FROM t, timeout: 1}", "missing, false or 0"),
        ("sql: {query: SELECT 1 WHERE false, timeout: 1}", "missing, false or 0"),
        ("sql: {query: CREATE TABLE x (), timeout: 1}", "PostgreSQL does not take the query"),
        ("sql: {query: SELECT 1; SELECT 2, timeout: 1}", "PostgreSQL does not take the query"),
        ("sql: {query: SELECT 1 FROM t FOR UPDATE, timeout: 1}", "read-only transaction"),
        // As the app, not as whoever rules the database.
        ("sql: {query: \"SELECT current_user = 'postgres'\", timeout: 1}", "missing, false or 0"),
    ] {
        ask(&machine, &format!("    - {probe}\n"));
        machine.ok("touch /app/etc/flags/force.update.g");
        refused(&machine, expected);
        assert_eq!(machine.ok("docker inspect -f '{{.Id}} {{.State.StartedAt}}' g_a_1"), id, "{probe}");
        assert_eq!(machine.ok("docker ps -aq | wc -l"), "1\n", "nothing is left over: {probe}");
    }
    // The new container was asked, not the old one.
    ask(&machine, &holds("two"));
    machine.ok("appliance update --force");
    assert_eq!(version(&machine), "two");
    // One that needs a while.
    push(&machine, "three");
    ask(
        &machine,
        "    - command: {service: a, timeout: 30, run: [/bin/busybox, sh, -c, 'test -e /x || { : > /x; exit 1; }']}\n",
    );
    machine.ok("appliance update");
    assert_eq!(version(&machine), "three");
}
