//! Where an env comes from: drives with real file systems, and metadata services, good and hostile.

use crate::host::apps::*;
use crate::host::drive::Drive;
use crate::host::patience::stretched;
use crate::host::{Machine, wait_for};
use std::time::{Duration, Instant};

fn user_data(domain: &str) -> String {
    format!(
        "#cloud-config\nappliance:\n  domain: {domain}\n  storage: {{ignore: {{data: yes, volatile: yes}}}}\n\
         app:\n  name: notes\n  git: {{source: file:///srv/notes.git}}\n"
    )
}

/// A script that writes a text into a file below the current directory.
fn write(path: &str, text: &str) -> String {
    format!("mkdir -p $(dirname {path}); cat > {path} <<'EOF'\n{text}EOF\n")
}

/// What `env check` says, its exit code, and how long it took.
fn check(machine: &Machine) -> (String, i32, Duration) {
    let started = Instant::now();
    let out = machine.sh("appliance env check");
    (out.all(), out.code, started.elapsed())
}

#[test]
fn a_host_without_any_source_says_what_was_tried_in_time() {
    let machine = Machine::boot("no-source");
    let (said, code, took) = check(&machine);
    assert_eq!(code, 1, "{said}");
    for place in [
        "$ENV_YML: not set",
        "/app/env.yml: there is no such file",
        "a drive labelled cidata: there is none",
        "a drive labelled config-2: there is none",
        "EC2's metadata service: not asked",
        "GCE's metadata service: not asked",
    ] {
        assert!(said.contains(place), "{place} is missing:\n{said}");
    }
    assert!(took < stretched(Duration::from_secs(10)), "the search took {took:?}");
}

#[test]
fn a_drive_is_read_without_a_trace() {
    let machine = Machine::boot("drives");
    let mounts = machine.get("/proc/self/mountinfo");
    let config = Drive::plug_in(
        &machine,
        "xfs",
        "config-2",
        &write("openstack/latest/user_data", &user_data("config.example.test")),
    );
    let before = config.digest();
    let (said, code, _) = check(&machine);
    assert!(code == 0 && said.contains("config-2:openstack/latest/user_data is fine"), "{said}");

    let fill = format!("{}chmod 600 user-data", write("user-data", &user_data("drive.example.test")));
    let seed = Drive::plug_in(&machine, "ext4", "cidata", &fill);
    let first = seed.digest();
    let (said, code, _) = check(&machine);
    assert!(code == 0 && said.contains("cidata:user-data is fine"), "the first source in order wins: {said}");
    assert_eq!((seed.digest(), config.digest()), (first, before), "reading wrote to a drive");
    assert_eq!(machine.get("/proc/self/mountinfo"), mounts, "something stayed mounted");
    let (code, said) =
        (machine.sh("runuser -u nobody -- appliance env check"), "who may not read drives is told of none");
    assert!(code.code == 1 && code.all().contains("a drive labelled cidata"), "{said}: {}", code.all());
    seed.unplug(&machine);

    // What answers but is broken never falls through to the next one.
    for (fill, said_of_it) in [
        (write("user-data", "#cloud-config\nappliance: [\n"), "cidata:user-data:"),
        (write("user-data", "#!/bin/sh\necho hello\n"), "begins with the line '#cloud-config'"),
    ] {
        let seed = Drive::plug_in(&machine, "ext4", "CIDATA", &fill);
        let (said, code, _) = check(&machine);
        assert!(code == 1 && said.contains(said_of_it) && !said.contains("config-2"), "{said}");
        seed.unplug(&machine);
    }
    // What is no file is not read, nothing leads out of the drive, nothing blocks, and nothing falls through either.
    for (fill, why) in [
        ("ln -s /etc/hostname user-data", "could not open user-data"),
        ("mkfifo user-data", "is not a file"),
        ("mkdir user-data", "is not a file"),
    ] {
        let seed = Drive::plug_in(&machine, "ext4", "cidata", fill);
        let (said, code, took) = check(&machine);
        assert!(
            code == 1 && said.contains(why) && said.contains("a drive labelled cidata cannot be read"),
            "{fill}: {said}"
        );
        assert!(took < stretched(Duration::from_secs(5)), "{fill}: {took:?}");
        seed.unplug(&machine);
    }
    // A drive without the file says nothing, and the next one is asked.
    for fill in ["true", ": > user-data"] {
        let seed = Drive::plug_in(&machine, "ext4", "cidata", fill);
        let (said, code, _) = check(&machine);
        assert!(code == 0 && said.contains("config-2:"), "{fill}: {said}");
        seed.unplug(&machine);
    }
    config.unplug(&machine);
    assert_eq!(check(&machine).1, 1);
}

fn serve(machine: &Machine, mode: &str) {
    machine.put("/root/md.mode", mode, 0o600);
    machine.put("/root/md.log", "", 0o600);
}

#[test]
fn metadata_services_are_asked_and_hostile_ones_break_nothing() {
    let machine = Machine::boot("metadata");
    install_notes(&machine);
    machine.put("/root/metadata.py", include_str!("../host/metadata.py"), 0o600);
    machine.put(
        "/root/md.env",
        format!("#cloud-config\n{}", env_yml(&machine, "v1").trim_start_matches("#cloud-config\n")),
        0o600,
    );
    serve(&machine, "v2");
    // Without a route to that address alone nobody is asked: among all link-local addresses it may be any neighbour's.
    machine.ok("ip netns add md && ip link add md0 type veth peer name md1 netns md && ip -n md link set lo up && ip -n md link set md1 up && \
                ip -n md addr add 169.254.169.254/16 dev md1");
    let mut server = machine.spawn("exec ip netns exec md python3 /root/metadata.py");
    machine.ok("ip addr add 169.254.1.1/16 dev md0 && ip link set md0 up");
    wait_for("the metadata service", Duration::from_secs(20), || {
        let out = machine.sh("curl -s -o /dev/null -w '%{http_code}' http://169.254.169.254/");
        if out.stdout == "404" { Ok(()) } else { Err(out.all()) }
    });
    serve(&machine, "v2");
    let (said, ..) = check(&machine);
    assert!(said.contains("EC2's metadata service: not asked"), "{said}");
    assert_eq!(machine.get("/root/md.log"), "", "nobody was asked");
    machine.ok("ip route add 169.254.169.254/32 dev md0");

    for (mode, origin, asked) in [
        ("v2", "ec2:user-data", "PUT /latest/api/token\nGET /latest/user-data\n"),
        ("v2-gzip", "ec2:user-data", "PUT /latest/api/token\nGET /latest/user-data\n"),
        ("v1", "ec2:user-data", "PUT /latest/api/token\nGET /latest/user-data\n"),
        ("bad-token", "ec2:user-data", "PUT /latest/api/token\nGET /latest/user-data\n"),
        (
            "gce",
            "gce:user-data",
            "PUT /latest/api/token\nGET /latest/user-data\nGET /computeMetadata/v1/instance/attributes/user-data\n",
        ),
    ] {
        serve(&machine, mode);
        let (said, code, _) = check(&machine);
        assert!(code == 0 && said.contains(&format!("{origin} is fine")), "{mode}: {said}");
        assert_eq!(machine.get("/root/md.log"), asked, "{mode}");
    }

    // Two services at 3 s each is the most that a search may take longer.
    let bound = stretched(Duration::from_secs(7));
    for mode in ["hang", "drip", "drip-headers", "endless", "redirect", "html", "500", "cut", "noise", "nothing"] {
        serve(&machine, mode);
        let (said, code, took) = check(&machine);
        assert!(
            code == 1 && said.contains("EC2's metadata service: ") && said.contains("GCE's metadata service: "),
            "{mode}: {said}"
        );
        assert!(!said.contains("panicked") && took < bound, "{mode} took {took:?}: {said}");
    }
    serve(&machine, "v2-bomb");
    let (said, code, _) = check(&machine);
    assert!(code == 1 && said.contains("ec2:user-data:1:1: error: the file is larger than"), "{said}");

    // A start from it, and then with it broken: what ran goes on, also after a boot, and says why.
    serve(&machine, "v2");
    machine.ok("systemctl start appliance");
    wait_for_phase(&machine, "running");
    assert_eq!(status(&machine)["source"], "ec2:user-data");
    let out = machine.sh("appliance env undo");
    assert!(out.code == 1 && out.stderr.contains("the env comes from ec2"), "{}", out.all());
    for (mode, why) in [
        ("hang", "did not answer within 3 s"),
        ("html", "a web page instead of user-data"),
        ("endless", "it sent more than"),
    ] {
        serve(&machine, mode);
        machine.ok("rm -f /run/active-env.yml");
        machine.ok("systemctl restart appliance-supervisor");
        wait_for_phase(&machine, "running");
        let text = machine.ok("appliance status");
        assert!(text.contains("the last good one goes on") && text.contains(why), "{mode}: {text}");
        assert_eq!(get(&machine, "/health").0, 200, "{mode}");
    }
    drop(server.kill());
    drop(server.wait());
}
