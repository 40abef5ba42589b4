//! From systemd's start to the app's first answer, and where the time goes, unit by unit.

use super::Machine;
use super::apps;
use std::time::{Duration, Instant};

/// What stands between a boot and the app, in the order in which it begins.
pub const UNITS: [&str; 9] = [
    "network-online.target",
    "containerd.service",
    "docker.service",
    "appliance-filter.service",
    "postgresql@15-main.service",
    "nginx.service",
    "appliance.service",
    "appliance-supervisor.service",
    "multi-user.target",
];

/// Seconds since systemd's start.
pub struct Boot {
    pub first_answer: f64,
    /// When each of the units began to start, and when it was up; nothing for one that was not started.
    pub units: [Option<(f64, f64)>; UNITS.len()],
}

/// The kernel's clock that systemd's times are of, in seconds.
fn now() -> f64 {
    let text = std::fs::read_to_string("/proc/uptime").expect("there is a clock");
    text.split(' ').next().and_then(|seconds| seconds.parse().ok()).expect("it tells seconds")
}

/// Boots the host anew and waits for the app.
pub fn boot(machine: &Machine) -> Boot {
    machine.power_off();
    let answered = std::thread::scope(|scope| {
        let poll = scope.spawn(|| {
            let end = Instant::now() + Duration::from_secs(300);
            while apps::get(machine, "/notes").0 != 200 {
                assert!(Instant::now() < end, "no answer in 300 s");
                std::thread::sleep(Duration::from_millis(20));
            }
            now()
        });
        machine.start();
        poll.join().expect("the app answers")
    });
    apps::wait_for_phase(machine, "running");
    let micros = |text: &str| text.trim().parse::<f64>().expect("systemd tells a time") / 1e6;
    let start = micros(&machine.ok("systemctl show -p UserspaceTimestampMonotonic --value"));
    let units = UNITS.map(|unit| {
        let times = machine.ok(&format!(
            "systemctl show -p InactiveExitTimestampMonotonic --value {unit}; systemctl show -p ActiveEnterTimestampMonotonic --value {unit}"
        ));
        let [began, up] = times.lines().map(micros).collect::<Vec<_>>()[..] else { panic!("{unit}: {times}") };
        // One without a start of its own, as a target, is only up.
        (up > 0.0).then_some((if began > 0.0 { began } else { up } - start, up - start))
    });
    Boot { first_answer: answered - start, units }
}
