//! The keys under `appliance.backup:`: where backups go, and what is mounted for them.

use super::diagnostic::nearest;
use super::document::{Kind, shown};
use super::reader::{Fields, Unknown, parse_boolean};
use crate::value::{AbsPath, BackupTarget, Calendar, FileSystemType, Invalid, KnownHost, Secret, WebUrl};
use std::str::FromStr;

/// Everything under `appliance.backup:`.
#[derive(Debug, Clone)]
pub struct Backup {
    pub url: Option<BackupUrl>,
    pub options: Option<Secret>,
    pub mount: Option<BackupMount>,
    /// What the repository's password is made of: the password itself, or an OpenPGP key of an old env.
    pub encrypt: Option<Secret>,
    /// When a run is made by itself.
    pub oncalendar: Calendar,
    /// How often what was written since is shipped between runs; `None`: never.
    pub continuous: Option<Every>,
    /// When it is tried out whether the newest run can be restored; `None`: never by itself.
    pub drill: Option<Calendar>,
    pub keep: Keep,
    /// Asked for after each run that is complete: a service that tells somebody when that does not come.
    pub alive: Option<WebUrl>,
    /// What the target's own tools take from their environment, like `AWS_ACCESS_KEY_ID`.
    pub credentials: Vec<(String, Secret)>,
    /// The ssh servers of the target; none: the first answer is remembered.
    pub host_keys: Vec<KnownHost>,
}

/// How many runs are kept: the last one of each of so many days, weeks, months. For how many days one can go back to any moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    pub daily: usize,
    pub weekly: usize,
    pub monthly: usize,
    pub continuous_days: usize,
}

impl Default for Keep {
    fn default() -> Keep {
        Keep { daily: 14, weekly: 8, monthly: 12, continuous_days: 7 }
    }
}

/// A time between two beginnings, from 1 minute to an hour: what waits meanwhile is looked at only then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Every {
    pub minutes: u32,
}

impl Default for Every {
    fn default() -> Every {
        Every { minutes: 5 }
    }
}

impl FromStr for Every {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text.strip_suffix("min").and_then(|number| number.trim_end().parse().ok()) {
            _ if text == "1h" => Ok(Every { minutes: 60 }),
            Some(minutes @ 1..=60) => Ok(Every { minutes }),
            _ => Err(Invalid::new("no, or from 1min to 60min")),
        }
    }
}

/// What variables of a target's tools begin with; no other may be set.
const CREDENTIALS: [&str; 7] = ["AWS_", "AZURE_", "B2_", "GOOGLE_", "OS_", "RCLONE_", "ST_"];
/// The most of each that can be kept.
const KEEP: std::ops::RangeInclusive<i64> = 0..=1000;

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

pub(super) fn read_backup(appliance: &Fields) -> Backup {
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
    let url: Option<BackupUrl> = fields.get("url", |reading, node, path| reading.checked_secretly(node, path));
    // Old files must load: what is not backed up is told, here and by each run.
    if let (Some(node), Some(url)) = (fields.value("url"), &url)
        && let Err(error) = BackupTarget::of_url(url.0.expose(), false)
    {
        fields.warning(node.place, format!("nothing is backed up: {error}"));
    }
    let backup = Backup {
        url,
        options: fields.secret("options"),
        mount,
        encrypt: fields.secret("encrypt"),
        oncalendar: fields.calendar("oncalendar").unwrap_or_else(nightly),
        continuous: read_continuous(&fields),
        drill: read_drill(&fields),
        keep: read_keep(&fields),
        alive: fields.checked("alive"),
        credentials: read_credentials(&fields),
        host_keys: fields.list("host_keys", |reading, node, path| reading.checked(node, path)).unwrap_or_default(),
    };
    fields.finish(Unknown::Warn);
    backup
}

/// The default of `backup.oncalendar` (docs/env.md).
fn nightly() -> Calendar {
    // The text is a constant that the check takes.
    "*-*-* 22:30:00".parse().expect("the default calendar is valid")
}

fn read_continuous(backup: &Fields) -> Option<Every> {
    let read = backup.get("continuous", |reading, node, path| match &*node.kind {
        Kind::Scalar { text, .. } if parse_boolean(text.trim()) == Some(false) => {
            reading.mark_open(node);
            Some(None)
        }
        _ => reading.checked::<Every>(node, path).map(Some),
    });
    read.unwrap_or_else(|| Some(Every::default()))
}

/// The default of `backup.drill.oncalendar` (docs/backup.md).
fn weekly() -> Calendar {
    // The text is a constant that the check takes.
    "Sun *-*-* 03:00:00".parse().expect("the default calendar is valid")
}

fn read_drill(backup: &Fields) -> Option<Calendar> {
    let fields = backup.fields("drill");
    let is_wanted = fields.boolean("enabled").unwrap_or(true);
    let calendar = fields.calendar("oncalendar").unwrap_or_else(weekly);
    fields.finish(Unknown::Refuse);
    is_wanted.then_some(calendar)
}

fn read_keep(backup: &Fields) -> Keep {
    let fields = backup.fields("keep");
    let number = |key| fields.get(key, |reading, node, path| reading.number(node, path, KEEP));
    let or = |read: Option<i64>, usual: usize| read.and_then(|read| usize::try_from(read).ok()).unwrap_or(usual);
    let usual = Keep::default();
    let keep = Keep {
        daily: or(number("daily"), usual.daily),
        weekly: or(number("weekly"), usual.weekly),
        monthly: or(number("monthly"), usual.monthly),
        continuous_days: or(number("continuous"), usual.continuous_days),
    };
    // A slip would keep less than was asked for.
    fields.finish(Unknown::Refuse);
    keep
}

fn read_credentials(backup: &Fields) -> Vec<(String, Secret)> {
    let fields = backup.fields("credentials");
    let mut all = Vec::new();
    for (key, node) in fields.entries() {
        let name = key.text.as_str();
        let is_plain = name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
        if !is_plain || !CREDENTIALS.iter().any(|start| name.starts_with(start)) {
            let starts = CREDENTIALS.join("…, ");
            fields.error(key.place, format!("'{}' must be a variable {starts}…", fields.path(&shown(name))));
        } else if !matches!(&*node.kind, Kind::Scalar { .. }) {
            fields.error(node.place, format!("'{}' must be a string, not {}", fields.path(name), node.what()));
        } else {
            all.extend(fields.reading.secret(node, &fields.path(name)).map(|secret| (name.to_owned(), secret)));
        }
    }
    all
}
