//! What the user wants: one env.yml, read once into checked types, with every problem collected.
//! Finding the file is `source/`; nothing here has effects.

mod alert;
mod app;
mod app_backup;
mod appliance;
mod appliance_read;
mod apps;
mod backup;
pub mod diagnostic;
pub mod diff;
pub mod document;
pub mod flat;
mod forms;
mod gate;
pub mod layout;
mod layout_read;
mod layout_rules;
mod limits;
mod quote;
pub mod reader;
mod rules;
pub mod schema;
mod setup;
mod ssl;
mod without_effect;
mod words;

pub use alert::{Alert, Audience, Mail as AlertMail, Webhook};
pub use app::{Allow, App, AppGit, Binds, GitLocal, Migrate};
pub use app_backup::{AppBackup, Inside};
pub use appliance::{Appliance, ExtraFile, Metric, SentryDsn, StorageWish, Update, is_public_name};
pub use backup::{Backup, BackupMount, BackupUrl, Every, Keep};
pub use diagnostic::{BrokenFile, Diagnostic, FileKind, Quote, Report, Severity};
pub use gate::{Asks, Probe};
pub use limits::Limits;

pub use ssl::{OwnPair, Ssl};
pub use words::split_words;

use crate::value::{AbsPath, AppName, Calendar, DatabaseName, Domain, HostPattern, SshKey, Tenant};
use document::{Node, Place};
use reader::{Fields, Reading};
use sha2::{Digest, Sha256};
use std::collections::HashSet;

/// Where it lies on the host itself.
pub const LOCAL: &str = "/app/env.yml";
/// The largest env.yml that is read, in bytes (docs/env.md).
pub const MAX_BYTES: u64 = 1024 * 1024;

/// A checked env.yml, as one of its apps sees it. What is said of the host is the same for all of them.
#[derive(Debug, Clone)]
pub struct Env {
    pub ssh_authorized: Vec<SshKey>,
    pub ssh_deprecated: Vec<SshKey>,
    /// With the names and the certificate of this app, where it is one of several.
    pub appliance: Appliance,
    pub app: App,
    /// The keys of the app, those that it takes from another one included.
    own: Node,
    /// What the host itself is called.
    pub host_domain: Domain,
    /// Whether it has the host to itself.
    pub tenant: Tenant,
    /// All apps of the host, this one included, in the order of the file.
    pub apps: Vec<Neighbour>,
    /// The whole tree, for the flat variables: old envs carry keys of their own.
    pub root: Node,
    /// Where in the tree the values stand that are certainly no secrets; all others are masked wherever they are shown.
    pub open: HashSet<Place>,
    /// SHA-256, in hexadecimal: tells whether two envs are the same for this app. Of the file's bytes for the app of `app:`, else of what
    /// the file says to this one of several.
    pub digest: String,
    /// SHA-256 of the file's bytes, in hexadecimal.
    pub file_digest: String,
}

/// What an app is told of those that share the host with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbour {
    pub name: AppName,
    pub database: DatabaseName,
    /// As in [`App`].
    pub calendar: Option<Calendar>,
}

/// A checked env.yml, as each of its apps sees it, in the order of the file.
#[derive(Debug, Clone)]
pub struct Envs(Vec<Env>);

impl Envs {
    /// For what belongs to the host: all of them say the same about that.
    pub fn host(&self) -> &Env {
        // There is one at least: an env without an app is none.
        &self.0[0]
    }

    pub fn iter(&self) -> std::slice::Iter<'_, Env> {
        self.0.iter()
    }

    /// What one of them sees, if it is there.
    pub fn of(&self, app: &AppName) -> Option<&Env> {
        self.0.iter().find(|env| env.app.name == *app)
    }

    /// What a supervisor is to look after: the names of all, and which of them are not enabled.
    pub fn roster(&self) -> Vec<String> {
        let line = |env: &Env| match env.app.is_enabled {
            true => env.app.name.as_str().to_owned(),
            false => format!("{} (not enabled)", env.app.name),
        };
        self.0.iter().map(line).collect()
    }

    /// Whether there is one app, which has the host to itself.
    pub fn is_alone(&self) -> bool {
        self.host().tenant.is_alone()
    }
}

/// What reading an env.yml gave.
#[derive(Debug)]
pub struct Parsed {
    /// The env, if there is no error.
    pub envs: Option<Envs>,
    /// Every error and warning.
    pub report: Report,
    /// Calendar expressions in it, of which only systemd knows whether it takes them.
    pub calendars: Vec<(Calendar, Spot)>,
    /// Certificates of its own, which can only be judged where their files and the clock are.
    pub own: Vec<AskOwn>,
}

/// A place and its line, for a problem that is found later.
#[derive(Debug, Clone)]
pub struct Spot {
    pub place: Place,
    pub quote: Option<Quote>,
}

/// A key and certificate of the env's own, to be judged.
#[derive(Debug)]
pub struct AskOwn {
    pub pair: OwnPair,
    /// The key that they stand under, like `appliance.ssl`.
    pub path: String,
    pub hosts: Vec<HostPattern>,
    /// Files that `extra.files` writes before they are needed.
    pub written: Vec<AbsPath>,
    pub key: Spot,
    pub certificate: Spot,
}

impl Env {
    /// Reads a whole env.yml, and finds all of its problems.
    pub fn parse(bytes: &[u8]) -> Parsed {
        let mut report = Report::default();
        let root = match document::parse(bytes, MAX_BYTES) {
            Ok(root) => root,
            Err(diagnostic) => {
                report.push(*diagnostic);
                quote::quote_raw(&mut report, bytes);
                return Parsed { envs: None, report, calendars: Vec::new(), own: Vec::new() };
            }
        };
        let reading = Reading::of_env();
        let envs = read(&reading, &root);
        let mut read = reading.finish();
        // The document's parser has seen that it is text.
        let text = std::str::from_utf8(bytes).unwrap_or_default();
        quote::quote_parsed(&mut read.report, text, &root, &read.open);
        let spot = |place: Place| {
            let quote = quote::quotes_of(&[place], text, &root, &read.open).pop().flatten();
            Spot { place, quote }
        };
        let calendars = read.calendars.iter().map(|(place, calendar)| (calendar.clone(), spot(*place))).collect();
        let own = envs.iter().flatten().filter_map(|env| {
            let pair = env.appliance.ssl.own.clone()?;
            let (key, certificate) = (spot(pair.key_place), spot(pair.certificate_place));
            let hosts = env.appliance.allowed_hosts.clone();
            let written = env.appliance.extra_files.iter().map(|file| file.path.clone()).collect();
            Some(AskOwn { path: pair.path.clone(), pair, hosts, written, key, certificate })
        });
        let own = own.collect();
        let file_digest = digest(bytes);
        let envs = envs.filter(|_| !read.report.has_errors()).map(|envs| {
            let whole = envs.into_iter().map(|env| {
                let env = Env { file_digest: file_digest.clone(), open: read.open.clone(), ..env };
                Env { digest: env.own_digest(), ..env }
            });
            Envs(whole.collect())
        });
        Parsed { envs, report: read.report, calendars, own }
    }

    /// What tells whether the file says something else to this app by now.
    fn own_digest(&self) -> String {
        match flat::for_stack(self) {
            Ok(variables) if !self.tenant.is_alone() => digest(flat::as_export(&variables).as_bytes()),
            _ => self.file_digest.clone(),
        }
    }

    /// The first app's view of a text that is good.
    #[cfg(test)]
    pub fn of_text(text: &str) -> Env {
        let parsed = Env::parse(text.as_bytes());
        parsed.envs.unwrap_or_else(|| panic!("{}", parsed.report.render("t"))).host().clone()
    }
}

/// Reads the whole tree; what each app sees, or `None` where an error was reported.
fn read(reading: &Reading, root: &Node) -> Option<Vec<Env>> {
    let fields = Fields::root(reading, root, "a mapping with the keys 'appliance' and 'app' (or 'ecs', or 'apps')")?;
    let key = |reading: &Reading, node: &Node, path: &str| reading.checked::<SshKey>(node, path);
    let ssh_authorized = fields.list("ssh_authorized_keys", key).unwrap_or_default();
    let ssh_deprecated = fields.list("ssh_deprecated_keys", key).unwrap_or_default();
    rules::ssh_keys(&fields, &ssh_authorized, &ssh_deprecated);
    fields.boolean("disable_root");
    let appliance = appliance_read::read(&fields);
    let (tenant, entries): (fn(AppName) -> Tenant, _) = match apps::is_there(&fields) {
        true => (Tenant::OneOfSeveral, apps::read(&fields, appliance.as_ref())),
        false => {
            let app = app::read(&fields);
            let alone = app.zip(appliance.clone()).map(|(app, appliance)| {
                let own = root.get(app.tree).unwrap_or(root).clone();
                vec![apps::Entry { place: own.place, own, app, appliance }]
            });
            (Tenant::Alone, alone)
        }
    };
    // Other keys at the top level are cloud-init's.
    without_effect::warn(&fields);
    let (host, entries) = appliance.zip(entries)?;
    let neighbour = |entry: &apps::Entry| Neighbour {
        name: entry.app.name.clone(),
        database: entry.app.database.clone(),
        calendar: entry.app.calendar.clone(),
    };
    let apps: Vec<Neighbour> = entries.iter().map(neighbour).collect();
    let views = entries.into_iter().map(|entry| Env {
        ssh_authorized: ssh_authorized.clone(),
        ssh_deprecated: ssh_deprecated.clone(),
        appliance: entry.appliance,
        tenant: tenant(entry.app.name.clone()),
        app: entry.app,
        own: entry.own,
        host_domain: host.domain.clone(),
        apps: apps.clone(),
        root: root.clone(),
        // Known to the caller.
        open: HashSet::new(),
        digest: String::new(),
        file_digest: String::new(),
    });
    Some(views.collect())
}

/// What tells one env.yml from another: SHA-256, in hexadecimal.
pub fn digest(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The path of every key that reading looks for in a text.
#[cfg(test)]
pub(crate) fn asked_for(text: &str) -> std::collections::BTreeSet<String> {
    let root = document::parse(text.as_bytes(), MAX_BYTES).expect("the text is YAML");
    let reading = Reading::of_env();
    read(&reading, &root);
    reading.finish().asked
}
