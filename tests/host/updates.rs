//! An update under load, beside `docker compose up -d --build` of the same versions behind the same nginx, in the same run.

use super::apps::*;
use super::{Machine, wait_for};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What became of one update.
pub struct Outcome {
    /// Answers and connections that were no success, by wrk's own count.
    pub lost: u64,
    pub requests: u64,
    /// For how long somebody who asks again and again got no success, in seconds.
    pub down: f64,
    /// From the new commit to the first answer of the new version, in seconds.
    pub serving: f64,
    /// What the whole command took, in seconds.
    pub whole: f64,
}

/// How long the load lasts, in seconds: longer than either takes.
const LOAD_S: u32 = 90;

fn wrk(url: &str) -> Child {
    let mut command = Command::new("wrk");
    command.args(["-t", "1", "-c", "10", "-d", &format!("{LOAD_S}s"), "--timeout", "20s", url]);
    command.stdout(Stdio::piped()).spawn().expect("wrk can be run (make installs it)")
}

fn counted(load: Child) -> (u64, u64) {
    let output = load.wait_with_output().expect("wrk ends");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let number =
        |text: &str| text.trim().chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap_or(0);
    let line = |start: &str| text.lines().map(str::trim).find_map(|line| line.strip_prefix(start).map(str::to_owned));
    let socket: u64 = line("Socket errors:")
        .map_or(0, |rest| rest.split(',').filter_map(|part| part.split_whitespace().last().map(number)).sum());
    let status = line("Non-2xx or 3xx responses:").map_or(0, |rest| number(&rest));
    let requests = text.lines().find_map(|line| line.trim().split_once(" requests in").map(|(count, _)| number(count)));
    (socket + status, requests.unwrap_or_else(|| panic!("wrk said: {text}")))
}

/// Runs a command under load until the new version answers and the load has ended.
fn under_load(machine: &Machine, url: &str, version: &str, command: &str) -> Outcome {
    let load = wrk(url);
    let began = Instant::now();
    let mut update = machine.spawn(command);
    let (mut down, mut failing, mut serving, mut whole) = (Duration::ZERO, None, None, None);
    while began.elapsed() < Duration::from_secs(u64::from(LOAD_S)) {
        let (code, body) = curl(machine, &["--max-time", "5", url]);
        match (code, failing) {
            (200, Some(since)) => {
                down += Instant::now().duration_since(since);
                failing = None;
            }
            (200, None) => {}
            (_, None) => failing = Some(Instant::now()),
            (_, Some(_)) => {}
        }
        if serving.is_none() && code == 200 && body.contains(&format!("\"version\": \"{version}\"")) {
            serving = Some(began.elapsed());
        }
        if whole.is_none() && update.try_wait().is_ok_and(|ended| ended.is_some()) {
            whole = Some(began.elapsed());
        }
    }
    assert!(update.wait().expect("it ends").success(), "{command}");
    let (lost, requests) = counted(load);
    let seconds = |time: Option<Duration>| time.map_or(f64::NAN, |time| time.as_secs_f64());
    Outcome { lost, requests, down: down.as_secs_f64(), serving: seconds(serving), whole: seconds(whole) }
}

/// A host on which v1 runs, with all that is compared.
pub fn prepare() -> Machine {
    let machine = Machine::boot("bench-updates");
    let tool =
        concat!(env!("CARGO_MANIFEST_DIR"), "/target/tools/compose/usr/libexec/docker/cli-plugins/docker-compose");
    machine.put("/root/docker-compose", std::fs::read(tool).expect("make tools has put it there"), 0o755);
    install_notes(&machine);
    push(&machine, "v1");
    machine.put("/app/env.yml", env_yml(&machine, "live"), 0o600);
    machine.ok("systemctl start appliance");
    wait_for_phase(&machine, "running");
    keep_note(&machine, "kept");
    machine
}

fn push(machine: &Machine, version: &str) {
    machine.ok(&format!("runuser -u app -- git -C /srv/notes.git update-ref refs/heads/live refs/heads/{version}"));
}

/// `appliance update` from v1 to v2, and what its stages took by its own clock, in seconds.
pub fn ours(machine: &Machine) -> (Outcome, std::collections::BTreeMap<String, f64>) {
    push(machine, "v2");
    let url = format!("https://{}/notes", machine.address());
    let outcome = under_load(machine, &url, "v2", "appliance update");
    let releases: serde_json::Value = serde_json::from_str(&machine.ok("appliance releases --json")).expect("JSON");
    let stages = releases["last"]["took_ms"].as_object().expect("stages");
    let stages = stages.iter().map(|(stage, ms)| (stage.clone(), ms.as_f64().unwrap_or(0.0) / 1000.0)).collect();
    (outcome, stages)
}

/// Compose in the appliance's place, from the same files: its project takes over networks, names and database.
pub fn theirs(machine: &Machine) -> Outcome {
    machine.ok(
        "set -e; systemctl stop appliance; docker rm -f $(docker ps -aq) >/dev/null; cp -a /srv/work /root/notes; chown -R root: /root/notes; git -C /root/notes checkout -q v1; \
         sed -i '1i host all all 172.16.0.0/12 scram-sha-256' /etc/postgresql/15/main/pg_hba.conf; systemctl reload postgresql@15-main; \
         cp /etc/nginx/conf.d/appliance.conf /root/site; cert=$(sed -n 's/^ *ssl_certificate \\(.*\\);/\\1/p' /root/site | head -n 1); \
         key=$(sed -n 's/^ *ssl_certificate_key \\(.*\\);/\\1/p' /root/site | head -n 1); \
         printf 'upstream peer { server 127.0.0.1:8000; keepalive 32; }\\nserver { listen 8443 ssl; ssl_certificate %s; ssl_certificate_key %s; \
         location / { proxy_pass http://peer; proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_set_header Host $host; \
         proxy_set_header X-Forwarded-Proto https; } }\\n' \"$cert\" \"$key\" > /etc/nginx/conf.d/peer.conf; nginx -t 2>/dev/null; systemctl reload nginx",
    );
    let up = |version: &str| {
        format!(
            "cd /root/notes && git checkout -q {version} && APPLIANCE_ALLOWED_HOSTS='*' DOCKER_BUILDKIT=0 /root/docker-compose --compatibility -p notes up -d --build"
        )
    };
    machine.ok(&format!("{} >/root/up.log 2>&1", up("v1")));
    let url = format!("https://{}:8443/notes", machine.address());
    wait_for("compose's app", Duration::from_secs(120), || match curl(machine, &[&url]) {
        (200, _) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    under_load(machine, &url, "v2", &format!("{} >/root/up2.log 2>&1", up("v2")))
}
