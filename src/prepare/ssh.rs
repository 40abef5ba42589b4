//! Step ssh: root's and app's authorized_keys. Keys of others are left alone.

use crate::env::Env;
use crate::host::{Dir, File, Host};
use crate::value::{Owner, SshKey};
use anyhow::{Context, Result};

const MAX_FILE: u64 = 1 << 20;

/// The file's new text: deprecated keys gone, missing ones appended, everything else as it was.
fn edit(text: &str, authorized: &[SshKey], deprecated: &[SshKey]) -> String {
    let is_deprecated = |line: &str| {
        SshKey::identity_of(line).is_some_and(|identity| deprecated.iter().any(|key| key.identity() == identity))
    };
    let mut lines: Vec<&str> = text.lines().filter(|line| !is_deprecated(line)).collect();
    let has = |lines: &[&str], key: &SshKey| {
        lines.iter().any(|line| SshKey::identity_of(line).as_deref() == Some(key.identity()))
    };
    for key in authorized {
        let wanted = !deprecated.iter().any(|old| old.identity() == key.identity());
        if wanted && !has(&lines, key) {
            lines.push(key.line());
        }
    }
    lines.iter().map(|line| format!("{line}\n")).collect()
}

pub fn prepare(env: &Env, host: &Host) -> Result<()> {
    for (user, home) in [("root", "/root"), ("app", "/app")] {
        let owner: Owner = user.parse().context("a user name is an owner")?;
        let directory = format!("{home}/.ssh");
        let path = format!("{directory}/authorized_keys");
        let wanted = !env.ssh_authorized.is_empty() || host.exists(&path);
        // Root puts git's keys into app's.
        if wanted || user == "app" || host.exists(&directory) {
            host.ensure_dir(&directory, &Dir::plain().mode(0o700).owner(&owner))?;
        }
        if wanted {
            let edited = host.read_text_unlinked(&path, MAX_FILE).and_then(|text| {
                let text = edit(&text.unwrap_or_default(), &env.ssh_authorized, &env.ssh_deprecated);
                host.ensure_file(&path, &File::secret(text).owner(&owner))
            });
            match edited {
                // What user app puts in its own directory keeps nobody from starting.
                Err(error) if user == "app" => tracing::warn!("{error:#}"),
                other => drop(other?),
            }
        }
    }
    // A deploy key is put there by root; people who use git as app use it too.
    let app: Owner = "app".parse().context("a user name is an owner")?;
    for name in host.names("/app/.ssh")? {
        if name.starts_with("id_") {
            host.ensure_owned(&format!("/app/.ssh/{name}"), 0o600, &app)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seed: char, comment: &str) -> SshKey {
        use base64::Engine;
        let mut body = b"\0\0\0\x0bssh-ed25519\0\0\0 ".to_vec();
        body.extend([seed as u8; 32]);
        let body = base64::engine::general_purpose::STANDARD.encode(body);
        format!("ssh-ed25519 {body} {comment}").parse().expect("the key is well formed")
    }

    #[test]
    fn others_stay_deprecated_go_missing_come_once() {
        let (a, b, c) = (key('a', "a"), key('b', "b"), key('c', "c"));
        let text = format!("# mine\n{}\nno-pty {}\n", a.line(), b.line());
        let edited = edit(&text, &[a.clone(), c.clone()], std::slice::from_ref(&b));
        assert_eq!(edited, format!("# mine\n{}\n{}\n", a.line(), c.line()));
        assert_eq!(edit(&edited, &[a, c], &[b]), edited);
    }
}
