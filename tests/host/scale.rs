//! A hundred containers: brought up, looked at again, at rest; beside docker compose and plain calls of Docker's API, in the same run
//! and from the same file.

use super::apps::*;
use super::{Machine, wait_for};
use std::time::Duration;

/// How many containers.
pub const COUNT: usize = 100;

/// Creates and starts the containers by nothing but API calls, so many at once.
const RAW: &str = r#"
import concurrent.futures, http.client, json, socket, sys
class Docker(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect("/var/run/docker.sock")
def call(method, path, body=None):
    docker = Docker("docker")
    docker.request(method, path, json.dumps(body) if body is not None else None, {"Content-Type": "application/json"})
    answer = docker.getresponse()
    text = answer.read()
    assert answer.status < 300, text
    return json.loads(text or b"{}")
def create(number):
    body = {"Image": "stub:1", "Entrypoint": ["/bin/busybox", "sleep", "100000"], "Labels": {"com.docker.compose.project": "raw"},
            "HostConfig": {"NetworkMode": "raw", "LogConfig": {"Type": "journald"}}}
    return call("POST", f"/containers/create?name=raw_{number}", body)["Id"]
def start(container):
    call("POST", f"/containers/{container}/start")
numbers = range(int(sys.argv[1]))
with concurrent.futures.ThreadPoolExecutor(16) as pool:
    if sys.argv[2] == "apart":
        made = list(pool.map(create, numbers))
        list(pool.map(start, made))
    else:
        list(pool.map(lambda number: start(create(number)), numbers))
"#;

fn compose() -> String {
    let service = |number| {
        format!(
            "  s{number}:\n    image: stub:1\n    entrypoint: [/bin/busybox, sleep, '100000']\n    stop_grace_period: 1s\n    logging: {{driver: \
             journald}}\n"
        )
    };
    format!("services:\n{}", (0..COUNT).map(service).collect::<String>())
}

/// The host with everything that is compared; our stack runs.
pub fn prepare() -> Machine {
    let machine = Machine::boot("bench-scale");
    let tool =
        concat!(env!("CARGO_MANIFEST_DIR"), "/target/tools/compose/usr/libexec/docker/cli-plugins/docker-compose");
    machine.put("/root/docker-compose", std::fs::read(tool).expect("make tools has put it there"), 0o755);
    machine.put("/root/theirs/compose.yml", compose(), 0o644);
    machine.put("/root/raw.py", RAW, 0o644);
    machine.ok("docker network create raw; docker network create --label com.docker.compose.project=theirs --label \
                com.docker.compose.network=default theirs_default");
    start_stack(&machine, "ours", &compose());
    machine
}

/// From the first container created to the last one started, by Docker's own times, in seconds.
fn span(machine: &Machine, project: &str) -> f64 {
    let times = "import sys; from datetime import datetime
pairs = [[datetime.fromisoformat(time[:26]) for time in line.split()] for line in sys.stdin]
print(len(pairs), (max(pair[1] for pair in pairs) - min(pair[0] for pair in pairs)).total_seconds())";
    let text = machine.ok(&format!(
        "docker inspect -f '{{{{.Created}}}} {{{{.State.StartedAt}}}}' $(docker ps -q --filter label=com.docker.compose.project={project}) | sed \
         's/Z//g' | awk '{{for (i = 1; i <= 2; i++) {{split($i, t, \".\"); $i = t[1] \".\" substr(t[2] \"000000\", 1, 6)}}; print}}' | python3 -c \
         '{times}'"
    ));
    let (count, seconds) = text.trim().split_once(' ').unwrap_or_else(|| panic!("not two numbers: {text}"));
    assert_eq!(count, COUNT.to_string(), "{project}");
    seconds.parse().unwrap_or_else(|_| panic!("not a number: {text}"))
}

/// Takes the containers away; networks stay, for all alike.
fn clear(machine: &Machine, project: &str) {
    machine.ok(&format!(
        "docker rm -f $(docker ps -aq --filter label=com.docker.compose.project={project}) >/dev/null 2>&1; sync"
    ));
}

/// Bringing all of them up from nothing: ours, docker compose's, plain calls' with each started when it is made, and with all made
/// before the first start; in seconds. Who comes first differs from round to round.
pub fn up(machine: &Machine, round: usize) -> [f64; 4] {
    machine.ok("systemctl stop appliance");
    let mut took = [0.0; 4];
    for turn in 0..took.len() {
        let who = (turn + round) % took.len();
        took[who] = match who {
            0 => {
                clear(machine, "ours");
                // It returns when the stack is up. Whoever asked again and again meanwhile would take the processors from it.
                machine.ok("systemctl start appliance appliance-supervisor");
                wait_for_phase(machine, "running");
                let took = span(machine, "ours");
                machine.ok("systemctl stop appliance");
                clear(machine, "ours");
                took
            }
            1 => {
                machine.ok("cd /root/theirs && /root/docker-compose -p theirs up -d --quiet-pull >/dev/null 2>&1");
                let took = span(machine, "theirs");
                clear(machine, "theirs");
                took
            }
            _ => {
                machine.ok(&format!("python3 /root/raw.py {COUNT} {}", if who == 2 { "together" } else { "apart" }));
                let took = span(machine, "raw");
                clear(machine, "raw");
                took
            }
        };
    }
    took
}

/// Looking at a stack in which nothing is to be done: ours (the plan of the stack alone) and docker compose's; in milliseconds.
pub fn again(machine: &Machine, milliseconds: impl Fn(&Machine, &str) -> f64) -> (Vec<f64>, Vec<f64>) {
    machine.ok("systemctl start appliance");
    wait_for_phase(machine, "running");
    let ours = (0..10).map(|_| milliseconds(machine, "appliance plan --stack")).collect();
    machine.ok("systemctl stop appliance; cd /root/theirs && /root/docker-compose -p theirs up -d >/dev/null 2>&1");
    let theirs = (0..10)
        .map(|_| milliseconds(machine, "/root/docker-compose -p theirs -f /root/theirs/compose.yml up -d 2>/dev/null"))
        .collect();
    clear(machine, "theirs");
    machine.ok("systemctl start appliance");
    wait_for_phase(machine, "running");
    (ours, theirs)
}

/// One container under the supervisor and one under Docker's policy, each killed as soon as it runs again; from `die` to `start` each
/// time, in milliseconds.
pub fn crashes(machine: &Machine, times: usize) -> (Vec<f64>, Vec<f64>) {
    machine.ok(
        "docker run -d --restart always --log-driver journald --network ours_default --name peer --entrypoint /bin/busybox stub:1 sleep \
         100000 >/dev/null; sleep 12",
    );
    let of = |name: &str| -> Vec<f64> {
        let since = machine.ok("date +%s.%N").trim().to_owned();
        for _ in 0..times {
            let pid = machine.ok(&format!("docker inspect -f '{{{{.State.Pid}}}}' {name}"));
            machine.ok(&format!("kill -9 {}", pid.trim()));
            wait_for(&format!("{name} to run again"), Duration::from_secs(90), || {
                let state =
                    machine.ok(&format!("docker inspect -f '{{{{.State.Pid}}}} {{{{.State.Running}}}}' {name}"));
                let again = state.trim().ends_with("true")
                    && !state.starts_with(&format!("{} ", pid.trim()))
                    && !state.starts_with("0 ");
                if again { Ok(()) } else { Err(state) }
            });
        }
        let log = machine.ok(&format!(
            "docker events --since {since} --until $(date +%s.%N) --filter container={name} --filter event=die --filter event=start --format \
             '{{{{.Action}}}} {{{{.TimeNano}}}}'"
        ));
        let mut died = None;
        let mut took = Vec::new();
        for line in log.lines() {
            let Some((action, time)) = line.split_once(' ') else { continue };
            let time: f64 = time.parse().unwrap_or(0.0);
            match action {
                "die" => died = Some(time),
                _ => took.extend(died.take().map(|death| (time - death) / 1e6)),
            }
        }
        took
    };
    let (ours, docker) = (of("ours_s0_1"), of("peer"));
    machine.ok("docker rm -f peer >/dev/null");
    (ours, docker)
}
