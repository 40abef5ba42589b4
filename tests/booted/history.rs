//! The envs that were active: a broken one at boot, what differs, the way back, and no secret on the way.

use crate::host::apps::*;
use crate::host::{Machine, wait_for};
use std::time::Duration;

/// What is sent to Sentry's address, as it arrives.
const SINK: &str = "import http.server
class Sink(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers.get('Content-Length', 0)))
        open('/root/reports', 'ab').write(body + b'\\n')
        self.send_response(200)
        self.send_header('Content-Length', '2')
        self.end_headers()
        self.wfile.write(b'{}')
    def log_message(self, *_):
        pass
http.server.ThreadingHTTPServer(('127.0.0.1', 9), Sink).serve_forever()
";

fn no_secret(what: &str, text: &str) {
    for secret in CANARIES {
        assert!(!text.contains(secret), "{what} tells {secret}: {text}");
    }
}

#[test]
fn a_broken_env_at_boot_leaves_the_last_good_one_running_and_undo_leads_back() {
    let machine = Machine::boot("history");
    start_notes(&machine, "v1");
    wait_for_phase(&machine, "running");
    assert_eq!(
        machine
            .ok("stat -L -c '%a %U' /data/appliance/host/env-history /data/appliance/host/env-history/*")
            .lines()
            .collect::<Vec<_>>(),
        ["700 root", "600 root"]
    );
    let first = machine.get("/app/env.yml");

    // Another one: it is told what would change, it is kept, and what was before it is not lost.
    let changed = first
        .replace("  allowed_hosts: ", "  allowed_hosts: other.example.test ")
        .replace(CANARIES[0], "canary-settings-new");
    machine.put("/app/env.yml", &changed, 0o600);
    let diff = machine.sh("appliance env diff");
    assert_eq!(diff.code, 2, "{}", diff.all());
    let lines: Vec<&str> = diff.stdout.lines().collect();
    assert_eq!((lines.len(), lines[0]), (2, "~ app.settings: (secret) -> (secret)"), "{lines:?}");
    assert!(
        lines[1].starts_with("~ appliance.allowed_hosts: ") && lines[1].contains("-> other.example.test "),
        "{lines:?}"
    );
    no_secret("diff", &diff.all());
    machine.ok("systemctl restart appliance-supervisor");
    wait_for_phase(&machine, "running");
    let kept = machine.ok("appliance env history");
    let states: Vec<&str> =
        kept.lines().skip(1).map(|line| if line.ends_with("active") { "active" } else { "" }).collect();
    assert_eq!(states, ["active", ""], "{kept}");
    assert_eq!(machine.sh("appliance env diff").code, 0, "what is active is what the next start takes");
    let old = machine.sh("appliance env diff 1 2");
    assert!(old.code == 2 && old.stdout == diff.stdout, "{}", old.all());

    // Broken at boot, with a secret in the broken line.
    machine.put("/app/env.yml", format!("{changed}  settings: {}\n   x: [\n", CANARIES[2]), 0o600);
    machine.reboot();
    machine.put("/root/sink.py", SINK, 0o600);
    let mut reports = machine.spawn("exec python3 /root/sink.py");
    wait_for("the reports' address", Duration::from_secs(20), || {
        let out = machine.sh("curl -s -d probe http://127.0.0.1:9/");
        if out.stdout == "{}" { Ok(()) } else { Err(out.all()) }
    });
    wait_for_phase(&machine, "running");
    machine.ok("systemctl restart appliance-supervisor");
    wait_for_phase(&machine, "running");
    let text = machine.ok("appliance status");
    assert!(
        text.contains("the newest env is broken, so the last good one goes on") && text.contains("/app/env.yml:"),
        "{text}"
    );
    no_secret("status", &text);
    assert_eq!(get(&machine, "/health").0, 200);
    wait_for("the report of the broken env", Duration::from_secs(20), || {
        let found = machine.sh("grep -ac 'the newest env is broken' /root/reports").stdout;
        if found.trim().parse::<u32>().is_ok_and(|count| count > 0) { Ok(()) } else { Err(found) }
    });
    no_secret("a report", &machine.ok("grep -av -e sentry_key -e '\"dsn\"' /root/reports"));
    drop(reports.kill());
    drop(reports.wait());
    no_secret("the journal", &machine.ok("journalctl --no-pager -o cat -u appliance-supervisor"));
    let check = machine.sh("appliance env check");
    assert!(check.code == 1, "{}", check.all());
    no_secret("check", &check.all());

    // Back: first to the last good one, then, that one being in place, to the one before it.
    let broken = machine.get("/app/env.yml");
    let out = machine.ok("appliance env undo");
    assert_eq!(machine.get("/app/env.yml"), changed, "{out}");
    let aside =
        out.lines().find_map(|line| line.strip_prefix("what was there is ")).expect("it says where the old one is");
    assert_eq!(machine.get(aside.trim()), broken);
    machine.ok("appliance env undo");
    assert_eq!(machine.get("/app/env.yml"), first);
    let modes = machine.ok("stat -c %a /app/env.yml*");
    assert!(modes.lines().all(|mode| mode == "600"), "{modes}");
    let out = machine.sh("appliance env undo");
    assert!(out.code == 1 && out.stderr.contains("no other env was active before"), "{}", out.all());
    let out = machine.sh("ENV_YML=/app/env.yml appliance env undo");
    assert!(out.code == 1 && out.stderr.contains("$ENV_YML"), "{}", out.all());
    machine.ok("systemctl restart appliance-supervisor");
    wait_for_phase(&machine, "running");
    let text = machine.ok("appliance status");
    assert!(!text.contains("broken"), "{text}");
    let json = machine.ok("appliance env history --json");
    let kept: serde_json::Value = serde_json::from_str(&json).expect("it is JSON");
    assert_eq!(kept[0]["number"], 3, "{json}");
    assert_eq!((&kept[0]["digest"], &kept[0]["active"]), (&kept[2]["digest"], &true.into()), "{json}");
    no_secret("history", &json);

    // A file that is too large to be an env can be undone as well.
    machine.ok("head -c 3000000 /dev/zero | tr '\\0' '#' > /app/env.yml && appliance env undo");
    assert_eq!(machine.get("/app/env.yml"), first);

    // Where the last good one cannot be used either, what is wrong with the newest one is what is said.
    machine.ok("echo 'appliance: [' > /app/env.yml; for f in /data/appliance/host/env-history/*; do echo broken > $f; done; rm /run/active-env.yml");
    machine.ok("systemctl restart appliance-supervisor || true");
    wait_for("the end of the run", Duration::from_secs(60), || {
        if supervisor_is_gone(&machine) { Ok(()) } else { Err("it runs".to_owned()) }
    });
    let text = machine.sh("appliance status").all();
    assert!(text.contains("env.yml is broken"), "{text}");
    let journal = machine.ok("journalctl --no-pager -o cat -u appliance-supervisor -n 30");
    assert!(
        journal.contains("/app/env.yml:2:1: error:") && journal.contains("the last good env cannot be used either"),
        "{journal}"
    );
}
