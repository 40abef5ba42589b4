//! A webhook and a mail server on the host (`receivers.py`), and an env that names them.

use super::apps::env_yml;
use super::{Machine, wait_for};
use serde_json::Value;
use std::time::Duration;

const RECEIVERS: &str = include_str!("receivers.py");
/// What the webhook's requests are signed with.
pub const SECRET: &str = "canary-webhook-5Kd8";

pub fn start(machine: &Machine) {
    machine.put("/root/receivers/receivers.py", RECEIVERS, 0o600);
    machine.put("/root/receivers/secret", SECRET, 0o600);
    let run = "python3 /root/receivers/receivers.py /root/receivers";
    machine.ok(&format!("systemd-run --quiet --collect --unit=receivers {run}"));
    wait_for("the receivers", Duration::from_secs(20), || {
        let out = machine.sh("curl -s -o /dev/null http://127.0.0.1:8099/; ss -ltn | grep -c ':2525 '");
        if out.stdout.trim() == "1" { Ok(()) } else { Err(out.all()) }
    });
}

pub fn stop(machine: &Machine) {
    machine.ok("systemctl stop receivers");
}

/// The notes app's env, with both receivers and Sentry at an address.
pub fn env(machine: &Machine, dsn: &str) -> String {
    let alert = format!(
        "  alert:\n    mail: {{to: ops@example.test second@example.test, from: host@example.test, smtp: 'smtp://127.0.0.1:2525'}}\n    \
         webhooks: [{{name: ops, url: 'http://127.0.0.1:8099/hook', secret: {SECRET}}}]\n"
    );
    let text = env_yml(machine, "v1");
    let (before, after) = text.split_once("  sentry:\n").expect("it names one");
    let after = after.split_once('\n').expect("it has a DSN").1;
    format!("{before}  sentry:\n    dsn: {dsn}\n{alert}{after}")
}

/// What `mail` or `webhook` has taken, in order.
pub fn taken(machine: &Machine, receiver: &str) -> Vec<Value> {
    let text = machine.sh(&format!("cat /root/receivers/{receiver}.jsonl")).stdout;
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}"))).collect()
}

/// The watch at rest, and from something that is told to the webhook that has it: memory in kB, percent of a core, seconds.
pub struct Watched {
    pub rss: String,
    pub percent: f64,
    pub told_s: Vec<f64>,
}

/// Measures the watch of a host on which the notes app runs.
pub fn measure(machine: &Machine) -> Watched {
    start(machine);
    machine.put("/app/env.yml", env(machine, "http://key@127.0.0.1:9/1"), 0o600);
    machine.ok("systemctl restart appliance");
    super::apps::wait_for_phase(machine, "running");
    let pid = machine.ok("systemctl show -p MainPID --value appliance-watch").trim().to_owned();
    let number = |text: String| text.trim().parse::<f64>().unwrap_or_else(|_| panic!("no number: {text}"));
    let ticks = || number(machine.ok(&format!("awk '{{print $14 + $15}}' /proc/{pid}/stat")));
    let before = ticks();
    // At rest it looks every 15 seconds.
    std::thread::sleep(Duration::from_secs(120));
    let percent = (ticks() - before) / number(machine.ok("getconf CLK_TCK")) / 120.0 * 100.0;
    let rss =
        machine.ok(&format!("grep -E 'VmRSS|RssAnon' /proc/{pid}/status | tr -s ' \\t\\n' ' '")).trim().to_owned();
    let mut told_s = Vec::new();
    for number_of in 0..20 {
        let text = format!("measured {number_of}");
        let begun = number(machine.ok(&format!("date +%s.%N; appliance alert send warning '{text}' > /dev/null")));
        let arrived = wait_for("the webhook", Duration::from_secs(30), || {
            let all = taken(machine, "webhook");
            all.iter()
                .find(|one| one["summary"] == text.as_str())
                .and_then(|one| one["arrived"].as_f64())
                .ok_or(text.clone())
        });
        told_s.push(arrived - begun);
    }
    told_s.sort_by(f64::total_cmp);
    Watched { rss, percent, told_s }
}
