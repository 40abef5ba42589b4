//! The apps that run on a test host: the notes app as a git repository with its six versions, a stand-in for ECS, and one that
//! tells what reached it.

use super::{Machine, Out, wait_for};
use std::time::Duration;

/// The secrets of the env below: none of them may be seen anywhere they do not belong.
pub const CANARIES: [&str; 4] =
    ["canary-settings-7Hq2", "canaryc0ffee00000000000000000001", "canary-extra-9Zk4", "canary-backup-4Tn8"];

pub const DOMAIN: &str = "notes.example.test";

/// An env.yml for the notes app, with a secret of every kind.
pub fn env_yml(machine: &Machine, version: &str) -> String {
    let [settings, dsn, extra, backup] = CANARIES;
    format!(
        "#cloud-config\nappliance:\n  domain: {DOMAIN}\n  allowed_hosts: {DOMAIN} {}\n  storage:\n    ignore: {{volatile: yes, data: yes}}\n  \
         ssl:\n    letsencrypt: {{enabled: no}}\n  sentry:\n    dsn: http://{dsn}@127.0.0.1:9/1\n  backup:\n    url: sftp://me:{backup}@backup.example.test/x\n  \
         extra:\n    files:\n      - path: /etc/extra.secret\n        contents: {extra}\n        permissions: '0600'\n\
         app:\n  name: notes\n  git:\n    source: file:///srv/notes.git\n    branch: {version}\n  \
         migrate:\n    service: web\n    command: python3 manage.py migrate --noinput\n  settings: |\n    KEY={settings}\n",
        machine.address()
    )
}

/// The notes app's repository at /srv/notes.git, with branches v1 to v6: v1, v2 and v3 in a row, the broken ones on v3.
pub fn install_notes(machine: &Machine) {
    machine.put_directory(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/app"), "/root/app");
    machine.ok("set -e; mkdir -p /srv/work && cd /srv/work && git init -q -b v1 .
         git config user.name Notes; git config user.email notes@example.test
         export GIT_AUTHOR_DATE='2026-01-01T00:00:00Z' GIT_COMMITTER_DATE='2026-01-01T00:00:00Z'
         put() { cp -r /root/app/$1/. . && git add -A && git commit -q -m $1; }
         put v1
         git checkout -q -b v2; put v2
         git checkout -q -b v3; put v3
         for v in v4 v5 v6; do git checkout -q -b $v v3; put $v; done
         git checkout -q v1; git clone -q --bare /srv/work /srv/notes.git; chown -R app:app /srv/notes.git");
}

/// Puts the app and its env in place and starts the appliance.
pub fn start_notes(machine: &Machine, version: &str) {
    install_notes(machine);
    machine.put("/app/env.yml", env_yml(machine, version), 0o600);
    machine.ok("systemctl start appliance");
}

/// The same with a branch `live`, which is at v1 and can be moved to the others.
pub fn start_notes_of_branch(machine: &Machine) {
    install_notes(machine);
    machine.ok("runuser -u app -- git -C /srv/notes.git update-ref refs/heads/live refs/heads/v1");
    machine.put("/app/env.yml", env_yml(machine, "live"), 0o600);
    machine.ok("systemctl start appliance");
}

/// The app that tells what reached it, with more lines under `appliance:` (two spaces in).
pub fn start_mirror(machine: &Machine, more: &str) {
    machine.put_directory(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/mirror"), "/srv/mirror");
    machine.ok(
        "set -e; cd /srv/mirror; git init -q -b main .; git config user.name M; git config user.email m@example.test
         git add -A; git commit -q -m mirror; chown -R app:app /srv/mirror",
    );
    machine.put("/app/env.yml", mirror_env(machine, more), 0o600);
    machine.ok("systemctl start appliance");
    wait_for_phase(machine, "running");
}

/// Its env.
pub fn mirror_env(machine: &Machine, more: &str) -> String {
    format!(
        "#cloud-config\nappliance:\n  domain: {DOMAIN}\n  allowed_hosts: {DOMAIN} {}\n  storage:\n    ignore: {{volatile: yes, data: yes}}\n\
         {more}app:\n  name: mirror\n  git:\n    source: file:///srv/mirror\n    branch: main\n",
        machine.address()
    )
}

/// The phase by `appliance status`, and its exit code.
pub fn phase(machine: &Machine) -> (String, i32) {
    let out = machine.sh("appliance status --json");
    let name = serde_json::from_str::<serde_json::Value>(&out.stdout)
        .map(|status| status["phase"]["name"].as_str().unwrap_or("?").to_owned())
        .unwrap_or_else(|_| out.all());
    (name, out.code)
}

/// How long an app may take to come up on a slow machine, its build included.
pub const UP: Duration = Duration::from_secs(300);

pub fn wait_for_phase(machine: &Machine, wanted: &str) {
    wait_for(&format!("the phase {wanted}"), UP, || {
        let (phase, _) = phase(machine);
        if phase == wanted {
            return Ok(());
        }
        // A final phase that is not the wanted one, told by a supervisor that is gone, will not become it.
        if supervisor_is_gone(machine) && ["failed", "standby"].contains(&phase.as_str()) {
            panic!(
                "the appliance ended up {phase}:\n{}",
                machine.sh("appliance status; journalctl -u appliance-supervisor -n 60 --no-pager").all()
            );
        }
        Err(phase)
    });
}

/// Waits until a run has ended in a phase; gives back what `appliance status` says of it.
pub fn wait_for_end(machine: &Machine, wanted: &str, code: i32) -> String {
    wait_for(&format!("the phase {wanted}"), UP, || {
        let seen = phase(machine);
        let gone = supervisor_is_gone(machine);
        if seen == (wanted.to_owned(), code) && gone { Ok(()) } else { Err(format!("{seen:?}, gone: {gone}")) }
    });
    machine.sh("appliance status").stdout
}

/// Waits until a first start has failed to fetch the app, for this reason, and waits for another try; gives back what `appliance status`
/// says of it.
pub fn wait_for_another_try(machine: &Machine, why: &str) -> String {
    wait_for("another try to fetch the app", UP, || {
        let status = machine.sh("appliance status").stdout;
        if status.contains("is tried again in") && status.contains(why) { Ok(status) } else { Err(status) }
    })
}

/// Whether the supervisor has ended and is not about to be started.
pub fn supervisor_is_gone(machine: &Machine) -> bool {
    let state = machine.sh("systemctl show -p ActiveState -p Job appliance-supervisor").stdout;
    let has_job = state.lines().any(|line| line.strip_prefix("Job=").is_some_and(|job| !["", "0"].contains(&job)));
    !has_job && ["ActiveState=inactive", "ActiveState=failed"].iter().any(|ended| state.contains(ended))
}

/// What the host answers to this machine: status code and body.
pub fn get(machine: &Machine, path: &str) -> (u16, String) {
    curl(machine, &[&format!("https://{}{path}", machine.address())])
}

/// curl from this machine, with its own TLS check off, since the certificate is self-signed.
pub fn curl(_: &Machine, args: &[&str]) -> (u16, String) {
    let output = std::process::Command::new("curl")
        .args(["--silent", "--insecure", "--noproxy", "*", "--max-time", "60", "--write-out", "\n%{http_code}"])
        .args(args)
        .output()
        .expect("curl can be run");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, code) = text.rsplit_once('\n').unwrap_or(("", &text));
    (code.trim().parse().unwrap_or(0), body.to_owned())
}

/// Stores a note through https.
pub fn keep_note(machine: &Machine, text: &str) {
    let (code, body) =
        curl(machine, &["--data-urlencode", &format!("text={text}"), &format!("https://{}/notes", machine.address())]);
    assert_eq!(code, 201, "{body}");
}

/// The notes, through https.
pub fn notes(machine: &Machine) -> Vec<String> {
    let (code, body) = get(machine, "/notes");
    assert_eq!(code, 200, "{body}");
    let value: serde_json::Value = serde_json::from_str(&body).unwrap_or_else(|_| panic!("not JSON: {body}"));
    value["notes"]
        .as_array()
        .expect("a list of notes")
        .iter()
        .map(|note| note.as_str().unwrap_or("?").to_owned())
        .collect()
}

/// The status as JSON.
pub fn status(machine: &Machine) -> serde_json::Value {
    let out: Out = machine.sh("appliance status --json");
    serde_json::from_str(&out.stdout).unwrap_or_else(|_| panic!("appliance status: {}", out.all()))
}

/// An app that is a compose file of the operator's and nothing else: its repository is empty. Waits until it runs.
pub fn start_stack(machine: &Machine, name: &str, compose: &str) {
    put_stack(machine, name, compose);
    machine.ok("systemctl start appliance");
    wait_for_phase(machine, "running");
}

/// Puts its files in place; nothing is started.
pub fn put_stack(machine: &Machine, name: &str, compose: &str) {
    machine.put(&format!("/srv/{name}/README"), "nothing is built\n", 0o644);
    machine.ok(&format!(
        "set -e; cd /srv/{name}; git init -q -b main .; git config user.name M; git config user.email m@example.test
         git add -A; git commit -q -m {name}; chown -R app:app /srv/{name}"
    ));
    machine.put(&format!("/data/etc/{name}/docker-compose.yml"), compose, 0o644);
    let env = mirror_env(machine, "").replace("name: mirror", &format!("name: {name}"));
    machine.put("/app/env.yml", env.replace("file:///srv/mirror", &format!("file:///srv/{name}")), 0o600);
}

/// What Docker tells of a container.
pub fn inspect(machine: &Machine, container: &str) -> serde_json::Value {
    let text = machine.ok(&format!("docker inspect {container}"));
    let value: serde_json::Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("not JSON: {text}"));
    value[0].clone()
}
