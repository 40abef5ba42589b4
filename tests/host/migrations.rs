//! What a migration costs visitors by the size of the database: with the appliance, and with a dump and a restore of the same database in
//! the same run.

use super::Machine;
use super::apps::*;
use std::io::Read;
use std::time::{Duration, Instant};

/// Seconds, for one size.
pub struct Cost {
    /// Without an answer of the app's, in an update with a migration that succeeds.
    pub page: f64,
    /// Of that, making the way back.
    pub copy: f64,
    /// Without an answer of the app's, in an update whose migration fails and is undone.
    pub page_of_undone: f64,
    /// Of that, from the failure on.
    pub back: f64,
    /// A dump by pg_dump, and a restore by pg_restore, of the same database.
    pub dump: f64,
    pub restore: f64,
}

/// The longest that an update is waited for.
const UPDATE: Duration = Duration::from_secs(1800);

/// A host on which v1 runs; nothing is in its database yet.
pub fn prepare() -> Machine {
    let machine = Machine::boot("bench-migrations");
    install_notes(&machine);
    push(&machine, "v1");
    machine.put("/app/env.yml", env_yml(&machine, "live"), 0o600);
    machine.ok("systemctl start appliance");
    wait_for_phase(&machine, "running");
    machine.ok("psql -U postgres -d notes -qc 'CREATE TABLE bulk (n bigint PRIMARY KEY, t text); ALTER TABLE bulk OWNER TO app'");
    machine
}

fn push(machine: &Machine, version: &str) {
    machine.ok(&format!("runuser -u app -- git -C /srv/notes.git update-ref refs/heads/live refs/heads/{version}"));
}

/// Fills the database up to so many megabytes.
pub fn fill(machine: &Machine, megabytes: u32) {
    // A row takes about a kilobyte.
    let sql = format!(
        "INSERT INTO bulk SELECT n, repeat(md5(n::text), 30) FROM generate_series((SELECT coalesce(max(n), 0) + 1 FROM bulk), {megabytes} * 1000) n; \
         VACUUM ANALYZE bulk; CHECKPOINT"
    );
    let statements: Vec<String> =
        sql.split("; ").map(|statement| format!("-c '{}'", statement.replace('\'', "'\\''"))).collect();
    let out = machine.sh_for(1800, &format!("psql -U postgres -d notes -q {} && sync", statements.join(" ")));
    assert_eq!(out.code, 0, "{}", out.all());
}

/// Measures at the size that the database has now; afterwards v1 runs again, on the same data.
pub fn cost(machine: &Machine) -> Cost {
    push(machine, "v3");
    let page = without_answer(machine, 0);
    let copy = stage(machine, "dump");
    // Back to v1 by the dump that the copy has become.
    machine.ok("appliance rollback --yes");
    push(machine, "v4");
    let page_of_undone = without_answer(machine, 1);
    let back = stage(machine, "undo");
    push(machine, "v1");
    let seconds = |script: &str| {
        let began = Instant::now();
        let out = machine.sh_for(1800, script);
        assert_eq!(out.code, 0, "{script}: {}", out.all());
        began.elapsed().as_secs_f64()
    };
    let dump = seconds("pg_dump -U postgres -Fc -f /root/peer.pgdump notes && sync");
    machine.ok("createdb -U postgres peer");
    let restore = seconds(
        "pg_restore -U postgres --exit-on-error -d peer /root/peer.pgdump && psql -U postgres -qc CHECKPOINT && sync",
    );
    machine.ok("dropdb -U postgres peer; rm /root/peer.pgdump");
    Cost { page, copy, page_of_undone, back, dump, restore }
}

/// Updates, and tells for how long the app did not answer.
fn without_answer(machine: &Machine, code: i32) -> f64 {
    let mut update = machine.spawn("appliance update --force 2>&1");
    let (began, mut without, mut since) = (Instant::now(), Duration::ZERO, None);
    let mut has_ended = false;
    while began.elapsed() < UPDATE {
        has_ended = has_ended || update.try_wait().expect("it can be looked at").is_some();
        let is_up = get(machine, "/notes").0 == 200;
        match (is_up, since) {
            (false, None) => since = Some(Instant::now()),
            (true, Some(from)) => {
                without += Instant::now().duration_since(from);
                since = None;
            }
            (true, None) if has_ended => break,
            _ => {}
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut said = String::new();
    let out = update.stdout.take().expect("its output was asked for").read_to_string(&mut said);
    assert!(out.is_ok() && update.wait().expect("it ends").code() == Some(code), "appliance update: {said}");
    without.as_secs_f64()
}

/// What a stage of the last update took by its own clock, in seconds.
fn stage(machine: &Machine, name: &str) -> f64 {
    let releases: serde_json::Value = serde_json::from_str(&machine.ok("appliance releases --json")).expect("JSON");
    releases["last"]["took_ms"][name].as_f64().map_or(f64::NAN, |ms| ms / 1000.0)
}
