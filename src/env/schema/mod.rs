//! The JSON Schema of env.yml, for editors: keys, types and what they mean (docs/env.md). The appliance itself
//! does not judge by it: `env check` knows more rules. A test holds that both know the same keys.
#![allow(dead_code)] // These types are never made; they are only described.

mod app;
mod words;

use app::{App, Ecs, OneOfSeveral};
use schemars::JsonSchema;
use std::collections::BTreeMap;
use words::*;

/// The schema as JSON text.
///
/// # Errors
/// It cannot be rendered, which no input can bring about.
pub fn text() -> serde_json::Result<String> {
    Ok(format!("{}\n", serde_json::to_string_pretty(&schemars::schema_for!(EnvYml))?))
}

/// One file that says what a host is to be. Other keys at the top level are cloud-init's.
#[derive(JsonSchema)]
#[schemars(title = "env.yml", extend("oneOf" = [{"required": ["app"]}, {"required": ["ecs"]}, {"required": ["apps"]}]))]
struct EnvYml {
    /// Public keys that may log in as root and app.
    ssh_authorized_keys: Option<Vec<String>>,
    /// Public keys that are taken out of root's and app's authorized_keys.
    ssh_deprecated_keys: Option<Vec<String>>,
    /// For cloud-init; the appliance expects that root can log in.
    disable_root: Option<Boolean>,
    /// The host.
    appliance: Appliance,
    /// The app that the host runs.
    app: Option<App>,
    /// The same as app, named ecs, with ECS's own defaults.
    ecs: Option<Ecs>,
    /// Several apps, in the place of app or ecs.
    #[schemars(length(min = 1, max = 50))]
    apps: Option<Vec<OneOfSeveral>>,
}

#[derive(JsonSchema)]
struct Appliance {
    /// Start nothing (default false).
    standby: Option<Boolean>,
    /// The host's name: certificate, nginx.
    domain: DomainName,
    /// Names that nginx answers for: separated by spaces, or a list (default: the domain).
    allowed_hosts: Option<Words>,
    ssl: Option<Ssl>,
    sentry: Option<Sentry>,
    alert: Option<Alert>,
    metric: Option<Metric>,
    /// Not used any more: the appliance comes as a package.
    #[schemars(extend("deprecated" = true))]
    git: Option<OldGit>,
    extra: Option<Extra>,
    update: Option<Update>,
    storage: Option<Storage>,
    dkim: Option<Dkim>,
    backup: Option<Backup>,
}

/// Who is told of what is wrong.
#[derive(JsonSchema)]
struct Alert {
    mail: Option<AlertMail>,
    #[schemars(length(max = 10))]
    webhooks: Option<Vec<Webhook>>,
    /// The URL of a dead man's switch, which is asked every five minutes.
    alive: Option<String>,
    /// Other limits for rules, or `off`; `appliance alert rules` lists them.
    rules: Option<BTreeMap<String, Text>>,
}

/// Alerts by mail.
#[derive(JsonSchema)]
struct AlertMail {
    /// One address or several: separated by spaces, or a list.
    to: Words,
    from: String,
    /// The server that takes them: smtp://USER:PASSWORD@HOST:587 (STARTTLS) or smtps://…
    smtp: String,
    /// The least severe that is told (default: all).
    severity: Option<Severity>,
    /// Hours in which only what is critical is told, like 22:00-07:00.
    quiet: Option<String>,
}

#[derive(JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Severity {
    Warning,
    Error,
    Critical,
}

#[derive(JsonSchema)]
#[serde(rename_all = "lowercase")]
enum WebhookFormat {
    Json,
    Slack,
    Discord,
    Teams,
    Ntfy,
}

/// Alerts as HTTP requests.
#[derive(JsonSchema)]
struct Webhook {
    /// What the channel is called.
    name: String,
    url: String,
    /// Each request is signed with it.
    secret: Option<Text>,
    /// How it says what happened (default json).
    format: Option<WebhookFormat>,
    /// The least severe that is told (default: all).
    severity: Option<Severity>,
    /// Hours in which only what is critical is told, like 22:00-07:00.
    quiet: Option<String>,
}

/// Certificates.
#[derive(JsonSchema)]
pub(super) struct Ssl {
    letsencrypt: Option<LetsEncrypt>,
    acme: Option<Acme>,
    /// Only clients with a certificate get in (default false).
    client_certs_mandatory: Option<Boolean>,
    /// Key of a certificate of one's own: PEM text or an absolute path.
    key: Option<Pem>,
    /// A certificate of one's own, with its chain: PEM text or an absolute path.
    cert: Option<Pem>,
}

#[derive(JsonSchema)]
struct LetsEncrypt {
    /// Get a certificate by ACME (default true).
    enabled: Option<Boolean>,
}

/// Another certificate authority than Let's Encrypt.
#[derive(JsonSchema)]
struct Acme {
    /// The address of its directory.
    directory: Option<String>,
    /// Its own root certificate: PEM text or an absolute path.
    ca: Option<Pem>,
    /// A contact for the authority.
    email: Option<String>,
    eab: Option<Binding>,
}

/// External account binding.
#[derive(JsonSchema)]
struct Binding {
    kid: Option<Text>,
    key: Option<Text>,
}

/// Where failures are reported.
#[derive(JsonSchema)]
struct Sentry {
    dsn: Option<String>,
}

/// Parts that measure (all default false).
#[derive(JsonSchema)]
struct Metric {
    exporter: Option<Boolean>,
    server: Option<Boolean>,
    gui: Option<Boolean>,
    pghero: Option<Boolean>,
}

#[derive(JsonSchema)]
struct OldGit {
    source: Option<String>,
    branch: Option<Text>,
    commitid: Option<Text>,
}

#[derive(JsonSchema)]
struct Extra {
    /// Files to write.
    files: Option<Vec<ExtraFile>>,
    /// Debian packages to install.
    packages: Option<Vec<String>>,
    /// A Salt state: not run any more.
    #[schemars(extend("deprecated" = true))]
    states: Option<Text>,
}

#[derive(JsonSchema)]
struct ExtraFile {
    path: Path,
    contents: Option<Text>,
    /// The old name of contents.
    #[schemars(extend("deprecated" = true))]
    content: Option<Text>,
    /// user or user:group (default root).
    owner: Option<Text>,
    /// Octal digits in quotes (default "0644").
    permissions: Option<Mode>,
}

#[derive(JsonSchema)]
struct Update {
    /// Update by a timer (default true).
    automatic: Option<Boolean>,
    /// When, as systemd.time(7) has it (default "*-*-* 06:30:00").
    oncalendar: Option<String>,
    /// Whether an update may reboot the host (default true).
    reboot: Option<Boolean>,
}

#[derive(JsonSchema)]
struct Storage {
    /// Partitions and file systems: a mapping, or a YAML string that holds one.
    setup: Option<Setup>,
    ignore: Option<Ignore>,
    /// Grow the root partition on boot (default false).
    grow_root: Option<Boolean>,
    /// Not used any more.
    #[schemars(extend("deprecated" = true))]
    proxy_cache: Option<Text>,
}

/// File systems that are not asked for.
#[derive(JsonSchema)]
struct Ignore {
    /// The one labelled ecs-volatile (default false).
    volatile: Option<Boolean>,
    /// The one labelled ecs-data (default false).
    data: Option<Boolean>,
}

/// Mail signing.
#[derive(JsonSchema)]
struct Dkim {
    /// An RSA key, PEM text.
    key: Option<String>,
}

#[derive(JsonSchema)]
struct Backup {
    /// Where backups go: file:///…, sftp://…, rest:https://…, s3:…
    url: Option<String>,
    options: Option<Text>,
    mount: Option<Mount>,
    /// The repository's password, 32 random characters or more; or an OpenPGP key, armored, of an old env.
    encrypt: Option<Text>,
    /// When a run is made (default "*-*-* 22:30:00"): a calendar expression of systemd's.
    oncalendar: Option<String>,
    /// How often what was written since is shipped between runs: 5min (the default), 1h, or no.
    continuous: Option<Text>,
    drill: Option<Drill>,
    keep: Option<Keep>,
    /// Asked for after each complete run.
    alive: Option<String>,
    /// Variables of the target's tools: AWS_…, AZURE_…, B2_…, GOOGLE_…, OS_…, RCLONE_…, ST_…
    credentials: Option<serde_json::Map<String, serde_json::Value>>,
    /// Known ssh host keys of the target.
    host_keys: Option<Vec<String>>,
}

/// Trying out whether the newest run can be restored.
#[derive(JsonSchema)]
struct Drill {
    /// Default true.
    enabled: Option<Boolean>,
    /// When (default "Sun *-*-* 03:00:00"): a calendar expression of systemd's.
    oncalendar: Option<String>,
}

/// How many runs are kept: the last one of each of so many days, weeks and months.
#[derive(JsonSchema)]
struct Keep {
    /// Default 14.
    #[schemars(range(min = 0, max = 1000))]
    daily: Option<u16>,
    /// Default 8.
    #[schemars(range(min = 0, max = 1000))]
    weekly: Option<u16>,
    /// Default 12.
    #[schemars(range(min = 0, max = 1000))]
    monthly: Option<u16>,
    /// For how many days one can go back to any moment (default 7).
    #[schemars(range(min = 0, max = 1000))]
    continuous: Option<u16>,
}

/// Mounted before a backup, unmounted after it.
#[derive(JsonSchema)]
struct Mount {
    #[schemars(rename = "type")]
    kind: Option<String>,
    source: String,
    target: Path,
    options: Option<Text>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::asked_for;
    use serde_json::Value;
    use std::collections::BTreeSet;

    fn schema() -> Value {
        serde_json::to_value(schemars::schema_for!(EnvYml)).expect("the schema is JSON")
    }

    /// The paths of all properties, `[]` for the items of a list; mappings themselves are not counted.
    fn paths(schema: &Value, root: &Value, path: &str, into: &mut BTreeSet<String>) {
        let target =
            |reference: &str| root.pointer(reference.trim_start_matches('#')).expect("references lead somewhere");
        if let Some(reference) = schema["$ref"].as_str() {
            return paths(target(reference), root, path, into);
        }
        for part in schema["anyOf"].as_array().into_iter().flatten() {
            paths(part, root, path, into);
        }
        for (key, value) in schema["properties"].as_object().into_iter().flatten() {
            let inner = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            into.insert(inner.clone());
            paths(value, root, &inner, into);
        }
        if schema["items"].is_object() {
            paths(&schema["items"], root, &format!("{path}[]"), into);
        }
    }

    #[test]
    fn schema_and_reader_know_the_same_keys() {
        let mut described = BTreeSet::new();
        let root = schema();
        paths(&root, &root, "", &mut described);
        let text = "appliance: {extra: {files: [{}]}, backup: {mount: {x: 1}}, storage: {setup: {x: 1}}, alert: {mail: {x: 1}, webhooks: [{x: 1}]}}\n";
        let probes = "{gate: [{http: {}}, {tcp: {}}, {command: {}}, {sql: {}}]}";
        let mut read = asked_for(&format!("{text}app: {probes}\n"));
        read.extend(asked_for(&format!("{text}ecs: {probes}\n")));
        read.extend(asked_for(&format!("{text}apps: [{probes}]\n")));
        assert_eq!(described.difference(&read).collect::<Vec<_>>(), Vec::<&String>::new(), "described, but not read");
        assert_eq!(read.difference(&described).collect::<Vec<_>>(), Vec::<&String>::new(), "read, but not described");
    }

    #[test]
    fn the_schema_judges_as_the_check_does() {
        let judge = jsonschema::validator_for(&schema()).expect("the schema is one");
        let value = |text: &str| serde_yaml::from_str::<Value>(text).expect("the text is YAML");
        let app = "app: {name: shop, git: {source: 'git@h.de:x.git'}}\n";
        for good in [
            format!("appliance: {{domain: a.de, standby: No, allowed_hosts: a.de b.de}}\n{app}"),
            format!("appliance: {{domain: a.de, allowed_hosts: [a.de], metric: ~}}\nusers: [x]\n{app}"),
            "appliance: {domain: a.de}\napps: [{name: a, git: {source: /srv/x}}, {name: b, like: a, domain: b.de}]\n"
                .to_owned(),
            "appliance: {domain: a.de, own: 1}\necs: {userswitcher: {enabled: 'off'}}\n".to_owned(),
        ] {
            assert!(judge.is_valid(&value(&good)), "{good}");
            assert!(crate::env::Env::parse(good.as_bytes()).envs.is_some(), "{good}");
        }
        for bad in [
            format!("appliance: {{standby: no}}\n{app}"),
            "appliance: {domain: a.de}\n".to_owned(),
            format!("appliance: {{domain: a.de}}\napps: [{{name: b, git: {{source: /srv/x}}}}]\n{app}"),
            "appliance: {domain: a.de}\napps: []\n".to_owned(),
            format!("appliance: {{domain: a.de}}\necs: {{}}\n{app}"),
            format!("appliance: {{domain: a.de, standby: maybe}}\n{app}"),
            format!("appliance: {{domain: a.de, extra: {{files: [{{path: x, contents: y}}]}}}}\n{app}"),
            "appliance: {domain: a.de}\napp: {name: Shop, git: {source: /srv/x}}\n".to_owned(),
        ] {
            assert!(!judge.is_valid(&value(&bad)), "{bad}");
            assert!(crate::env::Env::parse(bad.as_bytes()).envs.is_none(), "{bad}");
        }
    }
}
