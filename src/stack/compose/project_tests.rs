//! Tests of several files that make one project: laid over each other, extended, included; profiles; what is required of the engine.

use super::*;

/// Reads files given as path and text, of which the first `count` are the project's own.
fn read_files(files: &[(&str, &str)], count: usize, variables: &[(&str, &str)]) -> (Option<Stack>, String) {
    let read = |path: &str| {
        let found = files.iter().find(|(name, _)| format!("/p/{name}") == path);
        Ok(found.map(|(_, text)| text.as_bytes().to_vec()))
    };
    let own: Vec<String> = files.iter().take(count).map(|(name, _)| format!("/p/{name}")).collect();
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let project = Project { name: &AppName::ecs(), files: &own, directory: "/p", variables: &variables, read: &read };
    let (stack, report) = super::read(&project);
    (stack, report.render("/p/c.yml"))
}

fn good(files: &[(&str, &str)], count: usize, variables: &[(&str, &str)]) -> Stack {
    let (stack, report) = read_files(files, count, variables);
    stack.unwrap_or_else(|| panic!("{report}"))
}

#[test]
fn a_later_file_lies_over_an_earlier_one() {
    let stack = good(
        &[
            ("c.yml", "services: {web: {image: a, environment: [A=1], ports: ['80:80'], volumes: ['./x:/d']}}\n"),
            ("over.yml", "services: {web: {image: b, environment: {B: 2}, volumes: ['/y:/d']}, db: {image: d}}\n"),
        ],
        2,
        &[],
    );
    let web = stack.service("web").expect("web is there");
    assert_eq!(web.image.as_deref(), Some("b"));
    assert_eq!(web.environment.len(), 2);
    assert_eq!(web.mounts, [Mount::plain(Source::Path("/y".to_owned()), "/d", false)], "one mount at one place");
    assert!(stack.service("db").is_some());
}

#[test]
fn an_error_in_another_file_names_that_file() {
    let files = [("c.yml", "services: {web: {image: a}}\n"), ("over.yml", "services:\n  web:\n    imagee: b\n")];
    let (stack, report) = read_files(&files, 2, &[]);
    assert!(stack.is_none());
    assert!(report.starts_with("/p/over.yml:3:5: error: 'services.web.imagee'"), "{report}");
}

#[test]
fn a_service_extends_one_of_another_file_whose_paths_count_from_there() {
    let stack = good(
        &[
            ("c.yml", "services: {web: {extends: {file: base/b.yml, service: app}, command: y}}\n"),
            (
                "base/b.yml",
                "services:\n  app: {extends: root, environment: [A=$V], volumes: ['./d:/d'], env_file: a.env}\n  root: {image: \
                 r, command: x, init: true}\n",
            ),
        ],
        1,
        &[("V", "v")],
    );
    let web = stack.service("web").expect("web is there");
    assert_eq!((web.image.as_deref(), web.command.clone()), (Some("r"), Some(vec!["y".to_owned()])));
    assert_eq!(web.options.init, Some(true));
    assert_eq!(web.mounts[0].source, Source::Path("/p/base/d".to_owned()));
    assert_eq!(web.env_files[0].path, "/p/base/a.env");
    assert_eq!(stack.services.len(), 1, "what is extended from another file does not run");
    assert!(stack.hidden.contains("v"));
}

#[test]
fn what_is_included_runs_with_its_own_directory_and_variables() {
    let stack = good(
        &[
            (
                "c.yml",
                "include: [db/c.yml, {path: [q/a.yml, q/b.yml], env_file: q.env}]\nservices: {web: {image: w, depends_on: [db]}}\n",
            ),
            ("db/c.yml", "services: {db: {image: 'pg:$TAG', volumes: ['./init:/init', 'v:/v']}}\nvolumes: {v: }\n"),
            ("db/.env", "TAG=15\nOUT=inner\n"),
            ("q/a.yml", "services: {q: {image: '${A}-${OUT}'}}\n"),
            ("q/b.yml", "services: {q: {init: true}}\n"),
            ("q.env", "A=a\n"),
        ],
        1,
        &[("OUT", "outer")],
    );
    let db = stack.service("db").expect("db is there");
    assert_eq!(db.image.as_deref(), Some("pg:15"));
    assert_eq!(db.mounts[0].source, Source::Path("/p/db/init".to_owned()));
    let q = stack.service("q").expect("q is there");
    assert_eq!((q.image.as_deref(), q.options.init), (Some("a-outer"), Some(true)));
}

#[test]
fn what_cannot_be_put_together_is_refused() {
    for (files, expected) in [
        (
            vec![("c.yml", "include: [no.yml]\nservices: {a: {image: x}}\n")],
            "c.yml:1:11: error: there is no file /p/no.yml",
        ),
        (
            vec![("c.yml", "include: [i.yml]\nservices: {a: {image: x}}\n"), ("i.yml", "services: {a: {image: y}}\n")],
            "'services.a' is included, but stands here too",
        ),
        (vec![("c.yml", "include: [c.yml]\nservices: {a: {image: x}}\n")], "include each other more than 16 deep"),
        (vec![("c.yml", "services: {a: {extends: b}, b: {extends: a}}\n")], "these services extend each other: a, b"),
        (vec![("c.yml", "services: {a: {extends: {file: d.yml}}}\n")], "'services.a.extends.service' is missing"),
        (vec![("c.yml", "services: {a: {extends: b}}\n")], "there is no service b in /p/c.yml"),
        (
            vec![("c.yml", "services: {a: {extends: {file: d.yml, service: b}}}\n"), ("d.yml", "services: [\n")],
            "/p/d.yml:2:1: error: this is not valid YAML",
        ),
        (
            vec![("c.yml", "services: {a: {image: x}}\nsecrets: {s: {external: true}}\n")],
            "'secrets.s' needs one of file or environment; external ones exist in a swarm only",
        ),
        (
            vec![("c.yml", "services: {a: {image: x}}\nnetworks: {n: {external: true, driver: bridge}}\n")],
            "'networks.n.external' is external, so it cannot have options here",
        ),
        (
            vec![("c.yml", "services: {a: {image: x}}\nnetworks: {n: {ipam: {config: [{subnet: x}]}}}\n")],
            "'networks.n.ipam.config.subnet' must be a subnet like",
        ),
        (
            vec![("c.yml", "services: {a: {image: x, container_name: n}, b: {image: x, container_name: n}}\n")],
            "the services a and b have one container_name",
        ),
        (
            vec![("c.yml", "services: {a: {image: x, depends_on: [b]}, b: {image: x, profiles: [p]}}\n")],
            "the service a depends on b, which belongs to a profile that is not asked for",
        ),
        (vec![("c.yml", "services: {b: {image: x, profiles: [p]}}\n")], "every service belongs to a profile"),
        (
            vec![("c.yml", "services: {a: {image: x, scale: 2}, b: {image: x, pid: 'service:a'}}\n")],
            "shares a namespace of a, which does not have one container",
        ),
    ] {
        let (stack, report) = read_files(&files, 1, &[]);
        assert!(stack.is_none() && report.contains(expected), "{files:?}\n{report}");
    }
}

#[test]
fn profiles_are_asked_for_by_a_variable() {
    let text = "services:\n  a: {image: x, depends_on: {b: {condition: service_started, required: false}}}\n  b: {image: x, profiles: [p, \
                q]}\n  c: {image: x, profiles: [r]}\n";
    let names = |asked: &str| -> Vec<String> {
        let stack = good(&[("c.yml", text)], 1, &[("COMPOSE_PROFILES", asked)]);
        stack.services.iter().map(|service| service.name.as_str().to_owned()).collect()
    };
    assert_eq!(names(""), ["a"]);
    assert_eq!(names("q,other"), ["a", "b"]);
    assert_eq!(names("*"), ["a", "b", "c"]);
}

#[test]
fn one_shots_run_once_unless_the_file_says_otherwise() {
    let waits =
        "depends_on: {j: {condition: service_completed_successfully}, k: {condition: service_completed_successfully}}";
    let text =
        format!("services: {{j: {{image: x}}, k: {{image: x, restart: on-failure:3}}, a: {{image: x, {waits}}}}}\n");
    let stack = good(&[("c.yml", text.as_str())], 1, &[]);
    let restart = |name| stack.service(name).expect("it is there").restart;
    assert_eq!((restart("j"), restart("k"), restart("a")), (Restart::No, Restart::OnFailure(Some(3)), Restart::Always));
}

#[test]
fn what_a_newer_engine_is_needed_for_is_noted_with_its_place() {
    let text = "services:\n  a:\n    image: x\n    healthcheck:\n      start_interval: 1s\n    volumes:\n      - {type: volume, source: v, \
                target: /v, volume: {subpath: s}}\nvolumes: {v: }\n";
    let needs = good(&[("c.yml", text)], 1, &[]).needs;
    let said: Vec<String> =
        needs.iter().map(|need| format!("{} {} {}.{}", need.at, need.key, need.api.0, need.api.1)).collect();
    assert_eq!(said.len(), 2);
    assert!(said.contains(&"/p/c.yml:5:23 services.a.healthcheck.start_interval 1.44".to_owned()), "{said:?}");
    assert!(said.iter().any(|said| said.ends_with("volume.subpath 1.45")), "{said:?}");
}
