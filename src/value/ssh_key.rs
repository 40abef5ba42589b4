//! Public keys as env.yml holds them: lines of `authorized_keys` and `known_hosts`, and keys that commits are signed with. Writing the
//! files is `prepare/ssh.rs` and `update/git/trust.rs`.

use super::names::Invalid;
use std::fmt;
use std::str::FromStr;

/// A public key line: `[options] type base64 [comment]` (sshd(8), AUTHORIZED_KEYS FILE FORMAT), at most 16 KiB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshKey {
    line: String,
    identity: String,
}

const TYPES: [&str; 9] = [
    "ssh-ed25519",
    "ssh-rsa",
    "ssh-dss",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
    "ssh-ed25519-cert-v01@openssh.com",
];

impl SshKey {
    /// The whole line, as it goes into the file.
    pub fn line(&self) -> &str {
        &self.line
    }

    /// Type and key without options and comment: two lines with the same identity are the same key.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// The identity of any line of an existing file, if it holds a key.
    pub fn identity_of(line: &str) -> Option<String> {
        // A key that is commented out is none.
        if line.trim_start().starts_with('#') {
            return None;
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        let at = words.iter().position(|word| TYPES.contains(word))?;
        let body = words.get(at + 1)?;
        is_key_body(words[at], body).then(|| format!("{} {}", words[at], body))
    }
}

/// The body is base64 whose first field repeats the type (RFC 4253 §6.6), so a cut or swapped key is noticed.
fn is_key_body(kind: &str, body: &str) -> bool {
    let Some(bytes) = decode_base64(body) else { return false };
    let Some(length) = bytes.first_chunk::<4>().map(|head| u32::from_be_bytes(*head) as usize) else { return false };
    bytes.get(4..4 + length) == Some(kind.as_bytes()) && bytes.len() > 4 + length + 4
}

fn decode_base64(text: &str) -> Option<Vec<u8>> {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.decode(text).ok()
}

impl FromStr for SshKey {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let line = text.trim();
        let right = "one public key line, like 'ssh-ed25519 AAAA… name'";
        if line.len() > 16 * 1024 || line.chars().any(char::is_control) || line.starts_with('#') {
            return Err(Invalid::new(right));
        }
        let identity = SshKey::identity_of(line).ok_or_else(|| Invalid::new(right))?;
        Ok(SshKey { line: line.to_owned(), identity })
    }
}

impl fmt::Display for SshKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line)
    }
}

/// A line of a `known_hosts` file: `[@marker] hosts type base64 [comment]` (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownHost(String);

impl KnownHost {
    pub fn line(&self) -> &str {
        &self.0
    }
}

impl FromStr for KnownHost {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let right = "a line of known_hosts, like 'git.example.org ssh-ed25519 AAAA…' (see ssh-keyscan)";
        let line = text.trim();
        let mut words = line.split(' ').filter(|word| !word.is_empty()).peekable();
        words.next_if(|word| ["@cert-authority", "@revoked"].contains(word));
        let hosts = words.next().unwrap_or_default();
        let (kind, body) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let is_sound = line.len() <= 16 * 1024
            && !line.chars().any(char::is_control)
            && !hosts.is_empty()
            && !hosts.starts_with('#')
            && TYPES.contains(&kind)
            && is_key_body(kind, body);
        if is_sound { Ok(KnownHost(line.to_owned())) } else { Err(Invalid::new(right)) }
    }
}

/// A key that commits may be signed with: an ssh public key line, or an armoured OpenPGP public key block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SigningKey {
    Ssh(SshKey),
    OpenPgp(String),
}

const BEGIN_PGP: &str = "-----BEGIN PGP PUBLIC KEY BLOCK-----";
const END_PGP: &str = "-----END PGP PUBLIC KEY BLOCK-----";

impl FromStr for SigningKey {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let text = text.trim();
        let plain = |c: char| c == '\n' || c == '\r' || !c.is_control();
        if text.starts_with(BEGIN_PGP) && text.ends_with(END_PGP) && text.chars().all(plain) && text.len() <= 256 * 1024
        {
            return Ok(SigningKey::OpenPgp(text.to_owned()));
        }
        match text.parse::<SshKey>() {
            // Options say what a key may do when it logs in, which is not the question here.
            Ok(key) if key.line().starts_with(key.identity()) => Ok(SigningKey::Ssh(key)),
            _ => Err(Invalid::new("an ssh public key line without options, or an armoured OpenPGP public key")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIJ5mN1Bc0AtMqWWzxrQGFgpyLYXh0Dkn7QX8Y3d2s6bq";

    #[test]
    fn options_and_comment_do_not_change_the_identity() {
        let plain: SshKey = format!("ssh-ed25519 {KEY}").parse().expect("a plain key line is valid");
        let dressed: SshKey =
            format!("no-pty,command=\"x y\" ssh-ed25519 {KEY} me@host").parse().expect("options are allowed");
        assert_eq!(plain.identity(), dressed.identity());
    }

    #[test]
    fn lines_of_known_hosts_and_keys_of_signers() {
        for good in [
            format!("git.example.org ssh-ed25519 {KEY}"),
            format!("@cert-authority *.example.org,[h]:22 ssh-ed25519 {KEY} x"),
        ] {
            assert_eq!(good.parse::<KnownHost>().expect(&good).line(), good);
        }
        // No host; another type than the key's; a comment; two lines.
        for bad in [
            format!("ssh-ed25519 {KEY}"),
            format!("h ssh-rsa {KEY}"),
            format!("# h ssh-ed25519 {KEY}"),
            format!("h ssh-ed25519 {KEY}\nx"),
        ] {
            assert!(bad.parse::<KnownHost>().is_err(), "{bad}");
        }
        let pgp = format!("{BEGIN_PGP}\n\nmQ==\n{END_PGP}\n");
        assert_eq!(pgp.parse::<SigningKey>().expect("a block"), SigningKey::OpenPgp(pgp.trim().to_owned()));
        assert!(matches!(format!("ssh-ed25519 {KEY} me").parse::<SigningKey>(), Ok(SigningKey::Ssh(_))));
        for bad in [format!("no-pty ssh-ed25519 {KEY}"), BEGIN_PGP.to_owned(), format!("x {pgp}")] {
            assert!(bad.parse::<SigningKey>().is_err(), "{bad}");
        }
    }

    #[test]
    fn broken_lines_are_refused() {
        let cut = format!("ssh-ed25519 {}", &KEY[..20]);
        let swapped = format!("ssh-rsa {KEY}");
        let two = format!("ssh-ed25519 {KEY}\nssh-ed25519 {KEY}");
        for bad in ["", "ssh-ed25519", "ssh-ed25519 not*base64", &cut, &swapped, &two, "# ssh-ed25519"] {
            assert!(bad.parse::<SshKey>().is_err(), "{bad:?}");
        }
    }
}
