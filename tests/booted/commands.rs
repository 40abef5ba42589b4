//! The commands that people type, on a running appliance, and what the package brings beside the binary.

use crate::host::Machine;
use crate::host::apps::*;

#[test]
fn ps_logs_exec_env_and_help() {
    let machine = Machine::boot("commands");
    start_notes(&machine, "v1");
    wait_for_phase(&machine, "running");

    let table = machine.ok("appliance ps");
    assert!(table.lines().count() == 6 && table.contains("notes_web_1"), "{table}");
    let json: serde_json::Value = serde_json::from_str(&machine.ok("appliance ps --json")).expect("ps --json is JSON");
    assert_eq!(json.as_array().map(Vec::len), Some(5));

    get(&machine, "/?look-for-this");
    crate::host::wait_for("the request in the log", std::time::Duration::from_secs(20), || {
        let log = machine.ok("appliance logs web --tail 20");
        if log.lines().any(|line| line.starts_with("web") && line.contains("look-for-this")) {
            Ok(())
        } else {
            Err(log)
        }
    });
    let log = machine.ok("appliance logs redis --since '1 hour ago'");
    assert!(!log.is_empty() && log.lines().all(|line| line.starts_with("redis | ")), "{log}");
    let followed = machine.sh_for(3, "appliance logs -f -n 0 web & sleep 1; curl -sk -H 'Host: notes.example.test' https://127.0.0.1/?followed >/dev/null; wait");
    assert!(followed.stdout.contains("followed"), "{}", followed.all());

    assert_eq!(machine.ok("appliance exec web -- python3 -c 'print(6 * 7)'"), "42\n");
    assert_eq!(machine.sh("appliance exec web -- sh -c 'echo no >&2; exit 7'").code, 7);
    assert_eq!(machine.ok("echo through | appliance exec web -- cat"), "through\n");
    let terminal = machine.ok("script -qec 'appliance exec web -- tty' /dev/null");
    assert!(terminal.contains("/dev/pts/"), "{terminal}");
    let missing = machine.sh("appliance exec nobody -- true");
    assert!(missing.code == 1 && missing.stderr.contains("running: beat, memcached"), "{}", missing.all());

    let shown = machine.ok("eval \"$(appliance env show --format export appliance,app)\" && echo \"$APPLIANCE_DOMAIN $APPLIANCE_STORAGE_IGNORE_DATA $APP_NAME\"");
    assert_eq!(shown, format!("{DOMAIN} true notes\n"));
    assert!(machine.ok("appliance env show --format json").contains("\"NOTES_SETTINGS\""));
    assert!(machine.ok("appliance env show --format yaml appliance").contains("APPLIANCE_DOMAIN: notes.example.test"));
    assert_eq!(machine.ok("appliance env check"), "/app/env.yml is fine\n");
    assert_eq!(machine.ok("appliance env activate"), "/app/env.yml was active already\n");

    for command in [
        "run",
        "prepare",
        "plan",
        "status",
        "ps",
        "logs",
        "exec",
        "recover",
        "env check",
        "env show",
        "env activate",
        "completions",
        "man",
    ] {
        let help = machine.ok(&format!("appliance {command} --help"));
        assert!(help.contains("Example"), "{command}: {help}");
    }
    let package = machine.ok("dpkg-deb --contents /root/appliance.deb");
    for file in [
        "/usr/share/man/man1/appliance.1.gz",
        "/usr/share/bash-completion/completions/appliance",
        "/lib/systemd/system/appliance.service",
    ] {
        assert!(package.contains(file), "{file} is not in the package");
    }
    machine.ok("appliance completions bash | bash -n");
    assert!(machine.ok("appliance man").contains(".TH appliance 1"));
    assert_eq!(machine.sh("appliance no-such-command").code, 2);

    // docker compose's labels are the standard ones; the journal has the service as a field.
    let fields = machine.ok("journalctl -o json -n 1 COM_DOCKER_COMPOSE_SERVICE=web COM_DOCKER_COMPOSE_PROJECT=notes");
    assert!(fields.contains("\"CONTAINER_NAME\":\"notes_web_1\""), "{fields}");
    machine.ok("systemd-analyze verify --man=no appliance.service appliance-supervisor.service");
}
