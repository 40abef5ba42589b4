//! Tests of `compose.rs`: what is read, and what is refused by name.

use super::*;

fn read_text(text: &str) -> (Option<Stack>, String) {
    let variables = BTreeMap::from([("TAG".to_owned(), "7".to_owned())]);
    let (stack, report) = read(text.as_bytes(), 1 << 20, &AppName::ecs(), "/app/x/compose.yml", &variables);
    (stack, report.render("c"))
}

fn good(text: &str) -> Stack {
    let (stack, report) = read_text(text);
    stack.unwrap_or_else(|| panic!("{report}"))
}

#[test]
fn a_service_is_read_whole() {
    let stack = good(
        "version: '2'\nservices:\n  db.x:\n    image: redis:${TAG}\n  web:\n    build: {context: src, args: [A=1, TAG]}\n    \
         command: run 'a b'\n    environment: {X: 1, TAG: }\n    env_file: a.env\n    ports: ['127.0.0.1:80:8080']\n    \
         volumes: ['./d:/d:ro', 'v:/v']\n    links: [db.x:db]\n    depends_on: {db.x: {condition: service_started}}\n    \
         healthcheck: {test: [CMD, x], interval: 2s}\n    mem_limit: 1144m\n    x-mine: 1\nvolumes: {v: }\n",
    );
    let web = stack.service("web").expect("web is there");
    assert_eq!(stack.service("db.x").and_then(|service| service.image.as_deref()), Some("redis:7"));
    let build = web.build.as_ref().expect("web is built");
    assert_eq!((build.context.as_str(), build.args.get("TAG").map(String::as_str)), ("/app/x/src", Some("7")));
    assert_eq!(web.command, Some(vec!["run".into(), "a b".into()]));
    assert_eq!(web.environment.get("TAG").map(String::as_str), Some("7"));
    assert_eq!(web.mem_limit, Some(1144 << 20));
    assert_eq!(stack.volumes, ["v"]);
    let levels: Vec<Vec<&str>> =
        stack.levels().iter().map(|level| level.iter().map(|s| s.name.as_str()).collect()).collect();
    assert_eq!(levels, [vec!["db.x"], vec!["web"]]);
    assert_eq!(stack.container_name(web), "ecs_web_1");
}

#[test]
fn what_is_not_carried_out_is_refused_by_name_and_place() {
    for (text, expected) in [
        (
            "services:\n  a:\n    image: x\n    privileged: true\n",
            "c:4:5: error: 'services.a.privileged' is not carried out",
        ),
        ("services:\n  a: {image: x}\nnetworks: {n: }\n", "'networks' is not carried out"),
        (
            "services:\n  a:\n    image: x\n    network_mode: host\n",
            "'services.a.network_mode: host' is not carried out",
        ),
        ("services:\n  a:\n    image: x\n    imagee: y\n", "did you mean 'image'?"),
        ("services:\n  a:\n    command: x\n", "neither 'image' nor 'build'"),
        ("services:\n  a:\n    image: x\n    depends_on: [b]\n", "depends on b, which is not in the file"),
        ("services:\n  a: {image: x, links: [b]}\n  b: {image: x, depends_on: [a]}\n", "wait for each other: a, b"),
        ("services:\n  a: {image: x, volumes: ['v:/v']}\n", "the volume v, which is not under 'volumes'"),
        ("services:\n  a: {image: x, ports: ['1-2:1-2']}\n", "ranges are not carried out"),
        ("services:\n  a: {image: 'x${NO?must be set}'}\n", "needs the variable NO: must be set"),
        ("services:\n  a: {image: x, healthcheck: {test: [x]}}\n", "must begin with CMD"),
        ("services: {}\n", "there is nothing to run"),
        ("services:\n  'a b': {image: x}\n", "a service's name must be"),
        ("services:\n  a: {image: x, environment: y}\n", "must be a mapping or a list"),
        ("services:\n  a: {image: 'x y'}\n", "is not an image's name"),
    ] {
        let (stack, report) = read_text(text);
        assert!(stack.is_none() && report.contains(expected), "{text}\n{report}");
    }
}

#[test]
fn a_missing_variable_is_a_warning() {
    let (stack, report) = read_text("services: {a: {image: 'x', command: '$NO'}}\n");
    assert!(stack.is_some() && report.contains("the variable NO is not set"), "{report}");
}
