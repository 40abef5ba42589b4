//! Every broken env.yml of `tests/broken/` through the real `appliance env check`: what is said of it is in
//! `tests/snapshots/`. The same files go through `prepare` and `plan` on a booted host (`tests/booted/broken_env.rs`).
#![allow(clippy::disallowed_methods)] // The house's door is for the house; tests run the program from outside.

use std::process::Command;

const DIRECTORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/broken");

fn check(path: &str, more: &[&str]) -> std::process::Output {
    Command::new(env!("CARGO_BIN_EXE_appliance"))
        .args(["env", "check", path])
        .args(more)
        .output()
        .expect("the program can be run")
}

#[test]
fn every_broken_file_is_refused_with_its_place_and_its_line() {
    let mut count = 0;
    insta::glob!("broken/*.yml", |path| {
        count += 1;
        let out = check(&path.display().to_string(), &[]);
        let said =
            String::from_utf8(out.stderr).expect("messages are UTF-8 text").replace(&format!("{DIRECTORY}/"), "");
        assert_eq!(out.status.code(), Some(1), "{}: {said}", path.display());
        assert!(said.contains(": error: ") && !said.contains("panicked"), "{said}");
        assert!(!said.contains("canary"), "a secret is told: {said}");
        insta::assert_snapshot!(said);
    });
    assert!(count >= 80, "there are {count} files");
}

#[test]
fn json_says_the_same_for_editors() {
    let path = format!("{DIRECTORY}/problems-of-every-kind-at-once.yml");
    let (text, json) = (check(&path, &[]), check(&path, &["--json"]));
    assert_eq!((text.status.code(), json.status.code()), (Some(1), Some(1)));
    let told: serde_json::Value = serde_json::from_slice(&json.stdout).expect("it is JSON");
    assert_eq!(told["valid"], false);
    let problems = told["problems"].as_array().expect("a list of problems");
    let lines: Vec<String> = problems
        .iter()
        .map(|problem| {
            let place = format!("{path}:{}:{}", problem["line"], problem["column"]);
            format!(
                "{place}: {}: {}",
                problem["severity"].as_str().unwrap_or("?"),
                problem["message"].as_str().unwrap_or("?")
            )
        })
        .collect();
    let text = String::from_utf8_lossy(&text.stderr).into_owned();
    let plain: Vec<&str> = text.lines().filter(|line| line.starts_with('/')).collect();
    assert_eq!(lines, plain);
    assert!(problems.len() >= 9, "{text}");
}

/// A file is in its place when the program comes, whatever lies there.
#[test]
fn what_is_no_file_at_all_is_said_so() {
    let directory = tempfile::tempdir().expect("a directory can be made");
    let path = |name: &str| directory.path().join(name).display().to_string();
    nix::unistd::mkfifo(&directory.path().join("pipe"), nix::sys::stat::Mode::S_IRWXU).expect("a pipe can be made");
    for (path, said) in
        [(path("none.yml"), "there is no file"), (path(""), "could not read"), (path("pipe"), "must hold a mapping")]
    {
        let out = check(&path, &[]);
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.code() == Some(1) && text.contains(said), "{path}: {text}");
    }
}
