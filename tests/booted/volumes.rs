//! A volume that should be mounted and is not: nothing is done on the root disk in its place, and what is missing is waited for.

use crate::host::apps::*;
use crate::host::drive::Drive;
use crate::host::{Machine, wait_for};
use std::time::Duration;

/// Waits until the appliance waits for the volume, and looks at what it did meanwhile.
fn waits(machine: &Machine) {
    wait_for("the wait", Duration::from_secs(120), || {
        let said = machine.sh("appliance status --json").all();
        match said.contains("waiting for a volume: no file system labelled 'ecs-data' is mounted on /data") {
            true => Ok(()),
            false => Err(said),
        }
    });
    assert_eq!(machine.ok("ls -A /data 2>/dev/null | wc -l"), "0\n", "nothing is made on the root disk");
    assert_eq!(machine.ok("docker ps -q | wc -l"), "0\n");
    assert_ne!(machine.sh("test -e /run/appliance-failed").code, 0);
    // Without its certificate, which lies on the volume, the host shows it on port 80.
    let (code, page) = curl(machine, &[&format!("http://{}/", machine.address())]);
    assert!(code == 503 && page.contains("<title>Starting</title>"), "{code} {page}");
}

#[test]
fn the_app_waits_for_its_volume_and_starts_by_itself() {
    let machine = Machine::boot("volumes");
    let compose = "services:\n  a: {image: stub:1, stop_grace_period: 1s, volumes: ['/data/kept:/kept']}\n";
    // The operator's compose file lies on the volume.
    let fill = format!("mkdir -p etc/vol; printf '%s' \"{compose}\" > etc/vol/docker-compose.yml");
    let drive = Drive::plug_in(&machine, "ext4", "ecs-data", &fill);
    let device = drive.device().to_owned();
    put_stack(&machine, "vol", compose);
    // The disk itself comes later.
    machine.ok(&format!("rm -rf /data; rm {device}"));
    let env = machine.get("/app/env.yml").replace("data: yes", "data: no");
    machine.put("/app/env.yml", env, 0o600);
    machine.ok("systemctl start --no-block appliance");
    waits(&machine);
    // Another file system there is not it.
    machine.ok("mkdir -p /data && mount -t tmpfs none /data");
    waits(&machine);
    machine.ok("umount /data");

    // Once it is there it is found by its label, and mounted.
    let plug_in = format!("mknod {device} b 7 {}", device.trim_start_matches("/dev/loop"));
    machine.ok(&plug_in);
    wait_for_phase(&machine, "running");
    assert_eq!(machine.ok("findmnt --noheadings --output SOURCE /data").trim(), device);
    assert!(
        machine.get("/etc/fstab").contains(" /data auto defaults,nosuid,nodev,nofail,"),
        "{}",
        machine.get("/etc/fstab")
    );
    let options = machine.ok("findmnt --noheadings --output OPTIONS /data");
    assert!(
        options.contains("nosuid") && options.contains("nodev"),
        "what a container writes there makes nobody root: {options}"
    );
    machine.ok("docker exec vol_a_1 /bin/sh -c 'echo precious > /kept/word'");
    let id = machine.ok("docker inspect -f '{{.Id}}' vol_a_1");

    // A boot without it: the container is there, and stays down until the volume is.
    machine.power_off();
    machine.start();
    waits(&machine);
    // However long that takes: beyond the time after which a supervisor that hangs would be ended.
    let pid = machine.ok("systemctl show -p MainPID appliance-supervisor");
    let begun = std::time::Instant::now();
    wait_for("more than a watchdog's minute", Duration::from_secs(90), || {
        if begun.elapsed() > Duration::from_secs(75) { Ok(()) } else { Err(format!("{:?}", begun.elapsed())) }
    });
    waits(&machine);
    assert_eq!(machine.ok("systemctl show -p MainPID appliance-supervisor"), pid);
    machine.ok(&plug_in);
    wait_for_phase(&machine, "running");
    assert_eq!(machine.ok("docker inspect -f '{{.Id}}' vol_a_1"), id);
    assert_eq!(machine.ok("docker exec vol_a_1 /bin/busybox cat /kept/word"), "precious\n");
    machine.ok("systemctl stop appliance 'postgresql@*' postgresql; umount /data");
    drive.unplug(&machine);
}
