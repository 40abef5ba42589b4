//! What the docs tell people to type does what the docs say: every command of their blocks is run here as it stands there, or by the test
//! that is named beside it; the few that no test runs are named as well.

use super::update::version;
use crate::host::Machine;
use crate::host::apps::*;
use std::collections::BTreeSet;
use std::path::PathBuf;

/// Commands that this test does not run, and the tests that do.
const ELSEWHERE: [(&str, &str); 27] = [
    ("vagrant up", "vagrant_up_makes_a_host_with_the_app"),
    ("apt install ./appliance_*.deb", "it_is_installed_upgraded_removed_and_purged_and_data_stays"),
    ("appliance cert renew", "certificates_are_got_kept_and_never_missing"),
    ("appliance cert revoke", "what_dehydrated_left_is_taken_over_and_a_revoked_certificate_is_replaced"),
    ("appliance cert ca init --request ca.csr", "a_ca_below_another_one_and_a_ca_of_the_apps_own"),
    (
        "appliance cert ca init --signed chain.pem --parent-crl lists.pem",
        "a_ca_below_another_one_and_a_ca_of_the_apps_own",
    ),
    ("curl -H 'Accept: application/json' https://notes.example.org/", "the_page_tells_what_goes_on_and_follows_it"),
    ("appliance postgres upgrade", "another_major_version_is_gone_to_and_come_back_from"),
    ("appliance postgres back", "another_major_version_is_gone_to_and_come_back_from"),
    ("appliance postgres forget", "another_major_version_is_gone_to_and_come_back_from"),
    ("appliance alert test", "a_full_disk_is_told_once_to_each_whatever_is_away_and_so_is_its_end"),
    ("appliance backup run", "a_host_that_burned_is_back_on_a_new_one"),
    ("appliance backup ship", "what_was_shipped_is_back_on_a_new_host_and_any_moment_of_it_on_the_old_one"),
    ("appliance backup drill", "what_was_shipped_is_back_on_a_new_host_and_any_moment_of_it_on_the_old_one"),
    (
        "appliance backup restore --database --at 2026-11-30T14:05:00+01:00 --yes",
        "what_was_shipped_is_back_on_a_new_host_and_any_moment_of_it_on_the_old_one",
    ),
    (
        "appliance backup restore --database --at 2026-11-30T14:05:00+01:00 --dump",
        "what_was_shipped_is_back_on_a_new_host_and_any_moment_of_it_on_the_old_one",
    ),
    (
        "appliance backup restore --files --at 2026-11-30T14:05:00+01:00 --to /root/found /data/shop-storage-vault",
        "what_was_shipped_is_back_on_a_new_host_and_any_moment_of_it_on_the_old_one",
    ),
    ("appliance backup status", "a_host_that_burned_is_back_on_a_new_one"),
    ("appliance backup list", "a_host_that_burned_is_back_on_a_new_one"),
    ("appliance backup verify", "a_host_that_burned_is_back_on_a_new_one"),
    ("appliance backup recover", "a_host_that_burned_is_back_on_a_new_one"),
    (
        "systemctl stop appliance-ship.timer",
        "a_bit_that_flips_in_any_kind_of_file_is_found_and_no_wrong_file_is_handed_out",
    ),
    (
        "systemctl start appliance-ship.timer",
        "a_bit_that_flips_in_any_kind_of_file_is_found_and_no_wrong_file_is_handed_out",
    ),
    (
        "appliance backup adopt --begin-anew",
        "an_empty_host_before_a_filled_repository_waits_for_somebody_to_say_what_is_meant",
    ),
    ("appliance backup adopt", "a_host_that_burned_is_back_on_a_new_one"),
    ("appliance backup restore --database --yes", "a_host_that_burned_is_back_on_a_new_one"),
    (
        "appliance backup restore --files --to /root/found /data/shop-storage-vault",
        "a_host_that_burned_is_back_on_a_new_one",
    ),
];

/// No test runs this: what somebody writes with an editor is theirs. Of `make` only the targets are looked for.
const NOT_RUN: [&str; 1] = ["editor /app/env.yml"];

/// Whether a line of a block is something to type, and not a part of a file.
fn is_command(line: &str) -> bool {
    let programs =
        ["appliance", "systemctl", "journalctl", "docker", "curl", "apt", "vagrant", "editor", "psql", "make"];
    line.split(' ').next().is_some_and(|word| programs.contains(&word))
}

fn texts() -> Vec<(PathBuf, String)> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let docs = std::fs::read_dir(root.join("docs")).expect("there are docs");
    let mut paths: Vec<PathBuf> = docs.map(|entry| entry.expect("it can be listed").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    paths.push(root.join("README.md"));
    paths.into_iter().map(|path| (path.clone(), std::fs::read_to_string(path).expect("it can be read"))).collect()
}

/// The commands of the blocks, without what is said about them.
fn in_blocks() -> BTreeSet<String> {
    let blocks = texts();
    let lines = blocks.iter().flat_map(|(_, text)| text.lines().filter_map(|line| line.strip_prefix("    ")));
    lines
        .map(|line| line.split("  #").next().unwrap_or(line).split(" # ").next().unwrap_or(line).trim().to_owned())
        .filter(|line| is_command(line))
        .collect()
}

/// Commands in the middle of a sentence: what of them stands before a `[` or an ellipsis.
fn in_sentences() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (_, text) in texts() {
        for span in text.split('`').skip(1).step_by(2).filter(|span| span.starts_with("appliance ")) {
            let words = span.split_whitespace().take_while(|word| !word.starts_with('[') && !word.contains('…'));
            found.insert(words.collect::<Vec<_>>().join(" ").replace("COMMIT", &"0".repeat(40)));
        }
    }
    found
}

#[test]
fn every_command_of_the_docs_does_what_they_say() {
    let machine = Machine::boot("documented");
    start_notes(&machine, "v1");
    wait_for_phase(&machine, "running");
    machine.ok("mkdir /root/here; printf 'app:\\n  name: shop\\n' > /root/here/more.yml");
    let mut ran = BTreeSet::new();
    let mut run = |command: &str| {
        ran.insert(command.to_owned());
        machine.ok(&format!("cd /root/here; {command}"))
    };

    // env.md: a new env, and the example as it stands there.
    run("appliance env create app.example.org env.yml");
    machine.ok("rm /root/here/env.yml");
    run("appliance env create app.example.org env.yml --extra more.yml");
    run("appliance env package env.yml");
    let (_, text) = texts().into_iter().find(|(path, _)| path.ends_with("env.md")).expect("there is env.md");
    let block =
        text.lines().skip_while(|line| *line != "    #cloud-config").take_while(|line| line.starts_with("    "));
    let example: String = block.map(|line| format!("{}\n", &line[4..])).collect();
    machine.put(
        "/root/here/small.yml",
        example.replace("AAAA…", "AAAAC3NzaC1lZDI1NTE5AAAAIJ5yR2n0pVcwn2b1v0pH0aKxGQ0kYcqhZ3yq1m0tZb1J"),
        0o600,
    );
    machine.ok("appliance env check /root/here/small.yml");

    // A day without trouble.
    run("systemctl start appliance");
    assert!(run("appliance status").contains("running"));
    for command in ["appliance ps", "appliance top web", "appliance exec web -- ls", "appliance env diff"] {
        run(command);
    }
    for command in
        ["appliance env check", "appliance plan", "appliance apply", "appliance prepare", "appliance plan --stack"]
    {
        run(command);
    }
    run("appliance cert show");
    run("appliance cert ca init");
    run("appliance cert ca issue 'Eva Groß' --email eva@example.org --out eva.p12");
    assert!(run("appliance cert ca list").contains("Eva Groß"));
    run("appliance cert ca revoke 'Eva Groß'");
    run("appliance postgres show");
    assert_eq!(run("appliance alert list"), "nothing is wrong\n");
    assert!(run("appliance alert rules").contains("disk.full"));

    // It has failed.
    machine.sh("echo 'it died too often' > /run/appliance-failed; systemctl restart appliance");
    wait_for_end(&machine, "failed", 4);
    assert!(machine.sh("appliance status").all().contains("it died too often"));
    run("appliance logs web --tail 50");
    assert!(run("journalctl -u appliance-supervisor --since -1h").contains("it died too often"));
    run("appliance recover --start");
    wait_for_phase(&machine, "running");

    // A version that is no good, and a better one.
    keep_note(&machine, "before");
    machine.ok("runuser -u app -- git -C /srv/notes.git branch -f v1 v2");
    run("appliance update");
    assert_eq!(version(&machine), "v2");
    assert!(run("appliance releases").lines().count() > 2, "both, below a heading");
    run("appliance rollback");
    assert_eq!(version(&machine), "v1");

    // An env that is no good.
    machine.ok("sed -i 's/KEY=.*/KEY=other/' /app/env.yml; systemctl restart appliance");
    wait_for_phase(&machine, "running");
    run("appliance env history");
    run("appliance env undo");
    run("systemctl restart appliance");
    wait_for_phase(&machine, "running");
    assert!(machine.get("/app/env.yml").contains(&format!("KEY={}", CANARIES[0])));

    // Data were deleted.
    let dump = run("appliance database dump");
    let named = "/data/shop-pgdump/shop-20261126-040000.pgdump";
    machine.ok(&format!("mkdir -p /data/shop-pgdump && cp '{}' {named}", dump.lines().last().unwrap_or_default()));
    keep_note(&machine, "after");
    run(&format!("appliance database restore {named} --yes"));
    wait_for_phase(&machine, "running");
    assert_eq!(notes(&machine), ["before"]);
    // A dump that was kept elsewhere.
    keep_note(&machine, "again");
    machine.ok(&format!("cp {named} /root/shop.pgdump"));
    run("appliance database restore /root/shop.pgdump --yes");
    wait_for_phase(&machine, "running");
    assert_eq!(notes(&machine), ["before"]);

    // Disks, Docker.
    run("appliance plan --step storage");
    run("docker system df");
    run("journalctl --vacuum-size=200M");
    run("systemctl stop appliance");
    run("systemctl start appliance");
    wait_for_phase(&machine, "running");

    // Nothing in the docs was forgotten, and nothing here is left over from what the docs said once.
    let sources: String = ["booted", "vm"]
        .iter()
        .flat_map(|part| {
            std::fs::read_dir(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests").join(part))
                .expect("there are tests")
        })
        .map(|entry| entry.expect("it can be listed").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .map(|path| std::fs::read_to_string(path).expect("it can be read"))
        .collect();
    for (command, test) in ELSEWHERE {
        assert!(sources.contains(&format!("fn {test}()")), "{command}: there is no test {test}");
    }
    let makefile = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/Makefile")).expect("it can be read");
    let is_target = |command: &str| {
        let target = command.strip_prefix("make ");
        target.is_some_and(|target| makefile.contains(&format!("\n{}:", target.split(' ').next().unwrap_or(target))))
    };
    let known = |command: &String| {
        ran.contains(command)
            || NOT_RUN.contains(&command.as_str())
            || is_target(command)
            || ELSEWHERE.iter().any(|(elsewhere, _)| elsewhere == command)
    };
    let told = in_blocks();
    let forgotten: Vec<&String> = told.iter().filter(|command| !known(command)).collect();
    assert!(forgotten.is_empty(), "in the docs, and run by no test: {forgotten:#?}");
    let sentences = in_sentences();
    let old: Vec<&String> =
        ran.iter().filter(|command| !told.contains(*command) && !sentences.contains(*command)).collect();
    assert!(old.is_empty(), "run here, and not in the docs: {old:#?}");
    for (command, _) in ELSEWHERE {
        assert!(told.contains(command), "not in the docs: {command}");
    }
    // What is only spoken of is understood at least.
    for command in sentences {
        let out = machine.sh(&format!("{command} --help"));
        assert!(out.code == 0 && out.stdout.contains("Usage:"), "{command}: {}", out.all());
    }
}
