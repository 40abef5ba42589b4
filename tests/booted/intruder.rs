//! Those who try to get further than they should: a container with the app's password and volumes, a process of user app, a local user,
//! a visitor, a neighbour (`intruder_git.rs` has those who come by the repository). None of them reaches a file of root's, and nothing that they leave survives.

use super::update::{push, start_v1, version};
use crate::host::apps::*;
use crate::host::{Machine, wait_for};
use std::time::Duration;

/// SQL as the app's role, which every container of the app may send.
pub fn as_app(machine: &Machine, sql: &str) -> crate::host::Out {
    machine.put("/root/intruder.sql", sql, 0o644);
    machine.sh("psql -v ON_ERROR_STOP=1 -Atq -f /root/intruder.sql \
         \"$(sed -n 's/^DATABASE_URL=//p' /data/etc/notes/database_url.env | sed 's/@[^:]*:/@127.0.0.1:/')\"")
}

/// Statements that whoever runs them with a superuser's rights carries out as the system's user postgres. What may be called in an index
/// calls what may do anything.
pub const PAYLOAD: &str = "
    CREATE SCHEMA IF NOT EXISTS evil;
    CREATE OR REPLACE FUNCTION evil.really(what text) RETURNS text LANGUAGE plpgsql AS $$
      BEGIN
        BEGIN EXECUTE 'RESET ROLE'; EXCEPTION WHEN OTHERS THEN NULL; END;
        BEGIN EXECUTE 'RESET SESSION AUTHORIZATION'; EXCEPTION WHEN OTHERS THEN NULL; END;
        BEGIN EXECUTE format('COPY (SELECT %L) TO PROGRAM %L', what, 'cat >> /var/lib/postgresql/stolen');
        EXCEPTION WHEN OTHERS THEN NULL; END;
        RETURN what;
      END $$;
    CREATE OR REPLACE FUNCTION evil.run(what text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
      BEGIN RETURN evil.really(what); END $$;
";

pub fn stolen(machine: &Machine) -> String {
    machine.sh("cat /var/lib/postgresql/stolen").stdout
}

/// The payload works where a superuser runs it: a test that finds nothing stolen has looked.
pub fn try_the_payload(machine: &Machine) {
    machine.ok("psql -U postgres -d notes -qAtc \"SELECT evil.run('a superuser')\"");
    assert_eq!(stolen(machine), "a superuser\n");
    machine.ok("rm /var/lib/postgresql/stolen");
}

#[test]
fn a_container_with_the_databases_password_never_becomes_postgres() {
    let machine = start_v1("intruderdb");
    keep_note(&machine, "one");
    let did = as_app(
        &machine,
        &format!(
            "{PAYLOAD}
             CREATE VIEW evil.pg_extension AS SELECT evil.run('by pg_extension')::name AS extname, 2200::oid AS extnamespace, '1'::text AS extversion;
             CREATE VIEW evil.pg_namespace AS SELECT 2200::oid AS oid, evil.run('by pg_namespace')::name AS nspname;
             CREATE VIEW evil.pg_class AS SELECT c.* FROM pg_catalog.pg_class c WHERE evil.run('by pg_class') IS NOT NULL;
             CREATE TABLE notes_guard (id int CHECK (evil.run('by a check') IS NOT NULL));
             INSERT INTO notes_guard SELECT generate_series(1, 3);
             CREATE MATERIALIZED VIEW notes_view AS SELECT evil.run('by a view') AS x;
             CREATE INDEX ON notes_guard ((evil.run(id::text)));
             ALTER DATABASE notes SET search_path TO evil, pg_catalog, public;"
        ),
    );
    assert_eq!(did.code, 0, "{}", did.all());
    assert_eq!(stolen(&machine), "", "as the app it cannot");
    try_the_payload(&machine);

    // Every way in which the appliance enters that database: a start, a dump, a migration and the way back, a reset, a restore.
    machine.ok("systemctl restart appliance");
    wait_for_phase(&machine, "running");
    assert_eq!(stolen(&machine), "", "a start");
    machine.ok("appliance database dump /root/whole.pgdump");
    assert_eq!(stolen(&machine), "", "a dump");
    push(&machine, "v3");
    machine.ok("appliance update");
    assert_eq!((version(&machine).as_str(), stolen(&machine).as_str()), ("v3", ""), "a migration");
    push(&machine, "v4");
    assert_eq!(machine.sh("appliance update").code, 1);
    assert_eq!((version(&machine).as_str(), stolen(&machine).as_str()), ("v3", ""), "a migration that failed");
    machine.ok("appliance rollback --yes");
    assert_eq!((version(&machine).as_str(), stolen(&machine).as_str()), ("v1", ""), "a dump that was put back");
    machine.ok("appliance database restore --yes /root/whole.pgdump");
    assert_eq!(stolen(&machine), "", "a restore");
    assert_eq!(notes(&machine), ["one"]);
    assert_eq!(as_app(&machine, "SELECT count(*) FROM notes_guard").stdout, "3\n", "its own data is there");
    // Without the schema there would be nowhere for the app's own tables.
    as_app(&machine, "ALTER DATABASE notes SET search_path TO public");
    machine.ok("appliance database reset --yes");
    assert_eq!(stolen(&machine), "", "a reset");

    // The dumps' directory is the app's: what it puts there leads nowhere.
    machine.ok("echo root:secret > /root/canary; chmod 600 /root/canary");
    for name in ["notes-migrate.pgdump.part", "notes-migrate.pgdump", "restore.pgdump", "restore.pgdump.gz"] {
        machine.ok(&format!("runuser -u app -- ln -sf /root/canary /data/notes-pgdump/{name}"));
    }
    machine.ok("gzip -k /root/whole.pgdump; appliance database restore --yes /root/whole.pgdump.gz");
    push(&machine, "v3");
    machine.ok("appliance update --force");
    assert_eq!(machine.get("/root/canary"), "root:secret\n");
    assert_eq!(machine.ok("stat -c '%a %U' /root/canary"), "600 root\n");
}

#[test]
fn user_app_writes_nothing_that_root_trusts() {
    let machine = start_v1("intruderapp");
    keep_note(&machine, "one");
    machine.ok("echo root:secret > /root/canary; chmod 600 /root/canary");
    let as_user = |script: &str| machine.sh(&format!("runuser -u app -- sh -c '{script}'"));
    // Its own directories are not where root looks.
    for script in [
        "ls /data/appliance",
        "mv /data/etc /data/other",
        "touch /data/etc/ledger.json",
        "echo x > /data/etc/notes/docker-compose.yml",
        "echo x > /data/etc/notes/.env",
        "echo x > /data/etc/notes/database_url.env",
        "mv /data/etc/notes /data/etc/mine",
        "touch /data/etc/tags/x /data/etc/flags/force.update.notes",
        "cat /data/etc/server.key.pem",
        "touch /data/appliance-git/notes/x",
        "git --git-dir=/data/appliance-git/notes update-ref refs/heads/x HEAD",
        "mv /data/appliance-git/notes /data/appliance-git/mine",
        "ls /var/lib/appliance-git/.ssh",
    ] {
        let out = as_user(script);
        assert!(out.code != 0, "user app may do: {script}\n{}", out.all());
    }
    assert_eq!(
        as_user("grep -c DATABASE_URL /data/etc/notes/database_url.env").stdout,
        "1\n",
        "what it needs it may read"
    );

    // What it owns may be exchanged for something else at any moment.
    machine.ok("mkdir -p /app/.ssh; chown app:app /app/.ssh");
    for path in ["/app/.ssh/authorized_keys", "/app/.ssh/id_ed25519"] {
        as_user(&format!("ln -sf /root/canary {path}"));
    }
    // In a directory that a container writes.
    for path in
        ["/data/notes-storage-vault/.appliance-x", "/data/notes-ca/ca.cert.pem", "/data/notes-gpg/appliance.sha256"]
    {
        machine.ok(&format!("ln -sf /root/canary {path}"));
    }
    machine.ok("mkfifo /data/notes-storage-vault/.appliance-pipe; systemctl restart appliance");
    wait_for_phase(&machine, "running");
    assert_eq!(machine.get("/root/canary"), "root:secret\n");
    assert_eq!(machine.ok("stat -c '%a %U' /root/canary"), "600 root\n");
    assert_eq!(
        machine.sh("grep -r root:secret /app /data /run/appliance /etc/nginx /var/www").code,
        1,
        "its contents are nowhere else"
    );
    assert_eq!(machine.sh("ls -A /data/notes-storage-vault").stdout, "");
    let out = machine.ok("appliance update 2>&1");
    assert!(out.contains("nothing new") && out.contains("git does not use /app/.ssh/id_ed25519"), "{out}");
    assert_eq!(machine.sh("ls /var/lib/appliance-git/.ssh/id_ed25519").code, 2, "git has root's file for a key");

    // A compose file of the operator's that others can write is not the operator's word.
    machine.ok("cp /app/notes/compose.yml /data/etc/notes/more.yml; chown app /data/etc/notes/more.yml");
    machine.put("/data/etc/notes/docker-compose.yml", "include: [more.yml]\n", 0o644);
    let out = machine.sh("appliance plan --stack");
    assert!(out.code == 1 && out.stderr.contains("can be written by others than root"), "{}", out.all());
    machine.ok("rm /data/etc/notes/docker-compose.yml /data/etc/notes/more.yml");
    assert_eq!(notes(&machine), ["one"]);
}

#[test]
fn a_host_of_before_is_moved_over_and_nothing_planted_is_taken() {
    let machine = start_v1("movedover");
    keep_note(&machine, "one");
    push(&machine, "v3");
    machine.ok("appliance update");
    let (ledger, envs) = (machine.ok("appliance releases --json"), machine.ok("appliance env history"));
    let containers = machine.ok("docker ps --no-trunc --format '{{.ID}} {{.CreatedAt}}' | sort");
    // As the version before left it: user app owns the directory.
    machine.ok("set -e; systemctl stop appliance-supervisor; rm /data/appliance/host/moved
         mv /data/appliance/apps/notes/ledger.json /data/etc/ledger.json; chmod 644 /data/etc/ledger.json
         mv /data/appliance/host/env-history /data/etc/env-history; rm -rf /data/appliance
         echo 'A=1' > /data/etc/notes/.env; chmod 666 /data/etc/notes/.env
         chown app:app /data/etc /data/etc/notes /data/etc/notes/.env /data/etc/tags
         echo 'appliance: {domain: evil.example.test}' > /data/etc/env-history/999999-20300101T000000Z-aaaaaaaaaaaa.yml
         chown app /data/etc/env-history/999999-*.yml");
    // Killed at some moments; the last start is left alone.
    for pause in ["0.02", "0.1", "0.3", "1"] {
        machine.sh(&format!("systemctl start --no-block appliance-supervisor; sleep {pause}; systemctl kill -s KILL appliance-supervisor"));
    }
    machine.ok("systemctl start appliance");
    wait_for_phase(&machine, "running");
    assert_eq!(machine.ok("appliance releases --json"), ledger);
    assert_eq!(machine.ok("appliance env history"), envs);
    assert_eq!(machine.sh("ls /data/etc/ledger.json /data/etc/env-history").stdout, "");
    assert_eq!(
        machine.ok("stat -c '%a %U' /data/appliance /data/etc /data/etc/notes"),
        "700 root\n755 root\n755 root\n"
    );
    assert_eq!(machine.ok("stat -c '%a %U' /data/etc/notes/.env"), "644 root\n");
    // Once only: what somebody puts there afterwards may be a file that a container writes.
    machine.ok("touch /data/etc/notes/state; chown 1234 /data/etc/notes/state; appliance prepare");
    assert_eq!(machine.ok("stat -c %u /data/etc/notes/state"), "1234\n");
    assert_eq!(
        machine.ok("docker ps --no-trunc --format '{{.ID}} {{.CreatedAt}}' | sort"),
        containers,
        "no container was touched"
    );
    assert_eq!((version(&machine).as_str(), notes(&machine)), ("v3", vec!["one".to_owned()]));
}

#[test]
fn a_local_user_learns_nothing_and_answers_in_nobodys_place() {
    let machine = Machine::boot("intruderlocal");
    install_notes(&machine);
    push(&machine, "v4");
    machine.put("/app/env.yml", env_yml(&machine, "live"), 0o600);
    machine.ok("systemctl start appliance");
    machine.ok("useradd --create-home mallory; useradd --create-home --groups adm keeper");
    let as_mallory = |script: &str| machine.sh(&format!("runuser -u mallory -- sh -c '{script}'"));
    // Its migration fails at once.
    wait_for_end(&machine, "failed", 4);
    assert_eq!(machine.ok("stat -c '%a %U:%G' /run/appliance-failed"), "640 root:adm\n");
    assert_ne!(as_mallory("cat /run/appliance-failed").code, 0);
    assert_ne!(as_mallory("rm -f /run/appliance-failed").code, 0);
    assert_eq!(machine.sh("runuser -u keeper -- cat /run/appliance-failed").code, 0);
    // What the app prints is not everybody's: neither in the status nor where a failure says why.
    for script in ["cat /run/appliance/status.json", "appliance status", "ls /data/appliance", "cat /app/env.yml"] {
        let out = as_mallory(script);
        assert!(out.code != 0 && out.all().contains("ermission denied"), "{script}: {}", out.all());
    }
    assert_eq!(machine.sh("runuser -u keeper -- appliance status").code, 4);
    push(&machine, "v1");
    machine.ok("appliance recover --start");
    wait_for_phase(&machine, "running");
    // Who has the containers' number is told of.
    let said = machine.ok("appliance prepare --step storage 2>&1");
    assert!(said.contains("the user mallory of this host has the number 1000"), "{said}");
    machine.ok("usermod --shell /usr/sbin/nologin mallory");
    let said = machine.ok("appliance prepare --step storage 2>&1");
    assert!(!said.contains("has the number 1000"), "{said}");

    // PostgreSQL and the app are down, and somebody else listens where the app and nginx look for them.
    machine.ok("systemctl stop appliance 'postgresql@*'");
    // As in the moment when a container dies, in which there is no status page yet.
    machine.ok("rm /var/www/html/503.*");
    machine.put("/home/mallory/listen.py", LISTENER, 0o644);
    let mut listener = machine.spawn("exec runuser -u mallory -- python3 /home/mallory/listen.py");
    wait_for("the listener", Duration::from_secs(30), || {
        let out = machine.sh("ss -Hltn src 172.17.0.1:5432; ss -Hltn src 127.0.0.1:8000");
        if out.stdout.contains(":5432") && out.stdout.contains(":8000") { Ok(()) } else { Err(out.all()) }
    });
    let from_host = "timeout 5 bash -c 'exec 3<>/dev/tcp/172.17.0.1/5432; cat <&3'";
    let from_container =
        "docker run --rm --entrypoint /bin/busybox stub:1 timeout 5 /bin/busybox nc 172.17.0.1 5432 </dev/null";
    let by_nginx =
        "curl -sk --max-time 120 --resolve notes.example.test:443:127.0.0.1 https://notes.example.test/notes";
    let by_loopback = "timeout 5 bash -c 'exec 3<>/dev/tcp/127.0.0.1/5432; cat <&3'";
    for visit in [from_host, from_container, by_loopback, by_nginx] {
        let out = machine.sh(visit);
        assert!(!out.stdout.contains("mallory"), "{visit}: {}", out.all());
    }
    machine.ok("nft delete chain inet appliance output");
    for visit in [from_host, from_container, by_loopback, by_nginx] {
        let out = machine.sh(visit);
        assert!(out.stdout.contains("mallory"), "it is the filter that keeps it away: {visit}: {}", out.all());
    }
    drop(listener.kill());
    listener.wait().expect("it ends");
    machine.ok("pkill -u mallory; systemctl start 'postgresql@15-main' appliance");
    wait_for_phase(&machine, "running");
    machine.ok("nft list chain inet appliance output");
}

/// Answers whoever comes, as PostgreSQL's and as the app's place.
const LISTENER: &str = "
import socket, threading
def serve(address):
    server = socket.create_server(address)
    while True:
        visitor = server.accept()[0]
        visitor.settimeout(1)
        try:
            visitor.recv(1 << 16)
        except TimeoutError:
            pass
        visitor.sendall(b'HTTP/1.0 200 OK\\r\\n\\r\\nmallory')
        visitor.close()
for address in [('172.17.0.1', 5432), ('127.0.0.1', 5432), ('127.0.0.1', 8000)]:
    threading.Thread(target=serve, args=[address]).start()
";
