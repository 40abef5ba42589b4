//! What bounds all containers of one app together, as the kernel has it.

use crate::host::Machine;
use crate::host::several::*;

fn env_with(limits: &str) -> String {
    env_yml("", &[instance("two", limits), instance("three", "")].concat())
}

/// What the kernel says of the control group that is above the app's containers.
fn kernel(machine: &Machine, app: &str, file: &str) -> String {
    let (kind, name) = file.split_once('/').expect("a controller and its file");
    machine.ok(&format!("cat /sys/fs/cgroup/{kind}/appliance.slice/appliance-{app}.slice/{name}")).trim().to_owned()
}

#[test]
fn an_apps_containers_share_its_limits_and_others_have_none_of_them() {
    let machine = Machine::boot("limits");
    // In a container, systemd finds the control groups read-only at its start, and lets them alone until it looks again.
    machine.ok("systemctl daemon-reexec");
    install(&machine);
    machine.put("/app/env.yml", env_with("    limits: {memory: 96m, cpus: 0.2, pids: 60}\n"), 0o600);
    machine.ok("systemctl start appliance");
    APPS.iter().for_each(|app| wait_for_app(&machine, app, "running"));
    let limits = ["memory/memory.limit_in_bytes", "cpu/cpu.cfs_quota_us", "pids/pids.max"]
        .map(|file| kernel(&machine, "two", file));
    assert_eq!(limits, [(96 << 20).to_string(), "20000".to_owned(), "60".to_owned()]);

    // Each of the three is reached by what an app can do, in a container beside the one that serves.
    let inside = |app: &str, script: &str| machine.sh(&format!("docker exec -i {app}_web_1 python3 -c '{script}'"));
    let memory = "all = [bytearray(1 << 20) for _ in range(200)]; print(len(all))";
    assert_eq!(inside("three", memory).stdout, "200\n");
    assert_eq!(inside("two", memory).code, 137, "killed for want of memory");
    let threads = "import threading\nstop = threading.Event()\nfor n in range(100):\n    try: threading.Thread(target=stop.wait).start()\n    except RuntimeError: break\nstop.set(); print(n)";
    assert_eq!(inside("three", threads).stdout, "99\n");
    let started: u32 = inside("two", threads).stdout.trim().parse().expect("a number");
    assert!(started < 60, "{started} threads beside others");
    let busy = "import time\nwhile time.process_time() < 0.2: pass";
    assert_eq!(inside("two", busy).code, 0);
    let throttled = kernel(&machine, "two", "cpu/cpu.stat");
    assert!(!throttled.contains("nr_throttled 0\n"), "{throttled}");
    APPS.iter().for_each(|app| assert_eq!(visit(&machine, app, "/").0, 200, "{app}"));

    // Other limits are the kernel's business alone.
    let before = containers(&machine);
    machine.put("/app/env.yml", env_with("    limits: {memory: 128m, cpus: 0.5}\n"), 0o600);
    let plan = machine.sh("appliance plan");
    assert!(plan.all().contains("appliance-two.slice") && !plan.all().contains("recreate"), "{}", plan.all());
    machine.ok("appliance apply");
    let limits = ["memory/memory.limit_in_bytes", "cpu/cpu.cfs_quota_us"].map(|file| kernel(&machine, "two", file));
    assert_eq!((limits, containers(&machine)), ([(128 << 20).to_string(), "50000".to_owned()], before));
    assert_eq!(machine.ok("appliance plan"), "nothing to do\n");

    // None at all: the containers leave the slice, and those of the others stay.
    let others = containers_of(&machine, &["one", "three"]);
    machine.put("/app/env.yml", env_with(""), 0o600);
    machine.ok("appliance apply");
    assert_eq!(inside("two", memory).stdout, "200\n");
    assert_eq!(machine.ok("ls /etc/systemd/system | grep -c 'appliance-two' || true"), "0\n");
    assert_eq!(containers_of(&machine, &["one", "three"]), others);

    // A service that would not be below the slice.
    machine.put(
        "/app/env.yml",
        env_with("    limits: {pids: 100}\n    git: {source: 'file:///srv/several', branch: off}\n"),
        0o600,
    );
    push(&machine, "off", "sed -i 's|^    build: .|    build: .\\n    cgroup_parent: /elsewhere|' compose.yml");
    let out = machine.sh("appliance apply");
    assert!(
        out.code != 0 && out.all().contains("services.web.cgroup_parent takes its containers out of reach"),
        "{}",
        out.all()
    );
    assert_eq!(visit(&machine, "two", "/").0, 200);

    // Nothing is left of an app that is removed.
    machine.put("/app/env.yml", env_yml("", &instance("three", "    limits: {pids: 100}\n")), 0o600);
    machine.ok("appliance apply && appliance app remove two --yes two");
    assert_eq!(
        machine.ok(
            "find /sys/fs/cgroup/memory /sys/fs/cgroup/cpu /sys/fs/cgroup/pids /etc/systemd -name 'appliance-two.slice'"
        ),
        ""
    );
    assert_eq!(kernel(&machine, "three", "pids/pids.max"), "100");
}

#[test]
fn an_app_is_updated_by_its_own_calendar_and_not_by_the_hosts() {
    let machine = Machine::boot("calendars");
    install(&machine);
    let own = "    update: {oncalendar: '*-*-* 03:00:00'}\n";
    let more = "  update: {oncalendar: '*-*-* 04:00:00', reboot: no}\n";
    machine.put("/app/env.yml", env_yml(more, &[instance("two", own), instance("three", "")].concat()), 0o600);
    machine.ok("systemctl start appliance");
    APPS.iter().for_each(|app| wait_for_app(&machine, app, "running"));
    let next = |unit: &str| machine.ok(&format!("systemctl show -P TimersCalendar {unit}; systemctl is-active {unit}"));
    assert!(next("appliance-update.timer").contains("*-*-* 04:00:00"), "{}", next("appliance-update.timer"));
    assert!(next("appliance-update@two.timer").contains("*-*-* 03:00:00"), "{}", next("appliance-update@two.timer"));

    // What the timers start: each of them updates its own.
    let release = |app: &str| {
        let ledger: serde_json::Value =
            serde_json::from_str(&machine.get(&format!("/data/appliance/apps/{app}/ledger.json"))).expect("it is JSON");
        ledger["current"]["commit"].as_str().expect("there is a release").to_owned()
    };
    push(&machine, "live", "true > newer");
    let newest = machine.ok("git -c safe.directory='*' -C /srv/several rev-parse live").trim().to_owned();
    machine.ok("systemctl start appliance-update.service");
    assert_eq!(APPS.map(|app| release(app) == newest), [true, false, true]);
    machine.ok("systemctl start appliance-update@two.service");
    assert_eq!(release("two"), newest);

    // One that failed waits for its operator; one without a calendar of its own has no timer.
    machine.ok("mkdir -p /run/appliance/failed && echo broken > /run/appliance/failed/two");
    machine.ok("systemctl start appliance-update@two.service");
    assert_eq!(machine.ok("systemctl show -P ConditionResult appliance-update@two.service"), "no\n");
    machine.ok("rm /run/appliance/failed/two");
    machine.put("/app/env.yml", env_yml(more, &[instance("two", ""), instance("three", "")].concat()), 0o600);
    machine.ok("appliance apply");
    assert_eq!(machine.ok("systemctl list-timers --all --no-legend | grep -c 'appliance-update@' || true"), "0\n");
    assert_eq!(machine.ok("ls /etc/systemd/system | grep -c 'appliance-update@' || true"), "0\n");
    assert_eq!(machine.ok("appliance plan"), "nothing to do\n");
}
