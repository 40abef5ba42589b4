//! Broken env.yml files: each gives its message with line and column, exit 1, and changes nothing.

use crate::host::Machine;
use crate::host::apps::*;

const HEAD: &str = "appliance:\n  domain: a.example.test\n";
const APP: &str = "app:\n  name: notes\n  git: {source: file:///srv/notes.git}\n";

/// A rule, the file that breaks it, where (line:column), and what is said.
fn cases() -> Vec<(&'static str, Vec<u8>, &'static str, &'static str)> {
    let mut all: Vec<(&'static str, Vec<u8>, &'static str, &'static str)> = Vec::new();
    let mut case = |rule, text: String, place, said| all.push((rule, text.into_bytes(), place, said));
    // The text itself.
    case("a tab", format!("appliance:\n\tdomain: a.de\n{APP}"), "2:1", "a tab in the indentation");
    case("duplicate key", format!("{HEAD}  domain: b.de\n{APP}"), "3:3", "'domain' stands here twice");
    case("an open quote", format!("appliance:\n  domain: \"a.de\n{APP}"), ":", "not valid YAML");
    case("an open bracket", format!("{HEAD}  allowed_hosts: [a\n{APP}"), ":", "not valid YAML");
    case("deep nesting", format!("{HEAD}{APP}x: {}", "[".repeat(5000)), "6:", "nested deeper");
    let bomb: String =
        (1..9).map(|i| format!("x{i}: &x{i} [{}]\n", vec![format!("*x{}", i - 1); 9].join(","))).collect();
    case("an alias bomb", format!("x0: &x0 [a,a,a,a,a,a,a,a,a]\n{bomb}{HEAD}{APP}"), ":", "values");
    case("an unknown alias", format!("{HEAD}  standby: *nobody\n{APP}"), "3:", "not valid YAML");
    case("two documents", format!("{HEAD}{APP}---\na: 1\n"), "6:1", "a second YAML document");
    case("a foreign tag", format!("{HEAD}  standby: !!python/name:os.system x\n{APP}"), "3:", "tag");
    case("a NUL in quotes", format!("{HEAD}  allowed_hosts: \"a\\0b\"\n{APP}"), "3:18", "NUL");
    case("a list at the top", "- a\n".to_owned(), "1:1", "must hold a mapping");
    case("nothing at all", String::new(), "1:1", "must hold a mapping");
    // Presence and types.
    case("no domain", format!("appliance:\n  standby: no\n{APP}"), "1:1", "'appliance.domain' is missing");
    case("no app", HEAD.to_owned(), "1:1", "'app' is missing");
    case("app and ecs", format!("{HEAD}{APP}ecs: {{}}\n"), "6:1", "two names for one thing");
    case("no name", format!("{HEAD}app:\n  git: {{source: /srv/a}}\n"), "3:1", "'app.name' is missing");
    case("no source", format!("{HEAD}app:\n  name: notes\n"), "3:1", "'app.git.source' is missing");
    case("a text for a mapping", format!("appliance: yes\n{APP}"), "1:12", "must be a mapping");
    case("a list for a text", format!("appliance:\n  domain: [a.de]\n{APP}"), "2:11", "must be a text");
    case("a word for a boolean", format!("{HEAD}  standby: maybe\n{APP}"), "3:12", "must be true or false");
    case("a text for a list", format!("{HEAD}{APP}ssh_authorized_keys: x\n"), "6:22", "must be a list");
    case(
        "a key without its certificate",
        format!("{HEAD}  ssl:\n    key: /etc/ssl/x.pem\n{APP}"),
        "4:5",
        "go together",
    );
    case(
        "a mount without a target",
        format!("{HEAD}  backup:\n    mount: {{source: /dev/x}}\n{APP}"),
        "4:12",
        "'appliance.backup.mount.target' is missing",
    );
    case(
        "an extra file without contents",
        format!("{HEAD}  extra: {{files: [{{path: /x}}]}}\n{APP}"),
        "3:19",
        "contents' is missing",
    );
    case(
        "a command without its service",
        format!("{HEAD}{APP}  migrate: {{command: x}}\n"),
        "6:13",
        "needs 'app.migrate.service'",
    );
    // Hostile values, one for every key that ends up in a file, a shell, SQL or an argument list.
    case("domain", format!("appliance:\n  domain: 'a.de; include /etc/shadow'\n{APP}"), "2:11", "must be a host name");
    case("domain too long", format!("appliance:\n  domain: {}.de\n{APP}", "a.".repeat(40)), "2:11", "at most 64");
    case("allowed_hosts", format!("{HEAD}  allowed_hosts: ['a.de {{']\n{APP}"), "3:19", "an IP address");
    case(
        "oncalendar",
        format!("{HEAD}  update: {{oncalendar: \"daily\\n[Service]\\nExecStart=/x\"}}\n{APP}"),
        "3:24",
        "calendar",
    );
    case(
        "extra path",
        format!("{HEAD}  extra: {{files: [{{path: /etc/../root/x, contents: y}}]}}\n{APP}"),
        "3:26",
        "absolute path",
    );
    case(
        "extra owner",
        format!("{HEAD}  extra: {{files: [{{path: /x, contents: y, owner: 'a b'}}]}}\n{APP}"),
        "3:50",
        "'user' or 'user:group'",
    );
    case(
        "extra mode",
        format!("{HEAD}  extra: {{files: [{{path: /x, contents: y, permissions: '4755'}}]}}\n{APP}"),
        "3:56",
        "octal",
    );
    case(
        "package",
        format!("{HEAD}  extra: {{packages: ['--allow-unauthenticated']}}\n{APP}"),
        "3:22",
        "Debian package name",
    );
    case("ssh key", format!("{HEAD}{APP}ssh_authorized_keys: ['ssh-rsa AAAA']\n"), "6:23", "public key line");
    case("certificate path", format!("{HEAD}  ssl: {{key: 'relative', cert: /x}}\n{APP}"), "3:14", "absolute path");
    case("dsn", format!("{HEAD}  sentry: {{dsn: 'not a url'}}\n{APP}"), "3:17", "Sentry DSN");
    case("app name", format!("{HEAD}app:\n  name: '../etc'\n  git: {{source: /srv/a}}\n"), "4:9", "lower-case letter");
    case("reserved app name", format!("{HEAD}app:\n  name: postgres\n  git: {{source: /srv/a}}\n"), "4:9", "are taken");
    case(
        "git source",
        format!("{HEAD}app:\n  name: notes\n  git: {{source: 'ext::sh -c x'}}\n"),
        "5:17",
        "a repository",
    );
    case(
        "git branch",
        format!("{HEAD}app:\n  name: notes\n  git: {{source: /srv/a, branch: '--upload-pack=x'}}\n"),
        "5:33",
        "branch or tag",
    );
    case(
        "git commit",
        format!("{HEAD}app:\n  name: notes\n  git: {{source: /srv/a, commitid: '$(id)'}}\n"),
        "5:35",
        "commit id",
    );
    case("database", format!("{HEAD}{APP}  database: template1\n"), "6:13", "PostgreSQL's own");
    case("compose path", format!("{HEAD}{APP}  compose: compose.yml\n"), "6:12", "absolute path");
    case(
        "migrate service",
        format!("{HEAD}{APP}  migrate: {{service: 'a/b', command: x}}\n"),
        "6:22",
        "letters, digits",
    );
    case(
        "migrate command",
        format!("{HEAD}{APP}  migrate: {{service: a, command: \"x 'y\"}}\n"),
        "6:34",
        "quotes closed",
    );
    case("migrate glob", format!("{HEAD}{APP}  migrate: {{when: '[a'}}\n"), "6:19", "a glob");
    case(
        "a wish for safety that is not carried out",
        format!("{HEAD}app:\n  name: notes\n  git: {{source: /srv/a, verify: [x]}}\n"),
        "5:33",
        "not carried out",
    );
    all.push(("bad UTF-8", [HEAD.as_bytes(), b"  standby: \xff\xfe\n"].concat(), "3:12", "not UTF-8"));
    all
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
    assert!(cases.len() >= 30, "{} cases", cases.len());
    let mut wrong = Vec::new();
    for (rule, text, place, said) in &cases {
        machine.put("/root/case.yml", text, 0o600);
        for verb in ["env check", "prepare", "plan"] {
            let out = machine.sh(&format!("ENV_YML=/root/case.yml appliance {verb}"));
            let named = out.stderr.lines().any(|line| {
                line.starts_with(&format!("/root/case.yml:{}", place.trim_start_matches(':'))) && line.contains(said)
            });
            if out.code != 1 || !named {
                wrong.push(format!(
                    "{rule}: {verb} ended with {} and said, for {place} '{said}':\n{}",
                    out.code,
                    out.all()
                ));
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

    // All problems at once, in the order of the file.
    machine.put("/root/case.yml", "appliance:\n  domain: 'a b'\n  standby: 7\napp:\n  name: X\n", 0o600);
    let out = machine.sh("appliance env check /root/case.yml");
    let places: Vec<&str> = out.stderr.lines().filter_map(|line| line.split(": error").next()).collect();
    assert_eq!(places, ["/root/case.yml:2:11", "/root/case.yml:3:12", "/root/case.yml:4:1", "/root/case.yml:5:9"]);

    // A supervisor that starts on a broken env goes on with the active one.
    machine.put("/app/env.yml", "appliance: [\n", 0o600);
    machine.ok("systemctl restart appliance-supervisor");
    wait_for_phase(&machine, "running");
    let text = machine.ok("appliance status");
    assert!(text.contains("the newest env is broken: /app/env.yml:"), "{text}");
    assert_eq!(get(&machine, "/health").0, 200);
}
