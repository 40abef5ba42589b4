//! The keys under `appliance:` (spec/env.md, "Keys"), read into checked types. What follows from them is elsewhere.

use super::document::{Kind, Node};
use super::reader::{Fields, Reading, Unknown};
use crate::value::{
    AbsPath, Calendar, Domain, FileMode, GitRef, GitUrl, HostPattern, Invalid, Owner, PackageName, Secret,
};
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
    pub metric: Metric,
    pub extra_files: Vec<ExtraFile>,
    pub extra_packages: Vec<PackageName>,
    pub update: Update,
    pub storage: StorageWish,
    pub dkim_key: Option<Secret>,
    pub backup: Backup,
}

#[derive(Debug, Clone)]
pub struct Ssl {
    pub letsencrypt: bool,
    pub client_certs_mandatory: bool,
    /// A key and certificate chain of one's own: both or neither.
    pub own: Option<(CertificateText, CertificateText)>,
}

/// PEM text, or where it lies.
#[derive(Debug, Clone)]
pub enum CertificateText {
    Pem(Secret),
    Path(AbsPath),
}

impl FromStr for CertificateText {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        if text.starts_with("-----BEGIN ") && text.contains("-----END ") {
            return Ok(CertificateText::Pem(Secret::new(format!("{}\n", text.trim()))));
        }
        text.parse()
            .map(CertificateText::Path)
            .map_err(|_| Invalid::new("PEM text ('-----BEGIN …') or an absolute path"))
    }
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
    /// A declarative layout is given (it is carried out by a later version; see docs/limits.md).
    pub setup: Option<Node>,
    pub ignore_volatile: bool,
    pub ignore_data: bool,
    pub grow_root: bool,
}

#[derive(Debug, Clone, Default)]
pub struct Backup {
    pub url: Option<Secret>,
    pub options: Option<Secret>,
    pub mount: Option<BackupMount>,
    pub encrypt: Option<Secret>,
}

#[derive(Debug, Clone)]
pub struct BackupMount {
    pub kind: Option<String>,
    pub source: String,
    pub target: AbsPath,
    pub options: Option<Secret>,
}

/// Reads `appliance:`; `None` means an error was reported.
pub fn read(root: &Fields) -> Option<Appliance> {
    let fields = root.fields("appliance");
    let standby = fields.boolean("standby").unwrap_or(false);
    let domain: Option<Domain> = fields.checked("domain");
    if fields.value("domain").is_none() {
        let place = root.key_place("appliance").unwrap_or(root.place());
        fields.error(place, "'appliance.domain' is missing; set it to the host's name, like 'app.example.org'");
    }
    let mut allowed_hosts: Vec<HostPattern> = fields.words("allowed_hosts").unwrap_or_default();
    if let Some(own) = domain.as_ref().map(HostPattern::from)
        && !allowed_hosts.contains(&own)
    {
        allowed_hosts.insert(0, own);
    }
    let appliance = (|| {
        Some(Appliance {
            standby,
            domain: domain?,
            allowed_hosts,
            ssl: read_ssl(&fields),
            sentry_dsn: {
                let sentry = fields.fields("sentry");
                let dsn = sentry.get("dsn", |reading, node, path| reading.checked_secretly(node, path));
                sentry.finish(Unknown::Warn);
                dsn
            },
            metric: read_metric(&fields),
            extra_files: Vec::new(),
            extra_packages: Vec::new(),
            update: read_update(&fields),
            storage: read_storage(&fields),
            dkim_key: {
                let dkim = fields.fields("dkim");
                let key = dkim.secret("key");
                dkim.finish(Unknown::Warn);
                key
            },
            backup: read_backup(&fields),
        })
    })();
    let (extra_files, extra_packages) = read_extra(&fields);
    read_old_git(&fields);
    fields.finish(Unknown::Warn);
    appliance.map(|appliance| Appliance { extra_files, extra_packages, ..appliance })
}

fn read_ssl(appliance: &Fields) -> Ssl {
    let fields = appliance.fields("ssl");
    let secretly = |reading: &Reading, node: &Node, path: &str| reading.checked_secretly::<CertificateText>(node, path);
    let key_place = fields.key_place("key").or(fields.key_place("cert"));
    let (key, cert) = (fields.get("key", secretly), fields.get("cert", secretly));
    if key.is_some() != cert.is_some()
        && fields.value("key").is_some() != fields.value("cert").is_some()
        && let Some(place) = key_place
    {
        fields.error(place, "'appliance.ssl.key' and 'appliance.ssl.cert' go together; set both or neither");
    }
    let letsencrypt = fields.fields("letsencrypt");
    let enabled = letsencrypt.boolean("enabled").unwrap_or(true);
    letsencrypt.finish(Unknown::Warn);
    let acme = fields.fields("acme");
    if acme.is_present() {
        acme.warning(acme.place(), "'appliance.ssl.acme' is kept, but this version gets no certificates by ACME yet");
    }
    let ssl = Ssl {
        letsencrypt: enabled,
        client_certs_mandatory: fields.boolean("client_certs_mandatory").unwrap_or(false),
        own: key.zip(cert),
    };
    fields.finish(Unknown::Warn);
    ssl
}

fn read_metric(appliance: &Fields) -> Metric {
    let fields = appliance.fields("metric");
    let flag = |key| fields.boolean(key).unwrap_or(false);
    let metric =
        Metric { exporter: flag("exporter"), server: flag("server"), gui: flag("gui"), pghero: flag("pghero") };
    fields.finish(Unknown::Warn);
    metric
}

fn read_update(appliance: &Fields) -> Update {
    let fields = appliance.fields("update");
    let update = Update {
        automatic: fields.boolean("automatic").unwrap_or(true),
        oncalendar: fields.checked("oncalendar").unwrap_or_else(daily),
        reboot: fields.boolean("reboot").unwrap_or(true),
    };
    fields.finish(Unknown::Warn);
    update
}

/// The default of `update.oncalendar` (spec/env.md).
fn daily() -> Calendar {
    // The text is a constant that the check takes; a test of this file's defaults holds it.
    "*-*-* 06:30:00".parse().expect("the default calendar is valid")
}

fn read_storage(appliance: &Fields) -> StorageWish {
    let fields = appliance.fields("storage");
    let setup = fields.value("setup").cloned();
    if let Some(node) = &setup
        && matches!(&*node.kind, Kind::Sequence(_))
    {
        fields.error(node.place, "'appliance.storage.setup' must be a mapping, or a text holding one, not a list");
    }
    let ignore = fields.fields("ignore");
    let wish = StorageWish {
        setup,
        ignore_volatile: ignore.boolean("volatile").unwrap_or(false),
        ignore_data: ignore.boolean("data").unwrap_or(false),
        grow_root: fields.boolean("grow_root").unwrap_or(false),
    };
    ignore.finish(Unknown::Warn);
    fields.finish(Unknown::Warn);
    wish
}

fn read_extra(appliance: &Fields) -> (Vec<ExtraFile>, Vec<PackageName>) {
    let fields = appliance.fields("extra");
    let files = fields.list("files", read_extra_file).unwrap_or_default();
    let packages = fields.list("packages", |reading, node, path| reading.checked(node, path)).unwrap_or_default();
    if let Some(node) = fields.value("states") {
        fields.warning(node.place, "'appliance.extra.states' is a Salt state and not run any more; use extra.files");
    }
    fields.finish(Unknown::Warn);
    (files, packages)
}

fn read_extra_file(reading: &Reading, node: &Node, path: &str) -> Option<ExtraFile> {
    let fields = Fields::of(reading, Some(node), path);
    if !fields.is_present() {
        return None;
    }
    let target: Option<AbsPath> = fields.checked("path");
    if fields.value("path").is_none() {
        fields.error(node.place, format!("'{path}.path' is missing; say where the file goes"));
    }
    let contents = fields.secret("contents").or_else(|| fields.secret("content"));
    if fields.value("contents").is_none() && fields.value("content").is_none() {
        fields.error(node.place, format!("'{path}.contents' is missing; say what is in the file"));
    }
    let file = (|| {
        Some(ExtraFile {
            path: target?,
            contents: contents?,
            owner: fields.checked("owner"),
            mode: fields.get("permissions", |reading, node, path| reading.checked(node, path)),
        })
    })();
    fields.finish(Unknown::Warn);
    file
}

fn read_backup(appliance: &Fields) -> Backup {
    let fields = appliance.fields("backup");
    let mount_fields = fields.fields("mount");
    let mount = (|| {
        if !mount_fields.is_present() {
            return None;
        }
        let source = mount_fields.text("source");
        let target = mount_fields.checked("target");
        for (key, missing) in [("source", source.is_none()), ("target", target.is_none())] {
            if missing && mount_fields.key_place(key).is_none() {
                let place = mount_fields.place();
                mount_fields.error(place, format!("'appliance.backup.mount.{key}' is missing"));
            }
        }
        let kind = mount_fields.text("type");
        let options = mount_fields.secret("options");
        Some(BackupMount { kind, source: source?, target: target?, options })
    })();
    mount_fields.finish(Unknown::Warn);
    let backup = Backup {
        url: fields.secret("url"),
        options: fields.secret("options"),
        mount,
        encrypt: fields.secret("encrypt"),
    };
    fields.finish(Unknown::Warn);
    backup
}

/// `appliance.git`: where old installs got the appliance itself from.
fn read_old_git(appliance: &Fields) {
    let fields = appliance.fields("git");
    if let Some(place) = appliance.key_place("git") {
        fields.warning(place, "'appliance.git' is not used any more: the appliance comes as a package");
    }
    fields.get("source", |reading, node, path| reading.checked_secretly::<GitUrl>(node, path));
    fields.checked::<GitRef>("branch");
    fields.text("commitid");
    fields.finish(Unknown::Warn);
}
