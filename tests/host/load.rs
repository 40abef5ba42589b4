//! Many visitors at once while nginx is reloaded: busy ones by wrk, and ones who come back now and then by `idle.py`.

use super::Machine;
use std::process::{Command, Stdio};

/// What wrk counted.
#[derive(Debug)]
pub struct Load {
    pub requests: u64,
    /// Answers that were no success, by nginx's own log; 499 is a visitor who left, as wrk does at its end.
    pub refused: u64,
    /// Connections that could not be made.
    pub connect: u64,
    /// Connections that ended under a request: nginx closes idle ones under a reload, and a request may be on its way then.
    pub closed: u64,
    /// Requests without an answer in half a minute.
    pub timeout: u64,
}

/// Keeps connections busy for some seconds while nginx is reloaded so many times, evenly.
pub fn load(machine: &Machine, path: &str, connections: u32, seconds: u32, reloads: u32) -> Load {
    let url = format!("https://{}{path}", machine.address());
    machine.ok("truncate -s 0 /var/log/nginx/access.log");
    let wrk = Command::new("sh")
        .args(["-c", "ulimit -n 65536; exec wrk \"$@\"", "sh", "--threads", "2", "--timeout", "30s"])
        .args(["--connections", &connections.to_string(), "--duration", &format!("{seconds}s"), &url])
        .stdout(Stdio::piped())
        .spawn()
        .expect("wrk can be run (make installs it)");
    reload(machine, seconds, reloads);
    let out = wrk.wait_with_output().expect("wrk ends");
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "wrk: {text}");
    // "Socket errors: connect 0, read 1, write 2, timeout 3" stands there only if there was one.
    let errors = text.lines().find_map(|line| line.trim().strip_prefix("Socket errors: ")).unwrap_or("").to_owned();
    let after = |word: &str| -> u64 {
        let rest = errors.split(word).nth(1).unwrap_or("0");
        rest.trim().chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap_or(0)
    };
    let requests = text
        .lines()
        .find_map(|line| line.trim().split_once(" requests in"))
        .map_or(0, |(count, _)| count.parse().unwrap_or(0));
    Load {
        requests,
        refused: machine
            .ok("awk '$9 !~ /^2/ && $9 != 499' /var/log/nginx/access.log | wc -l; truncate -s 0 /var/log/nginx/access.log")
            .trim()
            .parse()
            .expect("a number"),
        connect: after("connect "),
        closed: after("read ") + after("write "),
        timeout: after("timeout "),
    }
}

/// Reloads nginx so many times, evenly.
fn reload(machine: &Machine, seconds: u32, times: u32) {
    let between = f64::from(seconds) / f64::from(times + 1);
    // One program on the host, so that entering it costs nothing between.
    machine.ok(&format!("for i in $(seq {times}); do sleep {between}; systemctl reload nginx || exit 1; done"));
}

/// Visitors who keep their connection and come back now and then, across reloads; what `idle.py` says of them.
pub fn idle(machine: &Machine, visitors: u32, seconds: u32, reloads: u32) -> String {
    let child = Command::new("python3")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/host/idle.py"))
        .args([&machine.address(), "443", &visitors.to_string(), &seconds.to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 can be run");
    reload(machine, seconds, reloads);
    let out = child.wait_with_output().expect("it ends");
    assert!(out.status.success(), "idle.py failed");
    String::from_utf8_lossy(&out.stdout).trim().to_owned()
}
