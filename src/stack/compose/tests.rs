//! Tests of `compose.rs`: what is read, and what is refused by name.

use super::*;

fn read_text(text: &str) -> (Option<Stack>, String) {
    let variables = BTreeMap::from([("TAG".to_owned(), "7".to_owned())]);
    let (stack, report) = of_text(text, &AppName::ecs(), "/app/x/compose.yml", &variables);
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
    assert_eq!(stack.volumes.iter().map(|volume| volume.name.as_str()).collect::<Vec<_>>(), ["ecs_v"]);
    let levels: Vec<Vec<&str>> =
        stack.levels().iter().map(|level| level.iter().map(|s| s.name.as_str()).collect()).collect();
    assert_eq!(levels, [vec!["db.x"], vec!["web"]]);
    assert_eq!(stack.container_name(web, 1), "ecs_web_1");
}

#[test]
fn restart_says_what_follows_an_end_in_both_of_its_ways() {
    for (text, expected) in [
        ("", Restart::Always),
        ("restart: unless-stopped", Restart::Always),
        ("restart: 'no'", Restart::No),
        ("restart: on-failure", Restart::OnFailure(None)),
        ("restart: 'on-failure:3'", Restart::OnFailure(Some(3))),
        ("deploy: {restart_policy: {condition: any}}", Restart::Always),
        ("deploy: {restart_policy: {condition: none}}", Restart::No),
        ("deploy: {restart_policy: {condition: on-failure, max_attempts: 4}}", Restart::OnFailure(Some(4))),
        ("deploy: {restart_policy: {condition: on-failure, max_attempts: 0}}", Restart::OnFailure(None)),
    ] {
        let stack = good(&format!("services:\n  a:\n    image: x\n    {text}\n"));
        assert_eq!(stack.services[0].restart, expected, "{text}");
    }
}

#[test]
fn what_is_not_carried_out_is_refused_by_name_and_place() {
    for (text, expected) in [
        (
            "services:\n  a:\n    image: x\n    blkio_config: {weight: 1}\n",
            "c:4:5: error: 'services.a.blkio_config' is not supported",
        ),
        ("services:\n  a: {image: x}\nnetworks: {n: {scope: x}}\n", "'networks.n.scope' is not supported"),
        ("services:\n  a: {image: x}\nmodels: {m: }\n", "'models' is not supported"),
        (
            "services:\n  a:\n    image: x\n    network_mode: stack\n",
            "c:4:19: error: 'services.a.network_mode' is 'stack', but must be bridge, host",
        ),
        (
            "services:\n  a:\n    image: x\n    ports: ['80']\n    network_mode: 'container:b'\n",
            "c:5:19: error: 'services.a' has ports or links, which its network_mode cannot have",
        ),
        ("services:\n  a:\n    image: x\n    imagee: y\n", "did you mean 'image'?"),
        ("services:\n  a:\n    command: x\n", "neither 'image' nor 'build'"),
        ("services:\n  a:\n    image: x\n    depends_on: [b]\n", "depends on b, which is not in the file"),
        ("services:\n  a: {image: x, links: [b]}\n  b: {image: x, depends_on: [a]}\n", "wait for each other: a, b"),
        ("services:\n  a: {image: x, volumes: ['v:/v']}\n", "the volume v, which is not under 'volumes'"),
        ("services:\n  a: {image: x, ports: ['1-3:1-2']}\n", "has ranges of different lengths"),
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

/// Each rule once; what Docker makes of the good ones is seen on a booted host.
#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn options_are_checked_before_docker_sees_them() {
    for (option, expected) in [
        ("hostname: 'a b'", "c:4:15: error: 'services.a.hostname' is 'a b', but must be a host name"),
        ("working_dir: src", "must be an absolute path"),
        ("stop_signal: 'SIG TERM'", "must be a signal like SIGTERM"),
        ("cap_add: [NET_ADMIN, 'a-b']", "'services.a.cap_add' is 'a-b', but must be a capability"),
        ("security_opt: ['seccomp:profile.json']", "profiles in files are not supported"),
        ("devices: [/dev/null:x]", "is not /dev/HOST[:/dev/CONTAINER[:rwm]]"),
        ("devices: ['/dev/a:/dev/b:rx']", "is not /dev/HOST"),
        ("dns: [localhost]", "must be an IP address"),
        ("extra_hosts: [db]", "'db:' is not a name with its address"),
        ("extra_hosts: {db: nowhere}", "'db:nowhere' is not a name with its address"),
        ("ipc: public", "must be host, private, shareable, none, service:NAME or container:NAME"),
        ("pid: 'container:'", "must be host, service:NAME or container:NAME"),
        ("tmpfs: run", "must be an absolute path, with options"),
        ("ulimits: {NOFILE: 1}", "is not a limit's name like nofile"),
        ("ulimits: {nofile: {soft: 1}}", "needs both 'soft' and 'hard'"),
        ("ulimits: {nofile: -2}", "must be a whole number from -1"),
        ("shm_size: much", "is not a size like '512m'"),
        ("memswap_limit: '-2'", "is not a size like '512m'"),
        ("mem_swappiness: 101", "must be a whole number from 0 to 100"),
        ("cpus: none", "must be a number of CPUs like 0.5"),
        ("cpus: '-1'", "must be a number of CPUs like 0.5"),
        ("cpus: NaN", "must be a number of CPUs like 0.5"),
        ("cpuset: all", "must be CPUs like 0-2,4"),
        ("pids_limit: 0x", "must be a whole number"),
        ("oom_score_adj: 2000", "must be a whole number from -1000 to 1000"),
        ("privileged: maybe", "must be true or false"),
        ("deploy: {mode: global}", "'services.a.deploy.mode: global' is not supported"),
        (
            "deploy: {update_config: {order: at-once}}",
            "'services.a.deploy.update_config.order' is 'at-once', but must be stop-first or start-first",
        ),
        ("networks: {default: {link_local_ips: [here]}}", "link_local_ips' must be addresses, not 'here'"),
        ("scale: 2\n    deploy: {replicas: 3}", "conflict"),
        ("scale: 2\n    container_name: x", "cannot have 2 containers of one container_name"),
        ("scale: 2\n    ports: ['80:80']", "only one can publish 80"),
        ("container_name: 'a b'", "which Docker does not take"),
        ("restart: on-failure:x", "must be no, always, on-failure[:COUNT] or unless-stopped"),
        ("pull_policy: sometimes", "must be always, never, missing"),
        ("env_file: [{path: a, format: x}]", "'services.a.env_file.format' is 'x', but must be raw"),
        ("env_file: [{required: no}]", "'services.a.env_file.path' is missing"),
        ("network_mode: host\n    networks: [default]", "cannot stand together"),
        ("network_mode: 'service:b'", "the service a depends on b, which is not in the file"),
        ("networks: [n]", "joins the network n, which is not under 'networks'"),
        ("networks: {default: {ipv4_address: x}}", "must be an IPv4 address"),
        ("networks: {default: {ipv4_address: 10.0.0.2}}", "which has no subnet under 'ipam.config'"),
        ("networks: {default: {aliases: ['a b']}}", "which is not a host name"),
        ("networks: {default: {mac_address: x}}", "'services.a.networks.default.mac_address' is not supported"),
        ("secrets: [s]", "'services.a.secrets' names s, which is not under 'secrets'"),
        ("configs: [{target: /x}]", "'services.a.configs.source' is missing"),
        ("depends_on: {b: {condition: done}}", "must be service_started, service_healthy or"),
        ("expose: ['a']", "'a' is not PORT[/PROTOCOL]"),
        ("build: {context: 'https://a.example/x.git'}", "must be a directory"),
        (
            "build: {additional_contexts: {b: 'https://x.test/y.git'}}",
            "'services.a.build.additional_contexts.b' must be a directory",
        ),
        ("build: {additional_contexts: {b: service:gone}}", "needs the service gone, which is not there"),
        ("build: {ssh: [default]}", "'services.a.build.ssh' is not supported"),
        ("deploy: {resources: {limits: {memory: x}}}", "is not a size like '512m'"),
        ("deploy: {restart_policy: {condition: maybe}}", "must be any, on-failure or none"),
        ("mem_limit: 1m\n    deploy: {resources: {limits: {memory: 2m}}}", "conflict"),
        ("volumes: [{type: bind, target: /a}]", "'services.a.volumes.source' is missing"),
        ("volumes: [{type: bind, source: /a}]", "'services.a.volumes.target' must be an absolute path"),
        ("volumes: [{type: npipe, target: /a}]", "'services.a.volumes.type' must be bind, volume or tmpfs"),
        ("volumes: [{type: volume, source: ./a, target: /a}]", "must be a volume's name"),
        ("volumes: [{type: tmpfs, source: x, target: /a}]", "has no place in a tmpfs"),
        ("volumes: [{type: bind, source: /a, target: /a, recursive: x}]", "is not supported"),
        ("volumes: [{type: bind, source: /a, target: /a, bind: {propagation: up}}]", "must be rprivate"),
        ("volumes: [{type: tmpfs, target: /a, tmpfs: {mode: rw}}]", "must be an octal mode"),
        ("volumes: ['~me/a:/a']", "is not [source:]/target[:mode]"),
        ("platform: linux/riscv64", "'services.a.platform' is 'linux/riscv64', but this host is linux/"),
        ("command: echo $$(date)", "'services.a.command' has a '(' outside of quotes"),
        (
            "build: {dockerfile: x, dockerfile_inline: FROM y}",
            "'dockerfile' and 'dockerfile_inline' cannot stand together",
        ),
        ("volumes: /a", "'services.a.volumes' must be a list"),
        ("logging: {driver: none, format: x}", "'services.a.logging.format' is not supported"),
    ] {
        let (stack, report) = read_text(&format!("services:\n  a:\n    image: x\n    {option}\n"));
        assert!(stack.is_none() && report.contains(expected), "{option}\n{report}");
    }
}

/// What other readers take without a word, and nothing comes of.
#[test]
fn what_has_no_effect_is_said() {
    for (option, expected) in [
        ("network_mode: host\n    ports: ['80']", "'services.a.ports' has no effect"),
        ("deploy: {placement: {constraints: [x]}}", "'services.a.deploy.placement.constraints' has no effect"),
        ("deploy: {restart_policy: {condition: any, max_attempts: 3}}", "max_attempts' has no effect without"),
        ("deploy: {restart_policy: {delay: 5s}}", "'services.a.deploy.restart_policy.delay' has no effect"),
        ("deploy: {update_config: {failure_action: pause}}", "failure_action' has no effect: an update that fails"),
        ("command: a; b", "'services.a.command' ends at ';'"),
    ] {
        let (stack, report) = read_text(&format!("services:\n  a:\n    image: x\n    {option}\n"));
        assert!(stack.is_some() && report.contains("warning") && report.contains(expected), "{option}\n{report}");
    }
}

#[test]
fn a_service_without_options_is_what_it_was() {
    let stack = good("services: {a: {image: x}}\n");
    assert_eq!(stack.services[0].options, crate::stack::options::Options::default());
}
