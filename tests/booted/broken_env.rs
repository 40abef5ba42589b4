//! Broken env.yml files: each gives its message with line and column, exit 1, and changes nothing.

use crate::host::Machine;
use crate::host::apps::*;

/// The files of `tests/broken/`; what is said of each is held by `tests/golden.rs`.
fn cases() -> Vec<String> {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/broken");
    let entries = std::fs::read_dir(directory).expect("the files can be listed");
    let mut names: Vec<String> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort();
    names
}

#[test]
fn every_broken_file_is_named_with_its_place_and_changes_nothing() {
    let machine = Machine::boot("broken-env");
    start_notes(&machine, "v1");
    wait_for_phase(&machine, "running");
    let look = "find /etc /app /data/etc /run/active-env.yml /var/www -xdev -printf '%p %T@ %i\\n' | sort; docker ps --no-trunc -q | sort; \
                systemctl show -p InvocationID nginx postgresql@15-main appliance-supervisor";
    let before = machine.ok(look);
    let cases = cases();
    assert!(cases.len() >= 80, "{} cases", cases.len());
    machine.put_directory(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/broken"), "/root/broken");
    let mut wrong = Vec::new();
    for name in &cases {
        let run = |verb: &str| machine.sh(&format!("ENV_YML=/root/broken/{name} appliance {verb}"));
        // The same words whoever reads the file, its places and lines included.
        let said = run("env check");
        let has_place = said.stderr.starts_with(&format!("/root/broken/{name}:")) && said.stderr.contains(": error: ");
        for (verb, out) in [("env check", said.clone()), ("prepare", run("prepare")), ("plan", run("plan"))] {
            if out.code != 1 || !has_place || out.stderr != said.stderr {
                wrong.push(format!("{name}: {verb} ended with {} and said:\n{}", out.code, out.all()));
            }
        }
    }
    // Too large to travel through the table.
    machine.ok("head -c 104857600 /dev/zero | tr '\\0' '#' > /root/case.yml");
    let out = machine.sh("ENV_YML=/root/case.yml appliance env check");
    assert!(
        out.code == 1 && out.stderr.starts_with("/root/case.yml:1:1: error: the file is larger than"),
        "{}",
        out.all()
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(machine.ok(look), before, "something changed on the host");
    assert_eq!(get(&machine, "/health").0, 200, "the running stack is untouched");

    // A supervisor that starts on a broken env goes on with the active one.
    machine.put("/app/env.yml", "appliance: [\n", 0o600);
    machine.ok("systemctl restart appliance-supervisor");
    wait_for_phase(&machine, "running");
    let text = machine.ok("appliance status");
    assert!(text.contains("the newest env is broken") && text.contains("/app/env.yml:"), "{text}");
    assert_eq!(get(&machine, "/health").0, 200);
}
