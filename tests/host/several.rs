//! A host with several apps: each is the mirror, which tells what reached it, with a way to its own database.

use super::apps::curl;
use super::{Machine, wait_for};
use std::time::Duration;

/// The mirror with a database, at which a second service looks.
const COMPOSE: &str = "x-app: &app
  env_file: [\"/app/etc/${COMPOSE_PROJECT_NAME}/database_url.env\"]
  environment: {SETTINGS: \"${APP_SETTINGS:-}\", NAMES: \"${APPLIANCE_ALLOWED_HOSTS}\", VERSION: \"v1\"}
services:
  web:
    <<: *app
    build: .
    ports: [\"127.0.0.1:5000:5000\"]
    command: python3 /srv/mirror.py
    volumes: [\"kept:/kept\"]
    healthcheck:
      test: grep -q mirror /proc/1/cmdline
      interval: 1s
      start_period: 30s
    labels: {appliance.route: /}
volumes: {kept: {}}
";

/// The names of the host's apps; the first has the host's own name.
pub const APPS: [&str; 3] = ["one", "two", "three"];

pub fn domain(app: &str) -> String {
    format!("{app}.example.test")
}

/// The repository that all of them are instances of, at /srv/several, with a branch `live` that is at v1.
pub fn install(machine: &Machine) {
    machine.put_directory(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/mirror"), "/srv/several");
    machine.put("/srv/several/compose.yml", COMPOSE, 0o644);
    machine.ok(
        "set -e; cd /srv/several; git init -q -b live .; git config user.name M; git config user.email m@example.test
         git add -A; git commit -q -m v1; chown -R app:app /srv/several",
    );
}

/// An env.yml with these entries beside the first app, and more lines under `appliance:` (two spaces in).
pub fn env_yml(more: &str, entries: &str) -> String {
    format!(
        "#cloud-config\nappliance:\n  domain: one.example.test\n  storage:\n    ignore: {{volatile: yes, data: yes}}\n  \
         ssl:\n    letsencrypt: {{enabled: no}}\n{more}apps:\n  - name: one\n    settings: canary-one\n    git:\n      \
         source: file:///srv/several\n      branch: live\n{entries}"
    )
}

/// An entry of an instance, with more lines (four spaces in).
pub fn instance(app: &str, more: &str) -> String {
    format!("  - name: {app}\n    like: one\n    domain: {}\n    settings: canary-{app}\n{more}", domain(app))
}

/// Brings up a host with all three.
pub fn start(machine: &Machine) {
    install(machine);
    let entries: String = APPS[1..].iter().map(|app| instance(app, "")).collect();
    machine.put("/app/env.yml", env_yml("", &entries), 0o600);
    machine.ok("systemctl start appliance");
    APPS.iter().for_each(|app| wait_for_app(machine, app, "running"));
}

/// What an app's name answers: status code and body.
pub fn visit(machine: &Machine, app: &str, path: &str) -> (u16, String) {
    let name = domain(app);
    let resolve = format!("{name}:443:{}", machine.address());
    curl(machine, &["--resolve", &resolve, &format!("https://{name}{path}")])
}

/// The phase of one app.
pub fn phase(machine: &Machine, app: &str) -> String {
    let out = machine.sh(&format!("appliance status --json --app {app}"));
    let status: Result<serde_json::Value, _> = serde_json::from_str(&out.stdout);
    status.map_or_else(|_| out.all(), |status| status["phase"]["name"].as_str().unwrap_or("?").to_owned())
}

pub fn wait_for_app(machine: &Machine, app: &str, wanted: &str) {
    wait_for(&format!("{app} to be {wanted}"), Duration::from_secs(300), || {
        let seen = phase(machine, app);
        if seen == wanted {
            return Ok(());
        }
        Err(format!("{seen}\n{}", machine.sh("journalctl -u appliance-supervisor -n 30 --no-pager -o cat").all()))
    });
}

/// When each container was started, and what it is called.
pub fn containers(machine: &Machine) -> String {
    machine.ok("docker inspect -f '{{.Name}} {{.State.StartedAt}} {{.Id}}' $(docker ps -q) | sort")
}
