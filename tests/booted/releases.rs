//! First releases that do not work: each ends in the state that fits, and the next good one comes up.

use crate::host::apps::*;
use crate::host::{Machine, wait_for};
use std::time::Duration;

fn try_version(machine: &Machine, version: &str) {
    machine.put("/app/env.yml", env_yml(machine, version), 0o600);
    machine.ok("systemctl restart appliance");
}

/// Keeps what is posted as it came, and ends when there is enough.
pub const SENTRY: &str = r#"
import http.server, os
class Post(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with open("/root/reports", "ab") as reports: reports.write(bytes(self.headers) + body + b"\n")
        self.send_response(200); self.send_header("Content-Length", "2"); self.end_headers(); self.wfile.write(b"{}")
    def log_message(self, *words): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 9), Post)
server.timeout = 1
while not os.path.exists("/root/enough"): server.handle_request()
"#;

#[test]
fn no_build_is_standby_a_failed_migration_or_a_sick_app_is_failed_and_a_good_one_comes_up() {
    let machine = Machine::boot("releases");
    install_notes(&machine);
    // What is sent to Sentry's address, as it arrives on the wire.
    machine.put("/root/sentry.py", SENTRY, 0o644);
    let mut sentry = machine.spawn("python3 /root/sentry.py");

    try_version(&machine, "v6");
    let text = wait_for_end(&machine, "standby", 3);
    assert!(
        text.contains("The app could not be built")
            && text.contains("executor failed running [/bin/sh -c false]: exit code: 1"),
        "{text}"
    );
    assert_eq!(machine.sh("test -e /run/appliance-failed").code, 1, "nothing has failed that ran");

    try_version(&machine, "no-such-branch");
    let text = wait_for_end(&machine, "standby", 3);
    assert!(text.contains("has no no-such-branch"), "{text}");

    try_version(&machine, "v4");
    let text = wait_for_end(&machine, "failed", 4);
    assert!(text.contains("The migration failed") && text.contains("this migration fails half way"), "{text}");
    assert_eq!(machine.ok("docker ps -aq --filter label=com.docker.compose.oneoff=True"), "", "the one-off is removed");
    wait_for("the report of the failed migration", Duration::from_secs(20), || {
        let reports = machine.sh("grep -ac 'The migration failed' /root/reports").stdout;
        if reports.trim().parse::<u32>().is_ok_and(|count| count > 0) { Ok(()) } else { Err(reports) }
    });
    for secret in CANARIES {
        // The key in the address is how Sentry knows who reports.
        let found = machine.sh(&format!("grep -av '^X-Sentry-Auth' /root/reports | grep -aF -e '{secret}'"));
        assert!(found.code == 1 || secret.starts_with("canaryc0ffee"), "{secret} was reported: {}", found.all());
    }
    machine.ok("appliance recover");

    try_version(&machine, "v5");
    let text = wait_for_end(&machine, "failed", 4);
    assert!(text.contains("the service web answers / with 500"), "{text}");
    let ledger = machine.get("/data/appliance/apps/notes/ledger.json");
    let v5 = machine.ok("runuser -u app -- git -C /srv/notes.git rev-parse v5");
    assert!(ledger.contains(v5.trim()) && ledger.contains("\"current\": null"), "{ledger}");
    machine.ok("appliance recover");

    // Its server comes up later than the host.
    machine.ok("mv /srv/notes.git /srv/away.git");
    try_version(&machine, "v3");
    wait_for_another_try(&machine, "could not fetch file:///srv/notes.git");
    machine.ok("mv /srv/away.git /srv/notes.git");
    wait_for_phase(&machine, "running");
    let (code, body) = get(&machine, "/health");
    assert!(code == 200 && body.contains("v3"), "{code} {body}");
    machine.ok("touch /root/enough");
    drop(sentry.wait());
}
