//! The commands that people type, on a running appliance, and what the package brings beside the binary.

use crate::host::Machine;
use crate::host::apps::*;

/// Runs `appliance exec` on a terminal of its own, and changes that terminal's size under it.
const RESIZE: &str = r#"
import fcntl, os, pty, re, select, struct, termios, time
child, master = pty.fork()
def resize(rows, columns): fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
if child == 0:
    os.execvp("appliance", ["appliance", "exec", "web", "--", "sh", "-c", "while stty size; do sleep 0.2; done"])
resize(33, 99)
seen = b""
def until(pattern):
    global seen
    end = time.monotonic() + 60
    while not re.search(pattern, seen) and time.monotonic() < end:
        if select.select([master], [], [], 1)[0]:
            # That is how a terminal ends whose other side is closed.
            try: seen += os.read(master, 1000)
            except OSError: return
until(rb"33 99")
resize(44, 111)
until(rb"44 111")
# Ctrl-C reaches the program inside.
os.write(master, b"\x03")
until(rb"never")
os.waitpid(child, 0)
print("\n".join(sorted(set(re.findall(r"33 99|44 111", seen.decode())))))
"#;

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

    // As whom, where, with what; a shell; the terminal's size, also when it changes.
    let placed = machine.ok("appliance exec -u daemon -w /tmp -e A=b web -- sh -c 'id -un; pwd; echo $A'");
    assert_eq!(placed, "daemon\n/tmp\nb\n");
    assert_eq!(machine.ok("echo 'echo from $0' | appliance shell web").trim(), "from bash");
    let shell =
        machine.ok("printf 'tty\\nexit 5\\n' | script -qec 'appliance shell web' /dev/null || echo ended with $?");
    assert!(shell.contains("/dev/pts/") && shell.contains("ended with 5"), "{shell}");
    let sizes = machine.ok(&format!("python3 - <<'END'\n{RESIZE}\nEND"));
    assert_eq!(sizes.trim(), "33 99\n44 111");

    // What is used, and by which processes.
    let stats: serde_json::Value =
        serde_json::from_str(&machine.ok("appliance stats --json web redis")).expect("stats --json is JSON");
    let rows = stats.as_array().expect("a list");
    assert!(rows.len() == 2 && rows.iter().all(|row| row["processes"].as_u64() > Some(0)), "{stats}");
    assert!(rows.iter().all(|row| row["memory_bytes"].as_u64() > Some(100_000)), "{stats}");
    let table = machine.ok("appliance stats");
    assert!(table.contains("MEM %") && table.contains("notes_web_1"), "{table}");
    assert!(machine.ok("appliance top redis").contains("redis-server"));
    assert!(machine.sh("appliance top nobody").stderr.contains("no container of a service nobody"));

    // Files there and back, a directory, an archive; names as they are given.
    machine
        .ok("echo kept > '/root/a file'; appliance cp '/root/a file' web:/tmp/b; appliance cp web:/tmp/b /root/back");
    assert_eq!(machine.get("/root/back"), "kept\n");
    machine.ok("appliance cp web:/tmp - | tar t | grep -q tmp/b");
    machine.ok(
        "set -e; mkdir -p /root/tree/sub; echo deep > /root/tree/sub/file; ln -s sub/file /root/tree/link; chmod 640 /root/tree/sub/file; \
         appliance cp /root/tree web:/tmp/tree; appliance cp web:/tmp/tree /root/tree-back; diff -r /root/tree /root/tree-back; \
         test $(stat -c %a /root/tree-back/sub/file) = 640; test $(readlink /root/tree-back/link) = sub/file",
    );
    assert_eq!(machine.sh("appliance cp web:/no-such /root/x").code, 1);
    assert!(machine.sh("appliance cp a b").stderr.contains("one of the two must be SERVICE:PATH"));

    // The log: by pattern, by time, as JSON, with one colour for each service on a terminal.
    let unmatched = machine.sh("appliance logs --grep 'LOOK-for-.his' web");
    assert!(unmatched.code == 1 && unmatched.all().is_empty(), "capitals are heeded: {}", unmatched.all());
    assert!(machine.ok("appliance logs --grep 'look-for-.his' web").contains("look-for-this"));
    assert!(machine.ok("appliance logs --since 1h --until 0s -t redis").lines().all(|line| line.contains("Z ")));
    let line = machine.ok("appliance logs --json -n 1 web");
    let line: serde_json::Value = serde_json::from_str(&line).expect("one object per line");
    assert_eq!((&line["service"], &line["container"]), (&"web".into(), &"notes_web_1".into()));
    let coloured = machine.ok("script -qec 'appliance logs web redis' /dev/null");
    assert!(coloured.contains("\u{1b}[36m") && coloured.contains("\u{1b}[33m"), "{coloured:?}");
    assert!(!machine.ok("NO_COLOR=1 script -qec 'appliance logs web' /dev/null").contains("\u{1b}["));

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
        "shell",
        "stats",
        "top",
        "cp",
        "update",
        "rollback",
        "releases",
        "database dump",
        "database reset",
        "database restore",
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
