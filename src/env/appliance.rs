//! The keys under `appliance:` (docs/env.md), read into checked types. What follows from them is elsewhere.

use super::alert::Alert;
use super::backup::Backup;
use super::layout::Layout;
use super::ssl::Ssl;
use crate::value::{AbsPath, Calendar, Domain, FileMode, HostPattern, Invalid, Owner, PackageName, Secret};
use std::str::FromStr;

/// Everything under `appliance:`.
#[derive(Debug, Clone)]
pub struct Appliance {
    pub standby: bool,
    pub domain: Domain,
    /// What nginx answers for; the domain itself is always among them.
    pub allowed_hosts: Vec<HostPattern>,
    pub ssl: Ssl,
    /// Where failures are reported.
    pub sentry_dsn: Option<SentryDsn>,
    /// Who is told of what is wrong.
    pub alert: Alert,
    pub metric: Metric,
    pub extra_files: Vec<ExtraFile>,
    pub extra_packages: Vec<PackageName>,
    pub update: Update,
    pub storage: StorageWish,
    pub dkim_key: Option<Secret>,
    pub backup: Backup,
}

/// A Sentry DSN: `https://PUBLIC_KEY@HOST/PROJECT`.
#[derive(Debug, Clone)]
pub struct SentryDsn(pub Secret);

impl FromStr for SentryDsn {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text.parse::<sentry::types::Dsn>() {
            Ok(_) => Ok(SentryDsn(Secret::new(text))),
            Err(_) => Err(Invalid::new("a Sentry DSN, like 'https://KEY@sentry.example.org/1'")),
        }
    }
}

#[derive(Debug, Clone, Default)]
pub struct Metric {
    pub exporter: bool,
    pub server: bool,
    pub gui: bool,
    pub pghero: bool,
}

/// One of `extra.files`.
#[derive(Debug, Clone)]
pub struct ExtraFile {
    pub path: AbsPath,
    pub contents: Secret,
    pub owner: Option<Owner>,
    pub mode: Option<FileMode>,
}

#[derive(Debug, Clone)]
pub struct Update {
    pub automatic: bool,
    pub oncalendar: Calendar,
    pub reboot: bool,
}

#[derive(Debug, Clone, Default)]
pub struct StorageWish {
    /// The layout that is made where a volume is missing.
    pub setup: Option<Layout>,
    pub ignore_volatile: bool,
    pub ignore_data: bool,
    pub grow_root: bool,
}

/// Whether a public authority could know a name at all (RFC 6761, RFC 6762, and ICANN's `internal`).
pub fn is_public_name(name: &str) -> bool {
    name.contains('.') && ![".local", ".localhost", ".internal"].iter().any(|end| name.ends_with(end))
}

impl Appliance {
    /// Whether a public authority could know the domain at all.
    pub fn has_public_domain(&self) -> bool {
        is_public_name(self.domain.as_str())
    }
}
