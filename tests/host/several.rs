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
    machine.put("/srv/several/Dockerfile", "FROM notes/base:1\nCOPY mirror.py migrate.py /srv/\n", 0o644);
    machine.put("/srv/several/migrate.py", "import sys\nsys.exit(0)\n", 0o644);
    machine.ok(
        "set -e; cd /srv/several; git init -q -b live .; git config user.name M; git config user.email m@example.test
         git add -A; git commit -q -m v1; chown -R app:app /srv/several",
    );
}

/// Makes one more commit on a branch of its own, from what a script changes in the repository.
pub fn push(machine: &Machine, branch: &str, script: &str) {
    machine.ok(&format!(
        "set -e; cd /srv/several; chown -R root:root .; git checkout -q -B {branch}; {script}\ngit add -A; git commit -q -m '{branch}'; \
         git checkout -q live; chown -R app:app /srv/several"
    ));
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

/// Many visitors of one app, until they are asked what they got.
pub struct Visitors {
    app: String,
    wrk: std::process::Child,
}

impl Visitors {
    pub fn of(machine: &Machine, app: &str, seconds: u32) -> Visitors {
        let wrk = std::process::Command::new("wrk")
            .args(["--threads", "1", "--connections", "8", "--timeout", "20s", "--duration", &format!("{seconds}s")])
            .args(["--header", &format!("Host: {}", domain(app)), &format!("https://{}/", machine.address())])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("wrk can be run (make installs it)");
        Visitors { app: app.to_owned(), wrk }
    }

    /// Waits for their end; every one of them has got what they came for. A connection that nginx closes under a reload is begun anew.
    pub fn all_served(self) {
        let out = self.wrk.wait_with_output().expect("wrk ends");
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let errors = text.lines().find_map(|line| line.trim().strip_prefix("Socket errors: ")).unwrap_or("");
        let is_served = !text.contains("Non-2xx")
            && (errors.is_empty() || errors.starts_with("connect 0,") && errors.ends_with("timeout 0"));
        let requests =
            text.lines().find(|line| line.contains("requests in")).unwrap_or("no requests").trim().to_owned();
        println!("{}: {requests}; {errors}", self.app);
        assert!(out.status.success() && is_served && !requests.starts_with("0 requests"), "{}: {text}", self.app);
    }
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

/// The same of some apps.
pub fn containers_of(machine: &Machine, apps: &[&str]) -> Vec<String> {
    let is_of = |line: &&str| apps.iter().any(|app| line.starts_with(&format!("/{app}_")));
    containers(machine).lines().filter(is_of).map(str::to_owned).collect()
}

/// The serial number and the names of the certificate that an app's visitors get.
pub fn certificate(machine: &Machine, app: &str) -> String {
    let name = domain(app);
    machine.ok(&format!(
        "echo | openssl s_client -connect 127.0.0.1:443 -servername {name} 2>/dev/null | openssl x509 -noout -issuer -ext subjectAltName"
    ))
}
