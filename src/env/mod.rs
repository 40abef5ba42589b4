//! What the user wants: one env.yml, read once into checked types, with every problem collected.
//! Finding the file is `source/`; nothing here has effects.

mod app;
mod appliance;
pub mod diagnostic;
pub mod document;
pub mod flat;
pub mod reader;

pub use app::{App, AppGit, GitLocal, Migrate, split_words};
pub use appliance::{Appliance, Backup, BackupMount, CertificateText, ExtraFile, Metric, Ssl, StorageWish, Update};
pub use diagnostic::{BrokenFile, Diagnostic, Report, Severity};

use crate::value::SshKey;
use document::Node;
use reader::{Fields, Reading};
use sha2::{Digest, Sha256};

/// The largest env.yml that is read, in bytes (spec/env.md, "Sources").
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
    /// SHA-256 of the file's bytes, in hexadecimal: tells whether two envs are the same.
    pub digest: String,
}

impl Env {
    /// Reads a whole env.yml. The report holds every error and warning; there is an env only if there is no error.
    pub fn parse(bytes: &[u8]) -> (Option<Env>, Report) {
        let mut report = Report::default();
        let root = match document::parse(bytes, MAX_BYTES) {
            Ok(root) => root,
            Err(diagnostic) => {
                report.push(*diagnostic);
                return (None, report);
            }
        };
        let reading = Reading::default();
        let env = read(&reading, root, bytes);
        let report = reading.into_report();
        if report.has_errors() { (None, report) } else { (env, report) }
    }
}

fn read(reading: &Reading, root: Node, bytes: &[u8]) -> Option<Env> {
    let fields = Fields::root(reading, &root, "a mapping with the keys 'appliance' and 'app' (or 'ecs')")?;
    let key = |reading: &Reading, node: &Node, path: &str| reading.checked::<SshKey>(node, path);
    let ssh_authorized = fields.list("ssh_authorized_keys", key).unwrap_or_default();
    let ssh_deprecated = fields.list("ssh_deprecated_keys", key).unwrap_or_default();
    fields.boolean("disable_root");
    let appliance = appliance::read(&fields);
    let app = app::read(&fields);
    // Other keys at the top level are cloud-init's.
    Some(Env {
        ssh_authorized,
        ssh_deprecated,
        appliance: appliance?,
        app: app?,
        digest: hex(&Sha256::digest(bytes)),
        root: root.clone(),
    })
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
