//! env.yml files as an ECS-Appliance had them (2016 to 2021), written by its documented keys: they load as they are, what
//! is said of them are warnings, and the variables that its scripts lived by have the values that they had.
#![allow(clippy::disallowed_methods)] // The house's door is for the house; tests run the program from outside.

use std::process::{Command, Output};

fn appliance(path: &str, args: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_appliance");
    Command::new(program).env("ENV_YML", path).args(args).output().expect("the program can be run")
}

#[test]
fn every_old_env_loads_as_it_is() {
    let mut count = 0;
    insta::glob!("old/*.yml", |path| {
        count += 1;
        let path = path.display().to_string();
        let checked = appliance(&path, &["env", "check"]);
        let directory = path.rsplit_once('/').expect("the path is absolute").0.to_owned();
        let warnings =
            String::from_utf8(checked.stderr).expect("messages are UTF-8").replace(&format!("{directory}/"), "");
        assert_eq!(checked.status.code(), Some(0), "{warnings}");
        let shown = appliance(&path, &["env", "show", "--format", "export", "appliance,ecs"]);
        assert_eq!(shown.status.code(), Some(0), "{}", String::from_utf8_lossy(&shown.stderr));
        let variables = String::from_utf8(shown.stdout).expect("variables are UTF-8");
        insta::assert_snapshot!(format!("{warnings}\n{variables}"));
    });
    assert!(count >= 4, "there are {count} files");
}

/// What the old program's scripts read, by hand: the rule of its flattening (docs/env.md).
#[test]
fn the_variables_of_a_production_host_are_what_they_were() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/old/production.yml");
    let shown = appliance(path, &["env", "show", "--format", "json", "appliance,ecs"]);
    let variables: serde_json::Value = serde_json::from_slice(&shown.stdout).expect("it is JSON");
    for (name, value) in [
        ("APPLIANCE_STANDBY", "false"),
        ("APPLIANCE_SSL_LETSENCRYPT_ENABLED", "true"),
        ("APPLIANCE_SSL_CLIENT_CERTS_MANDATORY", "true"),
        ("APPLIANCE_METRIC_GUI", "true"),
        ("APPLIANCE_METRIC_PGHERO", "no"),
        ("APPLIANCE_EXTRA_PACKAGES_LEN", "2"),
        ("APPLIANCE_EXTRA_PACKAGES_1", "htop"),
        ("APPLIANCE_EXTRA_FILES_0_CONTENT", "# welcome\nto the appliance"),
        ("APPLIANCE_STORAGE_IGNORE_DATA", "false"),
        ("ECS_GIT_BRANCH", "stable"),
        ("ECS_OWN_KEY_NESTED_2_THREE", ""),
        ("ECS_OWN_KEY_NESTED_LEN", "3"),
    ] {
        assert_eq!(variables[name], value, "{name}");
    }
}
