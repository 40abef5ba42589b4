//! Where a backup's repository is: from the URL in env.yml, also one that was meant for duplicity, to what restic calls it.

use super::Secret;
use anyhow::{Context, Result, bail};

/// What is appended to the URL: duplicity's own files may lie there, and stay.
const BELOW: &str = "restic";
/// Where host keys of sftp servers are kept.
pub const KNOWN_HOSTS: &str = "/var/lib/appliance/backup/known_hosts";
/// duplicity's names for one way.
const SFTP: [&str; 9] =
    ["sftp", "ssh", "scp", "paramiko+sftp", "paramiko+scp", "pexpect+sftp", "pexpect+scp", "lftp+sftp", "paramiko+ssh"];

/// A repository as restic wants it.
#[derive(Debug, Clone)]
pub struct BackupTarget {
    /// May hold a password.
    pub repository: Secret,
    /// Options of restic's for this kind of target.
    pub options: Vec<String>,
    /// Its directory, where it is one of this host's.
    pub directory: Option<String>,
}

impl BackupTarget {
    /// # Errors
    /// It is none that restic reaches; the message says what there is instead.
    pub fn of_url(url: &str, knows_hosts: bool) -> Result<BackupTarget> {
        if url.starts_with('/') {
            return Ok(BackupTarget::directory(url));
        }
        let (scheme, rest) = url.split_once(':').context("'appliance.backup.url' is no URL")?;
        let scheme = scheme.to_ascii_lowercase();
        match scheme.as_str() {
            "file" => Ok(BackupTarget::directory(&format!("/{}", rest.trim_start_matches('/')))),
            "rest" => Ok(BackupTarget::plain(&format!("rest:{}", below(rest)))),
            "s3" | "boto3+s3" | "boto+s3" | "s3+http" => Ok(BackupTarget::plain(&format!("s3:{}", bucket(rest)?))),
            "rclone" => Ok(BackupTarget::plain(&format!("rclone:{}", below(rest)))),
            other if SFTP.contains(&other) => sftp(rest, knows_hosts),
            other => bail!(
                "'appliance.backup.url' begins with '{other}:', which is not supported; there are: a directory, sftp:, rest:, s3:, and rclone: for \
                 what rclone reaches"
            ),
        }
    }

    fn plain(repository: &str) -> BackupTarget {
        BackupTarget { repository: Secret::new(repository), options: Vec::new(), directory: None }
    }

    fn directory(path: &str) -> BackupTarget {
        let path = below(path);
        BackupTarget { repository: Secret::new(&path), options: Vec::new(), directory: Some(path) }
    }
}

fn below(path: &str) -> String {
    format!("{}/{BELOW}", path.trim_end_matches('/'))
}

/// `//HOST/BUCKET/PREFIX` and `//BUCKET/PREFIX` are duplicity's, `https://HOST/BUCKET` and `HOST/BUCKET` restic's.
fn bucket(rest: &str) -> Result<String> {
    let Some(path) = rest.strip_prefix("//") else { return Ok(below(rest)) };
    let (first, more) = path.split_once('/').unwrap_or((path, ""));
    if first.is_empty() {
        bail!("'appliance.backup.url' names no bucket");
    }
    let is_host = first.contains(['.', ':']) && !more.is_empty();
    Ok(if is_host { below(&format!("https://{path}")) } else { below(&format!("https://s3.amazonaws.com/{path}")) })
}

/// `//USER@HOST:PORT/PATH`; a path that begins with one more slash is absolute, any other is below the user's home.
fn sftp(rest: &str, knows_hosts: bool) -> Result<BackupTarget> {
    let rest = rest.strip_prefix("//").context("'appliance.backup.url' must be like sftp://user@host/path")?;
    let (server, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (user, host) = server.rsplit_once('@').unwrap_or(("", server));
    if user.contains(':') {
        bail!(
            "'appliance.backup.url' holds a password, which ssh does not take; let root's ssh key in on the server, and leave it out"
        );
    }
    let (host, port) = host.rsplit_once(':').unwrap_or((host, "22"));
    let is_word =
        |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c)) && !text.starts_with('-');
    let port: u16 = port.parse().ok().context("the port in 'appliance.backup.url' is no number")?;
    if host.is_empty() || !is_word(host) || !is_word(user) || path.trim_matches('/').is_empty() {
        bail!("'appliance.backup.url' must be like sftp://user@host/path");
    }
    let login = if user.is_empty() { host.to_owned() } else { format!("{user}@{host}") };
    let strict = if knows_hosts { "yes" } else { "accept-new" };
    // Its words have no blank or quote in them: restic splits it at blanks.
    let command = format!(
        "ssh -o BatchMode=yes -o ConnectTimeout=30 -o ServerAliveInterval=30 -o ServerAliveCountMax=10 -o StrictHostKeyChecking={strict} -o \
         UserKnownHostsFile={KNOWN_HOSTS} -p {port} {login} -s sftp"
    );
    Ok(BackupTarget {
        repository: Secret::new(format!("sftp:{login}:{}", below(path))),
        options: vec![format!("sftp.command={command}")],
        directory: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_before_and_of_now_lead_to_the_same_places() {
        let of = |url: &str| BackupTarget::of_url(url, true).map(|target| target.repository.expose().to_owned());
        for (url, expected) in [
            ("/mnt/b/", "/mnt/b/restic"),
            ("file:///mnt/b", "/mnt/b/restic"),
            ("sftp://me@nas.example.org/shop", "sftp:me@nas.example.org:shop/restic"),
            ("pexpect+sftp://me@nas:2222//srv/shop", "sftp:me@nas:/srv/shop/restic"),
            ("rest:https://u:p@h:8000/u/", "rest:https://u:p@h:8000/u/restic"),
            ("s3://h.example.org/bucket/x", "s3:https://h.example.org/bucket/x/restic"),
            ("boto3+s3://bucket/x", "s3:https://s3.amazonaws.com/bucket/x/restic"),
            ("s3:https://h/bucket", "s3:https://h/bucket/restic"),
            ("rclone:nas:shop", "rclone:nas:shop/restic"),
        ] {
            assert_eq!(of(url).ok().as_deref(), Some(expected), "{url}");
        }
        for (url, said) in [
            ("sftp://me:pw@nas/x", "holds a password"),
            ("sftp://me@nas x/x", "must be like"),
            ("sftp://-oProxyCommand=x/x", "must be like"),
            ("sftp://me@nas", "must be like"),
            ("imaps://me@nas/x", "is not supported"),
            ("s3://", "names no bucket"),
        ] {
            assert!(of(url).is_err_and(|error| error.to_string().contains(said)), "{url}");
        }
        let options = BackupTarget::of_url("ssh://nas:24/x", false).expect("a target").options.concat();
        assert!(
            options.contains("StrictHostKeyChecking=accept-new") && options.contains("-p 24 nas -s sftp"),
            "{options}"
        );
    }
}
