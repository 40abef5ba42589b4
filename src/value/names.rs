//! Names that end up in configuration files, SQL, units or paths: each takes only what it is.
//! Git's own names are in `git.rs`, free text is plain `String` or `Secret`.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// Why a text is not the value asked for: what would be right, for the end of an error line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(pub String);

impl Invalid {
    pub fn new(right: impl Into<String>) -> Self {
        Invalid(right.into())
    }
}

/// Declares a checked newtype over `String` with `FromStr`, `Display`, `as_str` and serde as text.
macro_rules! checked_text {
    ($(#[$doc:meta])* $name:ident, $check:path) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(into = "String", try_from = "String")]
        pub struct $name(String);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = Invalid;
            fn from_str(text: &str) -> Result<Self, Invalid> {
                $check(text).map($name)
            }
        }

        impl TryFrom<String> for $name {
            type Error = Invalid;
            fn try_from(text: String) -> Result<Self, Invalid> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}
pub(crate) use checked_text;

checked_text!(
    /// A host name: RFC 1123 labels, at most 64 characters (the kernel's limit for a host name), lower case.
    Domain, check_domain
);
checked_text!(
    /// What nginx answers for: a [`Domain`], `*.` before one, or an IP address.
    HostPattern, check_host_pattern
);
checked_text!(
    /// The app's name: project, database and directory name (docs/env.md, `app.name`).
    AppName, check_app_name
);
checked_text!(
    /// A PostgreSQL database name: any text of at most 63 bytes without NUL; it is quoted where it is used.
    DatabaseName, check_database
);
checked_text!(
    /// An absolute path without `.`/`..` parts, control characters or doubled slashes; at most 4095 bytes.
    AbsPath, check_path
);
checked_text!(
    /// A path that is not backed up, without `.`/`..` parts: absolute, or below the app's storage vault, where `*` and `**` are patterns.
    UnstoredPath, check_unstored
);
checked_text!(
    /// A Debian package name (Debian Policy 5.6.1).
    PackageName, check_package
);
checked_text!(
    /// `user` or `user:group`, names or numbers.
    Owner, check_owner
);
checked_text!(
    /// A systemd calendar expression by its characters; systemd itself judges the rest (systemd.time(7)).
    Calendar, check_calendar
);
checked_text!(
    /// A compose service's name (Compose Specification: `[a-zA-Z0-9._-]+`), at most 63 characters.
    ServiceName, check_service
);

checked_text!(
    /// An address on the web: `https://`, or `http://` for servers in one's own network; no user, no fragment.
    WebUrl, check_web_url
);
checked_text!(
    /// A mail address, as it goes to a certificate authority: something, `@`, a host name.
    Email, check_email
);
checked_text!(
    /// A kind of file system, as mount(8) takes it: `cifs`, `nfs4`, `fuse.sshfs`.
    FileSystemType, check_file_system
);

fn check_web_url(text: &str) -> Result<String, Invalid> {
    let good = reqwest::Url::parse(text).is_ok_and(|url| {
        ["https", "http"].contains(&url.scheme())
            && url.has_host()
            && url.username().is_empty()
            && url.password().is_none()
            && url.fragment().is_none()
    });
    let plain = text.len() <= 2048 && text.bytes().all(|b| b.is_ascii_graphic());
    if good && plain {
        Ok(text.to_owned())
    } else {
        Err(Invalid::new("a web address, like 'https://ca.example.org/dir'"))
    }
}

fn check_email(text: &str) -> Result<String, Invalid> {
    let local_is_good = |local: &str| {
        !local.is_empty()
            && local.len() <= 64
            && local.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&*+-/=?^_{|}~.".contains(&b))
    };
    match text.rsplit_once('@') {
        Some((local, domain)) if local_is_good(local) && check_domain(domain).is_ok() => Ok(text.to_owned()),
        _ => Err(Invalid::new("a mail address, like 'admin@example.org'")),
    }
}

fn check_file_system(text: &str) -> Result<String, Invalid> {
    let good = !text.is_empty()
        && text.len() <= 32
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.".contains(&b))
        && !text.starts_with('.');
    if good { Ok(text.to_owned()) } else { Err(Invalid::new("a kind of file system, like 'nfs4' or 'cifs'")) }
}

fn check_domain(text: &str) -> Result<String, Invalid> {
    let right = "a host name: letters, digits, '-' and '.', at most 64 characters";
    let name = text.to_ascii_lowercase();
    let label_is_good = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if name.len() <= 64 && name.split('.').all(label_is_good) { Ok(name) } else { Err(Invalid::new(right)) }
}

fn check_host_pattern(text: &str) -> Result<String, Invalid> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(address.to_string());
    }
    // nginx's own short form for a name and all below it is `.name`.
    let prefix = ["*.", "."].into_iter().find(|prefix| text.starts_with(prefix)).unwrap_or("");
    check_domain(&text[prefix.len()..])
        .map(|name| format!("{prefix}{name}"))
        .map_err(|_| Invalid::new("a host name, '*.' and a host name, or an IP address"))
}

impl HostPattern {
    /// `.name` as what it stands for: the name, and all below it.
    pub fn spelled_out(&self) -> Vec<HostPattern> {
        match self.0.strip_prefix('.') {
            Some(name) => vec![HostPattern(name.to_owned()), HostPattern(format!("*.{name}"))],
            None => vec![self.clone()],
        }
    }

    /// The address, where the pattern is one.
    pub fn address(&self) -> Option<IpAddr> {
        self.0.parse().ok()
    }
}

impl From<&Domain> for HostPattern {
    fn from(domain: &Domain) -> Self {
        HostPattern(domain.0.clone())
    }
}

/// Names that would collide with directories or databases of the appliance.
const RESERVED_APP_NAMES: [&str; 7] = ["etc", "appliance", "postgres", "template0", "template1", "data", "root"];

fn check_app_name(text: &str) -> Result<String, Invalid> {
    let mut bytes = text.bytes();
    let good = bytes.next().is_some_and(|b| b.is_ascii_lowercase())
        && bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && text.len() <= 31;
    if !good {
        return Err(Invalid::new("a lower-case letter, then up to 30 lower-case letters, digits or '-'"));
    }
    if RESERVED_APP_NAMES.contains(&text) {
        return Err(Invalid::new(format!("another name: {} are taken", RESERVED_APP_NAMES.join(", "))));
    }
    Ok(text.to_owned())
}

impl AppName {
    /// The prefix of the app's own variables: `my-shop` becomes `MY_SHOP`.
    pub fn variable_prefix(&self) -> String {
        self.0.to_ascii_uppercase().replace('-', "_")
    }

    /// The address on this host at which the ports of one of several apps are published: two of them may publish the same port. All of
    /// 127.0.0.0/8 is loopback; even, since the next one is that of the containers that hold the place of others ([`super::Route::bridge`]).
    pub fn loopback(&self) -> std::net::Ipv4Addr {
        use sha2::{Digest, Sha256};
        let digest = Sha256::digest(self.0.as_bytes());
        // Not in 127.0.0.0/16, where others have their addresses (systemd-resolved), nor in that of an app that has the host to itself.
        std::net::Ipv4Addr::new(127, 128 | digest[0], digest[1], digest[2] & 0xfe)
    }

    /// The name of the old ECS-Appliance's app (`ecs:` is `app:` with this name).
    pub fn ecs() -> Self {
        AppName("ecs".to_owned())
    }
}

fn check_database(text: &str) -> Result<String, Invalid> {
    let reserved = ["template0", "template1", "postgres"].contains(&text);
    if text.is_empty() || text.len() > 63 || text.chars().any(char::is_control) || reserved {
        return Err(Invalid::new("1 to 63 bytes without control characters, not one of PostgreSQL's own databases"));
    }
    Ok(text.to_owned())
}

impl From<&AppName> for DatabaseName {
    fn from(name: &AppName) -> Self {
        DatabaseName(name.0.clone())
    }
}

fn check_path(text: &str) -> Result<String, Invalid> {
    let right = "an absolute path without '.', '..', '//' or control characters";
    let Some(inner) = text.strip_prefix('/') else { return Err(Invalid::new(right)) };
    let part_is_good = |part: &str| !part.is_empty() && part != "." && part != "..";
    if inner.is_empty()
        || text.len() > 4095
        || text.chars().any(char::is_control)
        || !inner.split('/').all(part_is_good)
    {
        return Err(Invalid::new(right));
    }
    Ok(text.to_owned())
}

fn check_unstored(text: &str) -> Result<String, Invalid> {
    let right = "an absolute path without '*', or one below the storage vault, like 'cache' or '*/thumbnails', and neither with '.', '..' or '//'";
    // What else restic takes for a pattern. One from the root would be a pattern for other apps' files as well.
    let (below, reserved) = match text.starts_with('/') {
        true => (text.to_owned(), &['[', ']', '\\', '?', '*'][..]),
        false => (format!("/vault/{text}"), &['[', ']', '\\', '?'][..]),
    };
    if text.contains(reserved) {
        return Err(Invalid::new(right));
    }
    check_path(&below).map(|_| text.to_owned()).map_err(|_| Invalid::new(right))
}

fn check_package(text: &str) -> Result<String, Invalid> {
    let mut bytes = text.bytes();
    let good = bytes.next().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        && bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b))
        && (2..=128).contains(&text.len());
    if good { Ok(text.to_owned()) } else { Err(Invalid::new("a Debian package name, like 'postgresql-client'")) }
}

fn check_owner(text: &str) -> Result<String, Invalid> {
    let name_is_good = |name: &str| {
        !name.is_empty()
            && name.len() <= 32
            && !name.starts_with('-')
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b))
    };
    if text.split(':').count() <= 2 && text.split(':').all(name_is_good) {
        Ok(text.to_owned())
    } else {
        Err(Invalid::new("'user' or 'user:group'"))
    }
}

impl Owner {
    pub fn user(&self) -> &str {
        self.0.split(':').next().unwrap_or(&self.0)
    }

    /// The group; the user's own name where none is given.
    pub fn group(&self) -> &str {
        self.0.split(':').nth(1).unwrap_or_else(|| self.user())
    }
}

fn check_calendar(text: &str) -> Result<String, Invalid> {
    let good = |c: char| c.is_ascii_alphanumeric() || " *:,./~+-_".contains(c);
    if text.trim().is_empty() || text.len() > 120 || !text.chars().all(good) {
        return Err(Invalid::new("a systemd calendar expression, like '*-*-* 06:30:00'"));
    }
    Ok(text.trim().to_owned())
}

fn check_service(text: &str) -> Result<String, Invalid> {
    let mut bytes = text.bytes();
    let good = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric())
        && bytes.all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        && text.len() <= 63;
    if good { Ok(text.to_owned()) } else { Err(Invalid::new("letters, digits, '.', '_' and '-', at most 63")) }
}

/// A file's permission bits, written in octal as `0640` or `640`. The set-id bits are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileMode(pub u32);

impl FromStr for FileMode {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let digits = text.strip_prefix("0o").unwrap_or(text);
        let plain = (3..=4).contains(&digits.len()) && digits.bytes().all(|b| (b'0'..=b'7').contains(&b));
        match u32::from_str_radix(digits, 8) {
            Ok(mode) if plain && mode <= 0o777 => Ok(FileMode(mode)),
            _ => Err(Invalid::new("three octal digits, like '0640'")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn takes<T: FromStr>(good: &[&str], bad: &[&str]) {
        for text in good {
            assert!(text.parse::<T>().is_ok(), "{text:?} should be taken");
        }
        for text in bad {
            assert!(text.parse::<T>().is_err(), "{text:?} should be refused");
        }
    }

    #[test]
    fn each_name_takes_only_what_it_is() {
        let long = "a".repeat(65);
        takes::<Domain>(&["localhost", "a.b-c.example"], &["", "a..b", "-a", "a-", "a_b", "ä.de", "a;b", "a b", &long]);
        takes::<HostPattern>(&["*.a.de", ".a.de", "10.0.0.1", "::1"], &["*", "*.", ".", "..a.de", "a.*.de", "*.*.de"]);
        takes::<AppName>(&["ecs", "my-shop2"], &["", "Ecs", "2shop", "etc", "a_b", &"a".repeat(32)]);
        takes::<DatabaseName>(&["Shop Data\"x"], &["", "template1", "a\0b", &"a".repeat(64)]);
        takes::<AbsPath>(&["/app/x y"], &["", "/", "a/b", "/a/../b", "/a//b", "/a\nb", "/a/./b"]);
        takes::<UnstoredPath>(
            &["/srv/x", "cache", "*/thumbnails"],
            &["", "/", "../x", "a//b", "a/", "a\nb", "/srv/*/x", "a["],
        );
        takes::<PackageName>(&["libstdc++6", "vim"], &["", "-y", "Vim", "a b", "x"]);
        takes::<Owner>(&["app", "app:adm", "1000:1000"], &["", "a:b:c", ":", "a b", "-x", "a\n"]);
        takes::<Calendar>(&["*-*-* 06:30:00", "Mon..Fri 02:00"], &["", "x\n[Timer]", "a=b", "\""]);
        takes::<ServiceName>(&["ecs.web", "redis_exporter"], &["", ".a", "a/b", "a b"]);
        takes::<WebUrl>(
            &["https://ca.example/dir", "http://127.0.0.1:14000/dir"],
            &["", "ca.example", "ftp://x/", "https://", "https://u:p@h/", "https://h/#x", "https://h/a b"],
        );
        takes::<Email>(&["a.b+c@d.example"], &["", "a", "a@", "@b.de", "a b@c.de", "a@b c", "a;b@c.de"]);
        takes::<FileSystemType>(&["cifs", "fuse.sshfs"], &["", "-o", "a b", "ext4,x"]);
        takes::<FileMode>(&["0640", "600", "0o644"], &["", "4755", "99", "0888", "rw", "+644"]);
    }

    #[test]
    fn owner_falls_back_to_the_users_group() {
        let owner: Owner = "app".parse().expect("a plain user name is an owner");
        assert_eq!((owner.user(), owner.group()), ("app", "app"));
    }
}
