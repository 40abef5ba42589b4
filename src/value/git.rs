//! Git's names: where a repository is, which ref, which commit. Running git is elsewhere.

use super::names::{Invalid, checked_text};
use super::secret::Secret;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

checked_text!(
    /// A branch or tag name as `git check-ref-format --branch` takes it; never starts with `-`.
    GitRef, check_ref
);
checked_text!(
    /// A full commit id: 40 (SHA-1) or 64 (SHA-256) lower-case hexadecimal digits.
    Commit, check_commit
);

fn check_ref(text: &str) -> Result<String, Invalid> {
    let bad_char = |c: char| c.is_control() || c == ' ' || "~^:?*[\\".contains(c);
    let bad = text.is_empty()
        || text.len() > 200
        || text.starts_with('-')
        || text.starts_with('/')
        || text.ends_with('/')
        || text.ends_with('.')
        || text.contains("..")
        || text.contains("//")
        || text.contains("@{")
        || text == "@"
        || text.chars().any(bad_char)
        || text.split('/').any(|part| part.starts_with('.') || part.ends_with(".lock"));
    if bad { Err(Invalid::new("a git branch or tag name")) } else { Ok(text.to_owned()) }
}

fn check_commit(text: &str) -> Result<String, Invalid> {
    let id = text.to_ascii_lowercase();
    if matches!(id.len(), 40 | 64) && id.bytes().all(|b| b.is_ascii_hexdigit()) {
        Ok(id)
    } else {
        Err(Invalid::new("a full commit id of 40 hexadecimal digits"))
    }
}

impl Commit {
    /// The first twelve digits: what people read, and what images are tagged with.
    pub fn short(&self) -> &str {
        &self.as_str()[..12]
    }
}

/// Where a repository is: https, ssh, `git@host:path`, `file://` or an absolute path. May hold a password, so it
/// prints itself masked and is handed to git through the environment, never as an argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitUrl(Secret);

impl GitUrl {
    /// The URL without what stands before the host's `@` in an http URL: fit for arguments and messages.
    pub fn address(&self) -> String {
        match self.split() {
            Some((scheme, _, rest)) => format!("{scheme}://{rest}"),
            None => self.0.expose().to_owned(),
        }
    }

    /// Whether it is a directory of this host.
    pub fn is_local(&self) -> bool {
        ["/", "file://"].iter().any(|start| self.0.expose().starts_with(start))
    }

    /// User and password of an http URL, percent-decoded.
    pub fn credentials(&self) -> Option<(Secret, Secret)> {
        let (_, user_info, _) = self.split()?;
        let (user, password) = user_info.split_once(':').unwrap_or((user_info, ""));
        Some((Secret::new(percent_decode(user)), Secret::new(percent_decode(password))))
    }

    /// Everything that must be masked in git's own output, the longest first.
    pub fn secrets(&self) -> Vec<Secret> {
        let Some((_, user_info, _)) = self.split() else { return Vec::new() };
        let (user, password) = user_info.split_once(':').unwrap_or((user_info, ""));
        let parts = [
            user_info.to_owned(),
            percent_decode(password),
            password.to_owned(),
            percent_decode(user),
            user.to_owned(),
        ];
        // A short user name is no secret, and masking it would make words unreadable.
        let mut parts: Vec<String> = parts.into_iter().filter(|part| part.len() >= 6).collect();
        parts.sort_by_key(|part| std::cmp::Reverse(part.len()));
        parts.into_iter().map(Secret::new).collect()
    }

    /// Scheme, user info and the rest of an http URL that has user info.
    fn split(&self) -> Option<(&str, &str, &str)> {
        let (scheme, rest) = self.0.expose().split_once("://")?;
        let authority = rest.split('/').next()?;
        let at = authority.rfind('@').filter(|_| scheme.starts_with("http"))?;
        Some((scheme, &rest[..at], &rest[at + 1..]))
    }
}

/// `%40` as `@`; what is no valid escape stays.
pub(super) fn percent_decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let hex = tail
            .get(..2)
            .filter(|_| byte == b'%')
            .and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match hex {
            Some(decoded) => {
                bytes.push(decoded);
                rest = &tail[2..];
            }
            None => {
                bytes.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

impl FromStr for GitUrl {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let right = "a repository: https://…, ssh://…, git@host:path, file:///… or an absolute path";
        let plain = !text.is_empty()
            && text.len() <= 2048
            && !text.starts_with('-')
            && !text.chars().any(|c| c.is_control() || c == ' ');
        let known_scheme = ["https://", "http://", "ssh://", "git://", "file:///"];
        let has_host =
            |rest: &str| rest.split('/').next().is_some_and(|host| !host.is_empty() && !host.starts_with('-'));
        let form = match known_scheme.iter().find_map(|scheme| text.strip_prefix(scheme)) {
            Some(rest) => text.starts_with("file:///") || has_host(rest),
            // scp-like: user@host:path. `ext::` and other remote helpers run programs and are refused.
            None => text.starts_with('/') || is_scp_like(text),
        };
        if plain && form { Ok(GitUrl(Secret::new(text))) } else { Err(Invalid::new(right)) }
    }
}

fn is_scp_like(text: &str) -> bool {
    let Some((host, path)) = text.split_once(':') else { return false };
    let host_is_good = |part: &str| {
        !part.is_empty()
            && !part.starts_with('-')
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    };
    let named = match host.split_once('@') {
        Some((user, host)) => host_is_good(user) && host_is_good(host),
        None => false,
    };
    named && !path.is_empty() && !path.starts_with(':') && !path.starts_with('-')
}

impl fmt::Display for GitUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.split() {
            Some((scheme, _, rest)) => write!(f, "{scheme}://(secret)@{rest}"),
            None => f.write_str(self.0.expose()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_repositories_are_taken() {
        for good in ["https://git.example/a.git", "git@host.example:a/b.git", "file:///srv/a.git", "/srv/a.git"] {
            assert!(good.parse::<GitUrl>().is_ok(), "{good}");
        }
        for bad in ["", "ext::sh -c x", "-u", "https://", "a.git", "ssh://-oProxyCommand=x/", "git@h:-x", "a\nb"] {
            assert!(bad.parse::<GitUrl>().is_err(), "{bad}");
        }
    }

    #[test]
    fn user_and_password_are_taken_out_and_masked() {
        for (text, user, password) in [
            ("https://me:hunter2@git.example/a.git", "me", "hunter2"),
            ("https://t0ken12@git.example/a.git", "t0ken12", ""),
            ("https://t0ken12:@git.example/a.git", "t0ken12", ""),
            ("https://x:x%40y@git.example/a.git", "x", "x@y"),
        ] {
            let url: GitUrl = text.parse().expect("a URL with credentials is valid");
            assert_eq!(url.to_string(), "https://(secret)@git.example/a.git");
            assert_eq!(url.address(), "https://git.example/a.git");
            let (seen_user, seen_password) = url.credentials().expect("there are credentials");
            assert_eq!((seen_user.expose(), seen_password.expose()), (user, password));
        }
        let ssh: GitUrl = "ssh://git@git.example:22/a.git".parse().expect("an ssh URL is valid");
        assert_eq!((ssh.address().as_str(), ssh.credentials().is_none()), ("ssh://git@git.example:22/a.git", true));
    }

    #[test]
    fn refs_and_commits() {
        assert!("feature/x-1".parse::<GitRef>().is_ok());
        for bad in ["-x", "a..b", "a b", "a~1", "x.lock", "/a", "@", "a@{1}"] {
            assert!(bad.parse::<GitRef>().is_err(), "{bad}");
        }
        let commit: Commit = "ABCDEF0123456789abcdef0123456789abcdef01".parse().expect("40 digits are a commit");
        assert_eq!(commit.short(), "abcdef012345");
        assert!("abcdef".parse::<Commit>().is_err());
    }
}
