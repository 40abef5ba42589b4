//! The keys under `appliance:` (spec/env.md, "Keys"), read into checked types. What follows from them is elsewhere.

use super::diagnostic::nearest;
use super::document::{self, Block, Kind, Node, Place};
use super::reader::{Fields, Reading, Unknown};
use super::rules;
use crate::value::{
    AbsPath, Calendar, Domain, Email, FileMode, FileSystemType, HostPattern, Invalid, Owner, PackageName, Secret,
    WebUrl,
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
    pub acme: Acme,
    pub client_certs_mandatory: bool,
    /// A key and certificate chain of one's own: both or neither.
    pub own: Option<(CertificateText, CertificateText)>,
}

/// Another certificate authority than the default one.
#[derive(Debug, Clone, Default)]
pub struct Acme {
    pub directory: Option<WebUrl>,
    /// The authority's own root certificate, where the system does not know it.
    pub ca: Option<CertificateText>,
    pub email: Option<Email>,
    /// External account binding (RFC 8555, 7.3.4): key id and key, base64url.
    pub eab: Option<(String, Secret)>,
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
        // openssl writes lines of its own before the block.
        let begins = text.starts_with("-----BEGIN ") || text.contains("\n-----BEGIN ");
        if begins && text.contains("-----END ") {
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
    pub url: Option<BackupUrl>,
    pub options: Option<Secret>,
    pub mount: Option<BackupMount>,
    pub encrypt: Option<Secret>,
}

/// Where backups go: restic's forms, and the URLs that duplicity took on an ECS-Appliance.
#[derive(Debug, Clone)]
pub struct BackupUrl(pub Secret);

/// What may stand before the first colon of a backup URL, or before and behind a `+` in it.
const BACKUP_SCHEMES: [&str; 49] = [
    "acd",
    "ad",
    "azure",
    "b2",
    "boto",
    "boto3",
    "cf",
    "copy",
    "dpbx",
    "file",
    "fish",
    "ftp",
    "ftpes",
    "ftps",
    "gdocs",
    "gdrive",
    "gs",
    "hsi",
    "http",
    "https",
    "hubic",
    "imap",
    "imaps",
    "jottacloud",
    "lftp",
    "mega",
    "megav3",
    "mf",
    "multi",
    "ncftp",
    "onedrive",
    "par2",
    "paramiko",
    "pca",
    "pexpect",
    "pydrive",
    "rclone",
    "rest",
    "rsync",
    "s3",
    "scp",
    "sftp",
    "slate",
    "ssh",
    "swift",
    "sx",
    "tahoe",
    "webdav",
    "webdavs",
];

impl FromStr for BackupUrl {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        if text.starts_with('/') {
            return text.parse::<AbsPath>().map(|_| BackupUrl(Secret::new(text)));
        }
        let right = "a backup URL: file:///…, sftp://…, rest:https://…, s3:…, or an absolute path";
        let Some((scheme, rest)) = text.split_once(':') else { return Err(Invalid::new(right)) };
        let scheme = scheme.to_ascii_lowercase();
        match scheme.split('+').find(|part| !BACKUP_SCHEMES.contains(part)) {
            None if !rest.trim_start_matches('/').is_empty() => Ok(BackupUrl(Secret::new(text))),
            None => Err(Invalid::new(right)),
            Some(stranger) => Err(Invalid::new(match nearest(stranger, BACKUP_SCHEMES) {
                Some(near) => format!("a backup URL of a known kind; did you mean '{near}:'?"),
                None => right.to_owned(),
            })),
        }
    }
}

#[derive(Debug, Clone)]
pub struct BackupMount {
    pub kind: Option<FileSystemType>,
    pub source: String,
    pub target: AbsPath,
    pub options: Option<Secret>,
}

impl Appliance {
    /// Whether a public authority could know the domain at all.
    pub fn has_public_domain(&self) -> bool {
        let domain = self.domain.as_str();
        domain.contains('.') && ![".local", ".localhost", ".internal"].iter().any(|end| domain.ends_with(end))
    }
}

/// Reads `appliance:`; `None` means an error was reported.
pub fn read(root: &Fields) -> Option<Appliance> {
    let fields = root.fields("appliance");
    let standby = fields.boolean("standby").unwrap_or(false);
    let domain: Option<Domain> = fields.checked("domain");
    if let (None, Some((place, instead))) = (root.key_place("appliance"), root.misspelt("appliance")) {
        fields.error(place, format!("'appliance' is missing; did you mean it by '{instead}'?"));
    } else if fields.value("domain").is_none() {
        let place = root.key_place("appliance").unwrap_or(root.place());
        fields.error(place, "'appliance.domain' is missing; set it to the host's name, like 'app.example.org'");
    }
    let named: Vec<HostPattern> = fields.words("allowed_hosts").unwrap_or_default();
    let mut allowed_hosts: Vec<HostPattern> = named.iter().flat_map(HostPattern::spelled_out).collect();
    if let Some(own) = domain.as_ref().map(HostPattern::from)
        && !allowed_hosts.contains(&own)
    {
        allowed_hosts.insert(0, own);
    }
    // Everything is read before anything is given up: all problems are told at once.
    let (ssl, metric, update) = (read_ssl(&fields), read_metric(&fields), read_update(&fields));
    let (storage, backup) = (read_storage(&fields), read_backup(&fields));
    let sentry = fields.fields("sentry");
    let sentry_dsn = sentry.get("dsn", |reading, node, path| reading.checked_secretly(node, path));
    sentry.finish(Unknown::Warn);
    let dkim = fields.fields("dkim");
    let dkim_key = dkim.secret("key");
    dkim.finish(Unknown::Warn);
    let (extra_files, extra_packages) = read_extra(&fields);
    read_old_git(&fields);
    let appliance = domain.map(|domain| Appliance {
        standby,
        domain,
        allowed_hosts,
        ssl,
        sentry_dsn,
        metric,
        extra_files,
        extra_packages,
        update,
        storage,
        dkim_key,
        backup,
    });
    if let Some(appliance) = &appliance {
        rules::certificates(&fields, appliance);
        rules::parts(&fields, appliance);
    }
    fields.finish(Unknown::Warn);
    appliance
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
    let ssl = Ssl {
        letsencrypt: enabled,
        acme: read_acme(&fields),
        client_certs_mandatory: fields.boolean("client_certs_mandatory").unwrap_or(false),
        own: key.zip(cert),
    };
    fields.finish(Unknown::Warn);
    ssl
}

fn read_acme(ssl: &Fields) -> Acme {
    let fields = ssl.fields("acme");
    let binding = fields.fields("eab");
    let (kid, key) = (binding.text("kid"), binding.secret("key"));
    if binding.is_present() && kid.is_some() != key.is_some() {
        binding.error(binding.place(), "'appliance.ssl.acme.eab' needs both 'kid' and 'key'");
    }
    binding.finish(Unknown::Warn);
    let acme = Acme {
        directory: fields.get("directory", |reading, node, path| reading.checked_secretly(node, path)),
        ca: fields.get("ca", |reading, node, path| reading.checked_secretly(node, path)),
        email: fields.checked("email"),
        eab: kid.zip(key),
    };
    fields.finish(Unknown::Warn);
    acme
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
        oncalendar: read_calendar(&fields).unwrap_or_else(daily),
        reboot: fields.boolean("reboot").unwrap_or(true),
    };
    fields.finish(Unknown::Warn);
    update
}

fn read_calendar(update: &Fields) -> Option<Calendar> {
    let calendar: Calendar = update.checked("oncalendar")?;
    if let Some(node) = update.value("oncalendar") {
        update.reading.ask_systemd(node.place, calendar.clone());
    }
    Some(calendar)
}

/// The default of `update.oncalendar` (spec/env.md).
fn daily() -> Calendar {
    // The text is a constant that the check takes; a test of this file's defaults holds it.
    "*-*-* 06:30:00".parse().expect("the default calendar is valid")
}

fn read_storage(appliance: &Fields) -> StorageWish {
    let fields = appliance.fields("storage");
    let setup = fields.value("setup").and_then(|node| read_setup(fields.reading, node));
    if let Some(place) = fields.value("proxy_cache").and_then(|_| fields.key_place("proxy_cache")) {
        fields.warning(place, "'appliance.storage.proxy_cache' is not used any more: there is no proxy on the host");
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

/// What `storage.setup` may hold (spec/prepare.md, "Storage").
const SETUP_KEYS: [&str; 7] = ["parted", "mdadm", "crypt", "lvm", "format", "mount", "swap"];

/// A mapping, or a text holding one, as an ECS-Appliance had it. Places inside of a block of text are counted from where
/// the block stands.
fn read_setup(reading: &Reading, node: &Node) -> Option<Node> {
    let path = "appliance.storage.setup";
    let inner = match &*node.kind {
        Kind::Scalar { text, .. } if text.trim().is_empty() => return None,
        Kind::Scalar { text, .. } => match document::parse(text.as_bytes(), super::MAX_BYTES) {
            Ok(inner) => inner,
            Err(problem) => {
                let place = match node.block {
                    Block::Literal => Place {
                        line: (node.place.line + problem.line - 1).min(node.end.line),
                        column: node.place.column + problem.column - 1,
                    },
                    _ => node.place,
                };
                reading.error(place, format!("the text of '{path}' cannot be read: {}", problem.message));
                return None;
            }
        },
        _ => node.clone(),
    };
    if !matches!(&*inner.kind, Kind::Mapping(_)) {
        reading.error(node.place, format!("'{path}' must be a mapping, or a text holding one, not {}", inner.what()));
        return None;
    }
    for (key, _) in inner.entries() {
        if !SETUP_KEYS.contains(&key.text.as_str()) {
            let hint =
                nearest(&key.text, SETUP_KEYS).map(|near| format!("; did you mean '{near}'?")).unwrap_or_default();
            let from_text = matches!(&*node.kind, Kind::Scalar { .. });
            let place = if from_text { node.place } else { key.place };
            reading.warning(place, format!("'{path}.{}' is not a key that is known{hint}", document::shown(&key.text)));
        }
    }
    Some(inner)
}

fn read_extra(appliance: &Fields) -> (Vec<ExtraFile>, Vec<PackageName>) {
    let fields = appliance.fields("extra");
    let files =
        fields.list("files", |reading, node, path| Some(read_extra_file(reading, node, path))).unwrap_or_default();
    let files: Vec<(usize, ExtraFile)> =
        files.into_iter().enumerate().filter_map(|(index, file)| Some((index, file?))).collect();
    rules::extra_files(&fields, &files);
    let packages = fields.list("packages", |reading, node, path| reading.checked(node, path)).unwrap_or_default();
    if let Some(node) = fields.value("states") {
        fields.warning(node.place, "'appliance.extra.states' is a Salt state and not run any more; use extra.files");
    }
    fields.finish(Unknown::Warn);
    (files.into_iter().map(|(_, file)| file).collect(), packages)
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
    // An empty file is a file.
    let text =
        |key| fields.node(key).filter(|node| !node.is_null()).and_then(|node| reading.secret(node, &fields.path(key)));
    let (contents, old) = (text("contents"), text("content"));
    if let (Some(_), Some(_), Some(place)) = (&contents, &old, fields.key_place("content")) {
        fields.error(place, format!("'{path}.content' is the old name of 'contents'; keep one of them"));
    }
    let contents = contents.or(old);
    if contents.is_none() && fields.value("contents").is_none() && fields.value("content").is_none() {
        fields.error(node.place, format!("'{path}.contents' is missing; say what is in the file"));
    }
    let (owner, mode) = (fields.checked("owner"), fields.checked("permissions"));
    let file = target.zip(contents).map(|(path, contents)| ExtraFile { path, contents, owner, mode });
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
            if missing && mount_fields.value(key).is_none() {
                let place = mount_fields.place();
                mount_fields.error(place, format!("'appliance.backup.mount.{key}' is missing"));
            }
        }
        let kind = mount_fields.checked("type");
        let options = mount_fields.secret("options");
        Some(BackupMount { kind, source: source?, target: target?, options })
    })();
    mount_fields.finish(Unknown::Warn);
    let backup = Backup {
        url: fields.get("url", |reading, node, path| reading.checked_secretly(node, path)),
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
    // Not even looked at: an old env must not fail over what nobody reads.
    for key in ["source", "branch", "commitid"] {
        fields.node(key);
    }
    fields.finish(Unknown::Warn);
}
