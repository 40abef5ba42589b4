//! The keys under `appliance.backup:`: where backups go, and what is mounted for them.

use super::diagnostic::nearest;
use super::reader::{Fields, Unknown};
use crate::value::{AbsPath, FileSystemType, Invalid, Secret};
use std::str::FromStr;

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
    let backup = Backup {
        url: fields.get("url", |reading, node, path| reading.checked_secretly(node, path)),
        options: fields.secret("options"),
        mount,
        encrypt: fields.secret("encrypt"),
    };
    fields.finish(Unknown::Warn);
    backup
}
