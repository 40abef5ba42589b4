//! Compose files as people publish them (`tests/published/`) load, and mean what docker compose v2 takes them for: its resolved form
//! (`config --format json`) is read like a compose file, and both must give the same stack; some of it is compared with the JSON
//! itself, too, so that a form that is misread in both does not go by.
#![allow(clippy::too_many_lines)] // A test tells one story from its beginning to its end.
#![allow(clippy::disallowed_methods)] // Tests run and write what they need.

use appliance::host::{Host, Mode};
use appliance::stack::model::{Condition, Dependency, Network, Published, Source, Stack};
use appliance::stack::{self, Rules, Service};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

const NAMES: [&str; 4] = ["compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml"];

/// Projects as people publish them, and small ones with what was once read wrongly.
const ROOTS: [&str; 2] = ["tests/published", "tests/inputs"];

/// `make tools` unpacks it there.
fn docker_compose() -> PathBuf {
    let tool = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("target/tools/compose/usr/libexec/docker/cli-plugins/docker-compose");
    assert!(tool.exists(), "{} is missing; run: make tools", tool.display());
    tool
}

/// The main file of each project.
fn projects() -> Vec<PathBuf> {
    let roots = ROOTS.map(|root| Path::new(env!("CARGO_MANIFEST_DIR")).join(root));
    let entries = roots.iter().flat_map(|root| std::fs::read_dir(root).expect("the directory is there"));
    let mut found: Vec<PathBuf> = entries
        .map(|entry| entry.expect("it can be read").path())
        .map(|project| {
            let mut files = NAMES.iter().map(|name| project.join(name));
            files.find(|file| file.exists()).unwrap_or_else(|| panic!("no compose file in {}", project.display()))
        })
        .collect();
    found.sort();
    found
}

fn ours(path: &Path, neighbours: bool) -> Result<Stack, String> {
    let name = "published".parse().expect("it is a name");
    let path = path.display().to_string();
    stack::read(&name, &path, neighbours, Rules::none(), BTreeMap::new(), &Host::system(Mode::Check))
        .map_err(|error| format!("{error:#}"))
}

/// What compose makes of a project, as text.
fn theirs(directory: &Path) -> String {
    let output = Command::new(docker_compose())
        .args(["-p", "published", "config", "--format", "json"])
        .current_dir(directory)
        .env_clear()
        .env("PATH", std::env::var("PATH").unwrap_or_default())
        .env("HOME", "/root")
        .output()
        .expect("it can be run");
    assert!(output.status.success(), "{}: {}", directory.display(), String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("JSON is UTF-8")
}

/// A service without what the two forms cannot have in common.
fn comparable(service: &Service) -> Service {
    let mut service = service.clone();
    // Compose reads them into the environment, as we do; after that only we still know of them.
    service.env_files.clear();
    // Compose prints a command that its file cuts off as what is left of it.
    service.build.iter_mut().for_each(|build| build.tags.sort());
    // Compose writes down the dependencies that follow from links and shared namespaces; ours are computed where they are needed.
    let implied: Vec<_> = service.links.iter().map(|link| &link.service).chain(service.shared()).cloned().collect();
    service.depends_on.retain(|needed| !(implied.contains(&needed.service) && is_plain(needed)));
    service.depends_on.sort_by(|a, b| a.service.cmp(&b.service));
    service.options.extra_hosts.sort();
    // The words of the file, which are for printing.
    service.written = Default::default();
    service
}

/// What compose itself does not print as it reads it (docs/stack.md lists these): the project, and its printed text with that put back.
fn restored(project: &str, text: &str) -> String {
    match project {
        // A limit of 0 is printed as nothing.
        "git-gitlab" => text.replace("\"core\": {}", "\"core\": 0"),
        // `create_host_path: false` is printed as nothing, and nothing means true.
        "mail-dms" => {
            text.replace("\"propagation\": \"rslave\"", "\"propagation\": \"rslave\", \"create_host_path\": false")
        }
        // The address driver's options are read and dropped.
        "dns-adguard" => text.replace(
            "\"ipam\": {\n        \"driver\"",
            "\"ipam\": {\"options\": {\"foo\": \"bar\"},\n        \"driver\"",
        ),
        // What an empty text leaves unset is printed without its default, which `up` puts in.
        "19-empty-by-a-variable" => {
            let mut json: Value = serde_json::from_str(text).expect("it prints JSON");
            json["services"]["web"]["networks"] = serde_json::json!({"default": null});
            json["services"]["web"]["build"]["dockerfile"] = "Dockerfile".into();
            json["volumes"]["store"]["name"] = "published_store".into();
            json["networks"] = serde_json::json!({"default": {"name": "published_default", "ipam": {}}});
            json.to_string()
        }
        _ => text.to_owned(),
    }
}

/// What compose prints though nothing comes of it, here or there.
fn without_what_has_no_effect(text: &str) -> String {
    let mut json: Value = serde_json::from_str(text).expect("it prints JSON");
    for service in json["services"].as_object_mut().into_iter().flat_map(|all| all.values_mut()) {
        let service = service.as_object_mut().expect("a service is a mapping");
        // The container has the host's own ports.
        if service.get("network_mode") == Some(&Value::from("host")) {
            service.remove("ports");
        }
        // Port 0 is any port.
        for port in service.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
            if port["published"] == "0" {
                port.as_object_mut().expect("a port is a mapping").remove("published");
            }
        }
    }
    serde_json::to_string_pretty(&json).expect("it was JSON")
}

/// Where two values differ, and what stands there.
fn unequal(one: &Value, other: &Value, path: String) -> Vec<(String, Value, Value)> {
    match (one, other) {
        (Value::Object(a), Value::Object(b)) => {
            let names = a.keys().chain(b.keys()).collect::<std::collections::BTreeSet<_>>();
            let each = |name: &String| unequal(&one[name], &other[name], format!("{path}.{name}"));
            // `null` is not the same as nothing.
            let missing = |name: &String| a.contains_key(name) != b.contains_key(name);
            names
                .into_iter()
                .flat_map(|name| match missing(name) {
                    true => vec![(format!("{path}.{name}"), one[name].clone(), other[name].clone())],
                    false => each(name),
                })
                .collect()
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            let pairs = a.iter().zip(b).enumerate();
            pairs.flat_map(|(index, (a, b))| unequal(a, b, format!("{path}.{index}"))).collect()
        }
        _ if one == other => Vec::new(),
        _ => vec![(path, one.clone(), other.clone())],
    }
}

fn is_plain(needed: &Dependency) -> bool {
    needed.condition == Condition::Started && needed.required
}

/// What differs between two stacks, by service.
fn differences(one: &Stack, other: &Stack) -> Vec<String> {
    let names = |stack: &Stack| -> Vec<String> {
        let mut names: Vec<String> = stack.services.iter().map(|service| service.name.to_string()).collect();
        names.sort();
        names
    };
    let mut found = Vec::new();
    if names(one) != names(other) {
        found.push(format!("services: {:?} and {:?}", names(one), names(other)));
    }
    for service in &one.services {
        let Some(same) = other.service(service.name.as_str()) else { continue };
        let (left, right) = (format!("{:#?}", comparable(service)), format!("{:#?}", comparable(same)));
        let only = |one: &str, other: &str| -> Vec<String> {
            let lines: Vec<&str> = other.lines().collect();
            one.lines().filter(|line| !lines.contains(line)).map(|line| line.trim().to_owned()).take(8).collect()
        };
        if left != right {
            let (here, there) = (only(&left, &right), only(&right, &left));
            found.push(format!("{}: only here {here:?}, only there {there:?}", service.name));
        }
    }
    let sorted = |stack: &Stack| {
        let (mut networks, mut volumes) = (stack.networks.clone(), stack.volumes.clone());
        networks.sort_by(|a, b| a.key.cmp(&b.key));
        volumes.sort_by(|a, b| a.key.cmp(&b.key));
        format!("{networks:?} {volumes:?}")
    };
    if sorted(one) != sorted(other) {
        found.push(format!("networks or volumes:\n{}\n{}", sorted(one), sorted(other)));
    }
    found
}

/// What the JSON itself says of a service, against our model.
fn against_json(service: &Service, json: &Value) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut check = |what: &str, ours: Value, theirs: &Value| {
        if ours != *theirs && !(ours.is_null() && theirs.is_null()) {
            wrong.push(format!("{}.{what}: {ours} and {theirs}", service.name));
        }
    };
    check("image", service.image.clone().into(), &json["image"]);
    // Compose writes what it prints so that it could be read again.
    let words = |words: &Option<Vec<String>>| {
        serde_json::json!(
            words.as_ref().map(|words| words.iter().map(|word| word.replace('$', "$$")).collect::<Vec<_>>())
        )
    };
    check("command", words(&service.command), &json["command"]);
    check("entrypoint", words(&service.options.entrypoint), &json["entrypoint"]);
    let environment: BTreeMap<&String, String> =
        service.environment.iter().map(|(name, value)| (name, value.replace('$', "$$"))).collect();
    let theirs: BTreeMap<String, String> = json["environment"]
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
        .collect();
    check("environment", serde_json::json!(environment), &serde_json::json!(theirs));
    let ports = service.ports.iter().map(|port| port.target).collect::<Vec<_>>();
    let targets: Vec<Value> =
        json["ports"].as_array().into_iter().flatten().map(|port| port["target"].clone()).collect();
    check("ports", serde_json::json!(ports), &serde_json::json!(targets));
    let volume = |volume: &Value| volume["type"] != "tmpfs";
    let targets: Vec<Value> =
        json["volumes"].as_array().into_iter().flatten().filter(|v| volume(v)).map(|v| v["target"].clone()).collect();
    check(
        "volumes",
        serde_json::json!(service.mounts.iter().map(|mount| &mount.target).collect::<Vec<_>>()),
        &serde_json::json!(targets),
    );
    for (mount, theirs) in
        service.mounts.iter().zip(json["volumes"].as_array().into_iter().flatten().filter(|v| volume(v)))
    {
        match &mount.source {
            Source::Path(path) => {
                // Both mean the same directory.
                let theirs =
                    theirs["source"].as_str().map(|path| if path == "/" { path } else { path.trim_end_matches('/') });
                check("volumes.source", path.clone().into(), &theirs.into());
            }
            Source::Volume(name) => check("volumes.source", name.clone().into(), &theirs["source"]),
            Source::Anonymous => check("volumes.source", Value::Null, &theirs["source"]),
        }
        check("volumes.read_only", mount.read_only.into(), &theirs["read_only"].as_bool().unwrap_or(false).into());
    }
    if let Network::Joined(joined) = &service.network {
        let mut names: Vec<&String> = joined.iter().map(|joined| &joined.network).collect();
        names.sort();
        let mut theirs: Vec<&String> =
            json["networks"].as_object().into_iter().flatten().map(|(name, _)| name).collect();
        theirs.sort();
        check("networks", serde_json::json!(names), &serde_json::json!(theirs));
    }
    // Each as compose writes it, where it writes it.
    let published: Vec<Value> = service
        .ports
        .iter()
        .map(|port| match port.published {
            Published::Any => Value::Null,
            Published::Fixed(number) => number.to_string().into(),
            Published::Range(first, last) => format!("{first}-{last}").into(),
        })
        .collect();
    let theirs: Vec<Value> =
        json["ports"].as_array().into_iter().flatten().map(|port| port["published"].clone()).collect();
    check("ports.published", published.into(), &theirs.into());
    let addresses: Vec<Value> =
        service.ports.iter().map(|port| port.address.map(|address| address.to_string()).into()).collect();
    let theirs: Vec<Value> =
        json["ports"].as_array().into_iter().flatten().map(|port| port["host_ip"].clone()).collect();
    check("ports.host_ip", addresses.into(), &theirs.into());
    check("container_name", service.container_name.clone().into(), &json["container_name"]);
    let labels: BTreeMap<&String, String> =
        service.labels.iter().map(|(name, value)| (name, value.replace('$', "$$"))).collect();
    let theirs = if json["labels"].is_null() { serde_json::json!({}) } else { json["labels"].clone() };
    check("labels", serde_json::json!(labels), &theirs);
    if let (Some(test), Some(theirs)) = (service.healthcheck.as_ref(), json["healthcheck"]["test"].as_array())
        && json["healthcheck"]["disable"] != true
    {
        let ours: Vec<String> = test.test.iter().map(|word| word.replace('$', "$$")).collect();
        check("healthcheck.test", serde_json::json!(ours), &theirs.clone().into());
    }
    let number = |value: &Value| value.as_str().and_then(|text| text.parse::<i64>().ok());
    if let Some(limit) = number(&json["mem_limit"]) {
        check("mem_limit", service.mem_limit.into(), &limit.into());
    }
    wrong
}

#[test]
fn every_published_file_means_what_compose_takes_it_for() {
    let all = projects();
    assert!(all.len() >= 40, "there are {} projects", all.len());
    let mut wrong = Vec::new();
    for file in &all {
        let directory = file.parent().expect("a file has a directory");
        let name = directory.file_name().expect("it has a name").to_string_lossy().into_owned();
        let mine = match ours(file, true) {
            Ok(stack) => stack,
            Err(error) => {
                wrong.push(format!("{name}: {error}"));
                continue;
            }
        };
        let text = without_what_has_no_effect(&restored(&name, &theirs(directory)));
        // Beside the files, so that relative paths and `.env` are the same.
        let resolved = tempfile::Builder::new().prefix(".resolved-").suffix(".json").tempfile_in(directory);
        let resolved = resolved.expect("a file can be written");
        std::fs::write(resolved.path(), &text).expect("it can be written");
        match ours(resolved.path(), false) {
            Ok(back) => wrong.extend(differences(&mine, &back).into_iter().map(|found| format!("{name}: {found}"))),
            Err(error) => wrong.push(format!("{name}: what compose printed: {error}")),
        }
        let json: Value = serde_json::from_str(&text).expect("it prints JSON");
        let printed = appliance::stack::compose::print::project(&mine);
        for (path, ours, theirs) in unequal(&printed, &json, String::new()) {
            wrong.push(format!("{name}: printed {path}: {ours} and {theirs}"));
        }
        for service in &mine.services {
            let theirs = &json["services"][service.name.as_str()];
            wrong.extend(against_json(service, theirs).into_iter().map(|found| format!("{name}: {found}")));
        }
    }
    assert!(wrong.is_empty(), "{} differences in {} projects:\n{}", wrong.len(), all.len(), wrong.join("\n"));
}

/// A project of more files than people used to write, and one of more than are read.
#[test]
fn many_files_are_read_and_too_many_are_told_once() {
    let directory = tempfile::tempdir().expect("it can be made");
    let write =
        |name: &str, text: String| std::fs::write(directory.path().join(name), text).expect("it can be written");
    for (count, is_good) in [(300, true), (1100, false)] {
        let names: Vec<String> = (0..count).map(|n| format!("s{n}.yaml")).collect();
        for (n, name) in names.iter().enumerate() {
            write(name, format!("services: {{s{n}: {{image: demo/s}}}}\n"));
        }
        write("compose.yaml", format!("include: [{}]\n", names.join(", ")));
        match ours(&directory.path().join("compose.yaml"), true) {
            Ok(stack) => assert!(is_good && stack.services.len() == count),
            Err(error) => assert!(!is_good && error.matches("more than 1000 files").count() == 1, "{error}"),
        }
    }
}

/// What somebody who writes a compose file does on any machine.
#[test]
fn a_file_is_tried_from_the_command_line() {
    let directory = tempfile::tempdir().expect("it can be made");
    let run = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_appliance"))
            .args(args)
            .current_dir(directory.path())
            .env_clear()
            .env("TAG", "7")
            .output()
            .expect("it can be run");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("it prints text");
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let (code, _, said) = run(&["compose", "check"]);
    assert!(code == Some(1) && said.contains("there is no compose file here"), "{said}");
    let write = |text: &str| std::fs::write(directory.path().join("compose.yaml"), text).expect("it can be written");
    write("services: {web: {image: 'demo/web:${TAG}'}}\n");
    let (code, printed, _) = run(&["compose", "config", "--format", "json", "-p", "shop"]);
    let json: Value = serde_json::from_str(&printed).expect("it prints JSON");
    assert_eq!(
        (code, &json["services"]["web"]["image"], &json["name"]),
        (Some(0), &"demo/web:7".into(), &"shop".into())
    );
    let (code, printed, _) = run(&["compose", "config"]);
    assert!(code == Some(0) && printed.contains("image: demo/web:7"), "{printed}");
    write("services:\n  web: {image: x, blkio_config: {}, restart: sometimes}\n");
    let (code, _, said) = run(&["compose", "check"]);
    let places = ["compose.yaml:2:19: error: 'services.web.blkio_config'", "'services.web.restart' is 'sometimes'"];
    assert!(code == Some(1) && places.iter().all(|place| said.contains(place)), "{said}");
}
