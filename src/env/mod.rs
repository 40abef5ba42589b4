//! What the user wants: one env.yml, read once into checked types, with every problem collected.
//! Finding the file is `source/`; nothing here has effects.

mod app;
mod appliance;
mod appliance_read;
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
mod quote;
pub mod reader;
mod rules;
pub mod schema;
mod setup;
mod ssl;
mod without_effect;
mod words;

pub use app::{Allow, App, AppGit, Binds, GitLocal, Migrate};
pub use appliance::{Appliance, ExtraFile, Metric, StorageWish, Update, is_public_name};
pub use backup::{Backup, BackupMount};
pub use diagnostic::{BrokenFile, Diagnostic, FileKind, Quote, Report, Severity};
pub use gate::{Asks, Probe};

pub use ssl::{OwnPair, Ssl};
pub use words::split_words;

use crate::value::{AbsPath, Calendar, HostPattern, SshKey};
use document::{Node, Place};
use reader::{Fields, Reading};
use sha2::{Digest, Sha256};
use std::collections::HashSet;

/// Where it lies on the host itself.
pub const LOCAL: &str = "/app/env.yml";
/// The largest env.yml that is read, in bytes (docs/env.md).
pub const MAX_BYTES: u64 = 1024 * 1024;

/// A checked env.yml.
#[derive(Debug, Clone)]
pub struct Env {
    pub ssh_authorized: Vec<SshKey>,
    pub ssh_deprecated: Vec<SshKey>,
    pub appliance: Appliance,
    pub app: App,
    /// The whole tree, for the flat variables: old envs carry keys of their own.
    pub root: Node,
    /// Where in the tree the values stand that are certainly no secrets; all others are masked wherever they are shown.
    pub open: HashSet<Place>,
    /// SHA-256 of the file's bytes, in hexadecimal: tells whether two envs are the same.
    pub digest: String,
}

/// What reading an env.yml gave.
#[derive(Debug)]
pub struct Parsed {
    /// The env, if there is no error.
    pub env: Option<Env>,
    /// Every error and warning.
    pub report: Report,
    /// Calendar expressions in it, of which only systemd knows whether it takes them.
    pub calendars: Vec<(Calendar, Spot)>,
    /// A certificate of its own, which can only be judged where its files and the clock are.
    pub own: Option<AskOwn>,
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
                return Parsed { env: None, report, calendars: Vec::new(), own: None };
            }
        };
        let reading = Reading::of_env();
        let env = read(&reading, &root);
        let mut read = reading.finish();
        // The document's parser has seen that it is text.
        let text = std::str::from_utf8(bytes).unwrap_or_default();
        quote::quote_parsed(&mut read.report, text, &root, &read.open);
        let spot = |place: Place| {
            let quote = quote::quotes_of(&[place], text, &root, &read.open).pop().flatten();
            Spot { place, quote }
        };
        let calendars = read.calendars.iter().map(|(place, calendar)| (calendar.clone(), spot(*place))).collect();
        let own = env.as_ref().and_then(|env| {
            let pair = env.appliance.ssl.own.clone()?;
            let (key, certificate) = (spot(pair.key_place), spot(pair.certificate_place));
            let hosts = env.appliance.allowed_hosts.clone();
            let written = env.appliance.extra_files.iter().map(|file| file.path.clone()).collect();
            Some(AskOwn { pair, hosts, written, key, certificate })
        });
        let env = env.filter(|_| !read.report.has_errors()).map(|env| Env {
            digest: digest(bytes),
            open: read.open,
            root,
            ..env
        });
        Parsed { env, report: read.report, calendars, own }
    }
}

fn read(reading: &Reading, root: &Node) -> Option<Env> {
    let fields = Fields::root(reading, root, "a mapping with the keys 'appliance' and 'app' (or 'ecs')")?;
    let key = |reading: &Reading, node: &Node, path: &str| reading.checked::<SshKey>(node, path);
    let ssh_authorized = fields.list("ssh_authorized_keys", key).unwrap_or_default();
    let ssh_deprecated = fields.list("ssh_deprecated_keys", key).unwrap_or_default();
    rules::ssh_keys(&fields, &ssh_authorized, &ssh_deprecated);
    fields.boolean("disable_root");
    let appliance = appliance_read::read(&fields);
    let app = app::read(&fields);
    // Other keys at the top level are cloud-init's.
    without_effect::warn(&fields);
    Some(Env {
        ssh_authorized,
        ssh_deprecated,
        appliance: appliance?,
        app: app?,
        // Known to the caller.
        digest: String::new(),
        open: HashSet::new(),
        root: root.clone(),
    })
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
