//! `make bench`: measured figures on a booted host, as a table. Speeds are given beside a peer's in the same run where
//! there is one; nothing here passes or fails. With the word `restarts`, `reloads`, `scale`, `instances`, `backups`, `updates`, `migrations`,
//! `storage`, `alerts` or `boot`, that part alone.
#![allow(clippy::disallowed_methods)] // Drives the machine from outside.

#[path = "host/mod.rs"]
mod host;

use host::{Machine, apps, wait_for};
use std::collections::BTreeMap;
use std::time::Duration;

fn main() {
    host::ground::ON_DISK.store(true, std::sync::atomic::Ordering::Relaxed);
    let word = std::env::args().nth(1);
    if let Some(rows) = word.as_deref().and_then(part) {
        return table(&rows);
    }
    let machine = Machine::boot("bench");
    apps::start_notes(&machine, "v1");
    apps::wait_for_phase(&machine, "running");
    let mut rows: Vec<(&str, String, &str)> = Vec::new();

    if word.as_deref() == Some("restarts") {
        let (ours, docker) = restarts(&machine);
        println!(
            "supervisor {}, Docker's policy {}, ratio {:.2}",
            spread(&ours),
            spread(&docker),
            median(&ours) / median(&docker)
        );
        return;
    }
    rows.extend(reading(&machine));
    let prepare = sorted((0..20).map(|_| milliseconds(&machine, "appliance prepare")).collect());
    rows.push(("no-op prepare, 20 runs", spread(&prepare), "aim: under 150 ms"));
    let plan = sorted((0..20).map(|_| milliseconds(&machine, "appliance plan")).collect());
    rows.push(("plan, 20 runs", spread(&plan), ""));

    let start = "systemctl stop appliance; sync; A=$(date +%s%N); systemctl start appliance; \
                 until curl -sk -o /dev/null --fail -H 'Host: notes.example.test' https://127.0.0.1/health; do sleep 0.02; done; \
                 echo $((($(date +%s%N) - A) / 1000000))";
    let to_200 = sorted((0..5).map(|_| number(&machine.ok(start))).collect());
    rows.push(("systemctl start to 200, 5 runs", spread(&to_200), "the app's own start included"));
    apps::wait_for_phase(&machine, "running");

    let (ours, docker) = restarts(&machine);
    rows.push(("killed to running, the supervisor", spread(&ours), "by Docker's own event times"));
    rows.push(("killed to running, Docker's policy", spread(&docker), "same images and networks, same run"));
    rows.push(("ratio of the medians", format!("{:.2}", median(&ours) / median(&docker)), "aim: at most 1.0"));

    // At rest: nothing has died for a while.
    let pid = machine.ok("systemctl show -p MainPID --value appliance-supervisor").trim().to_owned();
    std::thread::sleep(Duration::from_secs(10));
    let status = machine.ok(&format!("cat /proc/{pid}/status"));
    let field = |name: &str| {
        status.lines().find_map(|line| line.strip_prefix(name)).map(|rest| rest.trim().to_owned()).unwrap_or_default()
    };
    rows.push(("supervisor RSS", format!("{} (peak {})", field("VmRSS:"), field("VmHWM:")), "aim: under 20 MB"));
    rows.push(("  of it anonymous / file", format!("{} / {}", field("RssAnon:"), field("RssFile:")), ""));
    let before = ticks(&machine, &pid);
    let trace = machine.sh_for(90, &format!("timeout 60 strace -f -tt -p {pid} -o /root/trace; grep -vc -e '+++' -e '---' /root/trace; grep -c sendmsg /root/trace; grep -c WATCHDOG /root/trace"));
    let after = ticks(&machine, &pid);
    rows.push(("supervisor CPU over 60 s at rest", format!("{} ticks of 10 ms", after - before), "strace attached"));
    let counts: Vec<&str> = trace.stdout.split_whitespace().collect();
    rows.push((
        "system calls over 60 s at rest",
        format!("{} (watchdog messages: {})", counts.first().unwrap_or(&"?"), counts.get(2).unwrap_or(&"?")),
        "aim: the watchdog's only",
    ));

    let trace = machine.ok("cut -c1-150 /root/trace | tail -20");
    drop(machine);
    rows.extend(reloads());
    rows.extend(scale());
    rows.extend(instances());
    rows.extend(host::backups::backups());
    rows.extend(updates());
    rows.extend(migrations());
    rows.extend(storage());
    rows.extend(boot());
    table(&rows);
    println!("\nthe trace at rest:\n{trace}");
}

/// What is measured on hosts of its own.
fn part(word: &str) -> Option<Vec<(&'static str, String, &'static str)>> {
    Some(match word {
        "reloads" => reloads(),
        "scale" => scale(),
        "instances" => instances(),
        "backups" => host::backups::backups(),
        "updates" => updates(),
        "migrations" => migrations(),
        "storage" => storage(),
        "boot" => boot(),
        "alerts" => alerts(),
        _ => return None,
    })
}

fn table(rows: &[(&str, String, &str)]) {
    let width = rows.iter().map(|(name, _, _)| name.len()).max().unwrap_or(0);
    println!("\n{:width$}  {:40}  remark", "figure", "median (min to max)");
    for (name, value, remark) in rows {
        println!("{name:width$}  {value:40}  {remark}");
    }
}

/// The watch, with one app: what it takes at rest, and how soon a receiver has what is told.
fn alerts() -> Vec<(&'static str, String, &'static str)> {
    let machine = Machine::boot("bench-alerts");
    apps::start_notes(&machine, "v1");
    apps::wait_for_phase(&machine, "running");
    let host::receivers::Watched { rss, percent, told_s } = host::receivers::measure(&machine);
    let told: Vec<f64> = told_s.iter().map(|seconds| seconds * 1000.0).collect();
    vec![
        ("watch, memory", rss, "aim: RSS at most 15 MB"),
        ("watch at rest, of a core", format!("{percent:.3} %"), "aim: at most 0.1 % (with 20 apps)"),
        ("said to told, webhook, 20 runs", spread(&told), "aim: at most 5 s"),
    ]
}

/// From systemd's start to the app's first answer, five times; when each unit began and was up, in the run in the middle.
fn boot() -> Vec<(&'static str, String, &'static str)> {
    let machine = Machine::boot("bench-boot");
    apps::start_notes(&machine, "v1");
    apps::wait_for_phase(&machine, "running");
    let mut boots: Vec<host::boot::Boot> = (0..5).map(|_| host::boot::boot(&machine)).collect();
    boots.sort_by(|one, other| one.first_answer.total_cmp(&other.first_answer));
    let [first, .., last] = &boots[..] else { panic!("five boots") };
    let middle = &boots[2];
    let mut rows = vec![(
        "boot to the first 200, 5 boots",
        format!("{:.1} s ({:.1} to {:.1})", middle.first_answer, first.first_answer, last.first_answer),
        "from systemd's start; the app's own start included",
    )];
    let mut units: Vec<_> =
        host::boot::UNITS.into_iter().zip(middle.units).filter_map(|(unit, times)| Some((unit, times?))).collect();
    units.sort_by(|(_, one), (_, other)| one.0.total_cmp(&other.0));
    let told = |(began, up): (f64, f64)| format!("{:.2} s, from {began:.2} to {up:.2}", up - began);
    rows.extend(units.into_iter().map(|(unit, times)| (unit, told(times), "to be up")));
    rows
}

/// Twenty instances of one app on one host.
fn instances() -> Vec<(&'static str, String, &'static str)> {
    const COUNT: usize = 20;
    let machine = Machine::boot("bench-instances");
    host::several::install(&machine);
    let names: Vec<String> = (2..=COUNT).map(|number| format!("app{number}")).collect();
    let entries: String = names.iter().map(|name| host::several::instance(name, "")).collect();
    machine.put("/app/env.yml", host::several::env_yml("", &entries), 0o600);
    let up = milliseconds(&machine, "systemctl start appliance");
    for name in names.iter().map(String::as_str).chain(["one"]) {
        host::several::wait_for_app(&machine, name, "running");
    }
    let apply = sorted((0..10).map(|_| milliseconds(&machine, "appliance apply")).collect());
    let images = machine.ok("docker images --format '{{.ID}}' --filter reference='*-web' | sort -u | wc -l");
    let pid = machine.ok("systemctl show -p MainPID --value appliance-supervisor").trim().to_owned();
    std::thread::sleep(Duration::from_secs(10));
    let rss = machine.ok(&format!("grep -E 'VmRSS|VmHWM|RssAnon' /proc/{pid}/status | tr -s '\\t\\n ' ' '"));
    let before = ticks(&machine, &pid);
    let calls = machine.sh_for(90, &format!("timeout 60 strace -f -tt -p {pid} -o /root/trace; grep -vc -e '+++' -e '---' /root/trace; grep -c WATCHDOG /root/trace"));
    let counts: Vec<&str> = calls.stdout.split_whitespace().collect();
    let rest = format!(
        "{} ticks, {} system calls, {} of them for the watchdog",
        ticks(&machine, &pid) - before,
        counts.first().unwrap_or(&"?"),
        counts.get(1).unwrap_or(&"?")
    );
    host::several::push(&machine, "next", "sed -i 's/VERSION: \"v1\"/VERSION: \"v2\"/' compose.yml");
    machine.ok("cd /srv/several; runuser -u app -- git reset -q --hard next");
    let updated =
        machine.sh_for(1800, "A=$(date +%s%N); appliance update >&2; echo $((($(date +%s%N) - A) / 1000000))");
    let update = number(&updated.stdout);
    vec![
        ("20 instances: first start", format!("{:.1} s", up / 1000.0), "one build, of which the others are made"),
        ("20 instances: no-op apply, 10 runs", spread(&apply), "aim: at most 500 ms"),
        ("20 instances: images of their own", images.trim().to_owned(), "aim: 1"),
        ("20 instances: supervisor's memory", rss.trim().to_owned(), "aim: RSS at most 40 MB"),
        ("20 instances: 60 s at rest", rest, "aim: the watchdog's only"),
        (
            "20 instances: update of all",
            format!("{:.1} s", update / 1000.0),
            "one after the other, 20 s of each for its last requests",
        ),
    ]
}

/// What ten reloads of nginx cost visitors: busy ones, and those on connections that are idle at that moment.
fn reloads() -> Vec<(&'static str, String, &'static str)> {
    let machine = Machine::boot("bench-front");
    apps::start_mirror(&machine, "  ssl:\n    letsencrypt: {enabled: no}\n");
    let busy = host::load::load(&machine, "/x", 1000, 22, 10);
    let quiet = host::load::idle(&machine, 200, 22, 0);
    let idle = host::load::idle(&machine, 200, 22, 10);
    vec![
        ("1,000 busy connections, ten reloads", format!("{busy:?}"), "aim: no answer but 2xx"),
        ("200 keep-alive visitors, no reload", quiet, "the same without, to compare"),
        ("200 keep-alive visitors, ten reloads", idle, "lost: sent as nginx closed the idle connection"),
    ]
}

/// From v1 to v2 of the notes app under load.
fn updates() -> Vec<(&'static str, String, &'static str)> {
    let machine = host::updates::prepare();
    let (ours, stages) = host::updates::ours(&machine);
    let theirs = host::updates::theirs(&machine);
    println!("stages: {stages:?}");
    let lost = |outcome: &host::updates::Outcome| format!("{} of {}", outcome.lost, outcome.requests + outcome.lost);
    let build = stages.get("build").copied().unwrap_or(0.0);
    vec![
        ("requests lost in an update", lost(&ours), "v1 to v2 under wrk, without a migration; aim: 0"),
        ("  docker compose up -d --build", lost(&theirs), "same nginx, same load, same run"),
        ("seconds of errors", format!("{:.1}", ours.down), "of one who asks again and again"),
        ("  docker compose up -d --build", format!("{:.1}", theirs.down), "same run"),
        ("new commit to serving", format!("{:.1} s", ours.serving), "the new version's first answer"),
        ("  docker compose up -d --build", format!("{:.1} s", theirs.serving), "same run"),
        ("the whole command", format!("{:.1} s", ours.whole), "old containers drained and gone"),
        ("  docker compose up -d --build", format!("{:.1} s", theirs.whole), "same run"),
        ("to serving beside the build itself", format!("{:.1} s", ours.serving - build), "fetch, start, gate"),
    ]
}

/// An update with a migration, and one that is undone, by the size of the database.
fn migrations() -> Vec<(&'static str, String, &'static str)> {
    let machine = host::migrations::prepare();
    let mut rows = Vec::new();
    for (gigabytes, title) in [(0, "an empty database"), (1, "a database of 1 GB"), (4, "a database of 4 GB")] {
        host::migrations::fill(&machine, gigabytes * 1000);
        let cost = host::migrations::cost(&machine);
        let seconds = |all: f64, part: f64| format!("{all:.1} s, of it {part:.1} s");
        rows.push((title, String::new(), ""));
        rows.push(("  status page, migrated", seconds(cost.page, cost.copy), "for the way back"));
        rows.push(("  status page, undone", seconds(cost.page_of_undone, cost.back), "for going back"));
        rows.push((
            "  pg_dump, pg_restore",
            format!("{:.1} s, {:.1} s", cost.dump, cost.restore),
            "same database, same run",
        ));
        let ratios = format!("{:.2}, {:.2}", cost.copy / cost.dump, cost.back / cost.restore);
        rows.push(("  way back / dump, going back / restore", ratios, "aim: at most 0.15"));
    }
    rows
}

/// Steps with nothing to do, and moving PostgreSQL's directory to a volume, beside a plain copy of the same.
fn storage() -> Vec<(&'static str, String, &'static str)> {
    let mut rows = idle_steps();
    rows.extend(moving());
    rows
}

const STACK: &str = "services:\n  a: {image: stub:1, stop_grace_period: 1s}\n";

/// A host with its volumes mounted.
fn with_volumes(name: &str) -> (Machine, [host::drive::Drive; 3]) {
    let machine = Machine::boot(name);
    let drive = |label| host::drive::Drive::of_size(&machine, "ext4", label, "6G", "true");
    let drives = [drive("lib"), drive("ecs-data"), drive("ecs-volatile")];
    host::drive::put_lib_on(&machine, drives[0].device());
    apps::put_stack(&machine, "moved", STACK);
    let env = machine.get("/app/env.yml").replace("{volatile: yes, data: yes}", "{volatile: no, data: no}");
    machine.put("/app/env.yml", env, 0o600);
    machine.ok(&format!(
        "rm -rf /data /volatile; mkdir /data /volatile; mount {} /data; mount {} /volatile",
        drives[1].device(),
        drives[2].device()
    ));
    (machine, drives)
}

/// Steps with nothing to do.
fn idle_steps() -> Vec<(&'static str, String, &'static str)> {
    let (machine, _drives) = with_volumes("bench-idle");
    machine.ok("appliance prepare; mkdir -p /app/etc/moved");
    machine.put("/app/etc/moved/docker-compose.yml", STACK, 0o644);
    machine.ok("systemctl start --no-block appliance");
    apps::wait_for_phase(&machine, "running");
    machine.ok("appliance prepare && sync && systemctl is-system-running --wait || true");
    let step = |name: &str| {
        let command = format!("appliance prepare --step {name}");
        // In one shell: what it takes to come into the host is not part of it.
        let runs = format!(
            "for n in $(seq 40); do A=$(date +%s%N); {command} >/dev/null; echo $((($(date +%s%N) - A) / 1000)); done"
        );
        sorted(machine.ok(&runs).lines().map(|line| number(line) / 1000.0).collect())
    };
    let (storing, postgres) = (step("storage"), step("postgres"));
    vec![
        ("no-op step storage, 40 runs", spread(&storing), "the whole command"),
        ("no-op step postgres, 40 runs", spread(&postgres), "the whole command"),
        ("  together", format!("{:.0} ms", median(&storing) + median(&postgres)), "aim: under 50 ms"),
    ]
}

/// PostgreSQL's and Docker's directories move to their volumes.
fn moving() -> Vec<(&'static str, String, &'static str)> {
    let (machine, _drives) = with_volumes("bench-storage");
    // Large files and small ones, as a cluster has them.
    machine.ok("set -e; mkdir /var/lib/postgresql/filling; cd /var/lib/postgresql/filling
         for n in $(seq 200); do head -c 10000000 /dev/urandom > large$n; done
         for n in $(seq 3000); do head -c 8192 /dev/urandom > small$n; done
         chown -R postgres: .");
    let bytes = number(&machine.ok("du -sbc /var/lib/postgresql /var/lib/docker | tail -n 1 | cut -f1")) / 1e6;
    // What is in memory stays there, for both alike: a host in a namespace cannot drop it.
    let mut copies = Vec::new();
    for _ in 0..3 {
        machine.ok("sync");
        let copy = "cp -a /var/lib/postgresql /data/copy && cp -a /var/lib/docker /volatile/copy && sync";
        copies.push(milliseconds(&machine, copy));
        machine.ok("rm -rf /data/copy /volatile/copy");
    }
    machine.ok("sync");
    let moved = milliseconds(&machine, "appliance prepare --step storage > /root/out 2>&1");
    println!("{}", machine.get("/root/out"));
    machine.ok("test -L /var/lib/postgresql && test -L /var/lib/docker && test -e /data/postgresql/filling/small3000");
    let copies = sorted(copies);
    let speed = |ms: f64| format!("{:.1} s, {:.0} MB/s", ms / 1000.0, bytes / ms * 1000.0);
    vec![
        ("moving PostgreSQL's and Docker's directories", speed(moved), "stopped, copied, compared, started"),
        ("  cp -a and sync, 3 runs", speed(median(&copies)), "same files and disks, same run"),
        ("  ratio of the speeds", format!("{:.2}", median(&copies) / moved), "aim: at least 0.8"),
    ]
}

/// A hundred containers.
fn scale() -> Vec<(&'static str, String, &'static str)> {
    let machine = host::scale::prepare();
    let ups: Vec<[f64; 4]> = (0..8).map(|round| host::scale::up(&machine, round)).collect();
    println!("100 up, ours, compose's, plain calls' together and apart: {ups:?}");
    let of = |who: usize| sorted(ups.iter().map(|up| up[who]).collect());
    let (ours, theirs, together, apart) = (of(0), of(1), of(2), of(3));
    let seconds = |times: &[f64]| format!("{:.1} s ({:.1} to {:.1})", median(times), times[0], times[times.len() - 1]);
    let (again, compose) = host::scale::again(&machine, milliseconds);
    let (again, compose) = (sorted(again), sorted(compose));
    println!("nothing to do: {again:?} {compose:?}");
    let pid = machine.ok("systemctl show -p MainPID --value appliance-supervisor").trim().to_owned();
    // The start's own last work, and a first timer.
    std::thread::sleep(Duration::from_secs(10));
    let before = ticks(&machine, &pid);
    std::thread::sleep(Duration::from_secs(60));
    let busy = ticks(&machine, &pid) - before;
    let rss = machine.ok(&format!("awk '/VmRSS/ {{print $2}}' /proc/{pid}/status"));
    let (crashes, peer) = host::scale::crashes(&machine, 5);
    let list = |times: &[f64]| times.iter().map(|time| format!("{time:.0}")).collect::<Vec<_>>().join(", ");
    let sum = |times: &[f64]| times.iter().sum::<f64>();
    vec![
        ("100 containers up, 8 runs", seconds(&ours), "first create to last start, by Docker's events"),
        ("  docker compose v2, same file", seconds(&theirs), "same run"),
        ("  plain API calls, 16 at once, each started when it is made", seconds(&together), "same run"),
        ("  plain API calls, 16 at once, all made before the first start", seconds(&apart), "same run"),
        ("  ratio to compose", format!("{:.2}", median(&ours) / median(&theirs)), "aim: at most 1.0"),
        ("nothing to do with 100, 10 runs", spread(&again), "appliance plan --stack"),
        ("  docker compose v2 up -d", spread(&compose), "same run"),
        ("  ratio to compose", format!("{:.2}", median(&again) / median(&compose)), "aim: at most 0.5"),
        ("supervisor RSS with 100", format!("{:.1} MB", number(&rss) / 1024.0), "aim: under 30 MB"),
        ("supervisor CPU with 100, 60 s at rest", format!("{:.2} %", busy as f64 / 60.0), "aim: under 0.2 %"),
        ("five crashes in a row, supervisor", format!("{} ms", list(&crashes)), "die to start"),
        ("  Docker's policy", format!("{} ms", list(&peer)), "same run"),
        ("  ratio of the sums", format!("{:.2}", sum(&crashes) / sum(&peer)), "aim: at most 0.6"),
    ]
}

/// Checking an env.yml of 1 MB beside what an ECS-Appliance read it with, and the memory that it takes.
fn reading(machine: &Machine) -> Vec<(&'static str, String, &'static str)> {
    let mut text = "#cloud-config\nappliance:\n  domain: a.example.test\n  extra:\n    files:\n".to_owned();
    for file in 0.. {
        text.push_str(&format!("    - path: /etc/app/{file}.conf\n      permissions: '0640'\n      contents: |\n"));
        (0..20).for_each(|line| text.push_str(&format!("        line {line} with some text = 'value' # comment\n")));
        if text.len() > 1_000_000 {
            break;
        }
    }
    text.push_str("app:\n  name: shop\n  git: {source: /srv/x.git}\n");
    machine.put("/root/large.yml", text, 0o600);
    let peer = "python3 -c 'import yaml; yaml.load(open(\"/root/large.yml\"), Loader=yaml.CSafeLoader)'";
    let ours = sorted((0..20).map(|_| milliseconds(machine, "appliance env check /root/large.yml")).collect());
    let python = sorted((0..5).map(|_| milliseconds(machine, peer)).collect());
    let memory = "python3 -c 'import resource, subprocess; subprocess.run([\"appliance\", \"env\", \"check\", \"/root/large.yml\"], \
                  stdout=subprocess.DEVNULL); print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)'";
    vec![
        ("env check of 1 MB, 20 runs", spread(&ours), "aim: under 50 ms"),
        ("PyYAML with libyaml, 5 runs", spread(&python), "loading the same file, nothing more"),
        ("ratio of the medians", format!("{:.2}", median(&ours) / median(&python)), ""),
        (
            "memory of env check of 1 MB, peak",
            format!("{:.1} MB", number(&machine.ok(memory))),
            "the program itself included",
        ),
    ]
}

fn number(text: &str) -> f64 {
    text.trim()
        .lines()
        .last()
        .and_then(|line| line.trim().parse().ok())
        .unwrap_or_else(|| panic!("not a number: {text}"))
}

fn milliseconds(machine: &Machine, command: &str) -> f64 {
    number(&machine.ok(&format!("A=$(date +%s%N); {command} >/dev/null; echo $((($(date +%s%N) - A) / 1000))")))
        / 1000.0
}

fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values
}

fn median(sorted: &[f64]) -> f64 {
    sorted[sorted.len() / 2]
}

fn spread(sorted: &[f64]) -> String {
    format!("{:.0} ms ({:.0} to {:.0})", median(sorted), sorted[0], sorted[sorted.len() - 1])
}

fn ticks(machine: &Machine, pid: &str) -> u64 {
    let stat = machine.ok(&format!("cat /proc/{pid}/stat"));
    let fields: Vec<u64> =
        stat.rsplit(')').next().unwrap_or("").split_whitespace().filter_map(|word| word.parse().ok()).collect();
    // Behind the name and the state (which is no number): utime and stime are the 11th and 12th numbers.
    fields.get(10).copied().unwrap_or(0) + fields.get(11).copied().unwrap_or(0)
}

/// From Docker's `die` to its `start`, for containers under the supervisor and under Docker's own policy, each killed once.
fn restarts(machine: &Machine) -> (Vec<f64>, Vec<f64>) {
    let services = ["worker", "beat", "redis", "memcached", "web"];
    let since = machine.ok("date +%s").trim().to_owned();
    for service in services {
        // The same image, network, limit and port mapping; what the process does then is of no account to its start.
        let wiring = match service {
            "web" => "-p 127.0.0.1:18000:8000 notes/app",
            "memcached" => "-m 128m notes/base:1",
            "redis" => "notes/base:1",
            _ => "notes/app",
        };
        let run = "docker run -d --restart always --log-driver journald --network notes_default";
        machine.ok(&format!("{run} --name peer_{service} {wiring} sleep 100000"));
    }
    // A container that dies within ten seconds of its start gets a longer delay from Docker; that would not be fair.
    std::thread::sleep(Duration::from_secs(12));
    for service in services {
        for name in [format!("peer_{service}"), format!("notes_{service}_1")] {
            machine.ok(&format!("kill -9 $(docker inspect -f '{{{{.State.Pid}}}}' {name})"));
            wait_for(&format!("{name} to run again"), Duration::from_secs(60), || {
                let state = machine.sh(&format!("docker inspect -f '{{{{.State.Running}}}}' {name}")).stdout;
                if state.trim() == "true" { Ok(()) } else { Err(state) }
            });
        }
    }
    let until = machine.ok("date +%s").trim().to_owned();
    let log = machine.ok(&format!(
        "docker events --since {since} --until $(({until} + 1)) --filter event=die --filter event=start --format '{{{{.Actor.Attributes.name}}}} {{{{.Action}}}} {{{{.TimeNano}}}}'"
    ));
    let mut died: BTreeMap<String, f64> = BTreeMap::new();
    let (mut ours, mut docker) = (Vec::new(), Vec::new());
    for line in log.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [name, action, time] = words[..] else { continue };
        let time: f64 = time.parse().unwrap_or(0.0);
        if action == "die" {
            died.insert(name.to_owned(), time);
        } else if let Some(death) = died.remove(name) {
            let list = if name.starts_with("peer_") { &mut docker } else { &mut ours };
            list.push((time - death) / 1e6);
        }
    }
    machine.ok("docker rm -f $(docker ps -aq --filter name=peer_) >/dev/null");
    (sorted(ours), sorted(docker))
}
