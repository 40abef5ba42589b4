//! The repository's password, from `appliance.backup.encrypt`.

use crate::value::Secret;
use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// The least that a password may have, in characters.
const MIN: usize = 16;
/// How an OpenPGP block begins (RFC 9580, section 6.2).
const BEGIN: &str = "-----BEGIN PGP ";
/// What tells this use of the key from any other.
const LABEL: &[u8] = b"appliance-backup-1";
const LENGTH: usize = 32;

/// The password: as it stands there, or made of an OpenPGP key by HKDF with SHA-256 (RFC 5869) over its packets, so that neither line ends
/// nor indentation change it.
///
/// # Errors
/// It is too short, or the block is broken.
pub fn password(encrypt: &Secret) -> Result<Secret> {
    let text = encrypt.expose().trim();
    if !text.starts_with(BEGIN) {
        if text.chars().count() < MIN {
            bail!("'appliance.backup.encrypt' is shorter than {MIN} characters; make one: openssl rand -base64 32");
        }
        return Ok(Secret::new(text));
    }
    let packets = packets(text).context("the OpenPGP key in 'appliance.backup.encrypt' is broken")?;
    let key = ring::hkdf::Salt::new(ring::hkdf::HKDF_SHA256, &[]).extract(&packets);
    let mut bytes = [0; LENGTH];
    let filled = key.expand(&[LABEL], ring::hkdf::HKDF_SHA256).and_then(|key| key.fill(&mut bytes));
    // The length is the hash's own.
    filled.map_err(|_| anyhow::anyhow!("the repository's password could not be made"))?;
    Ok(Secret::new(STANDARD.encode(bytes)))
}

/// What an armoured block holds: headers end with an empty line, a checksum begins with `=`.
fn packets(block: &str) -> Result<Vec<u8>> {
    let lines: Vec<&str> = block.lines().map(str::trim).collect();
    let body = lines.iter().skip(1).skip_while(|line| line.contains(": ")).skip_while(|line| line.is_empty());
    let body: String = body.take_while(|line| !line.starts_with('=') && !line.starts_with('-')).copied().collect();
    let packets = STANDARD.decode(body).context("it is not base64")?;
    if packets.is_empty() {
        bail!("it is empty");
    }
    Ok(packets)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<String> {
        password(&Secret::new(text)).map(|password| password.expose().to_owned())
    }

    #[test]
    fn a_key_gives_the_same_password_however_it_is_indented() {
        let plain =
            "-----BEGIN PGP PRIVATE KEY BLOCK-----\n\nAQIDBAUG\nBwgJ\n=abcd\n-----END PGP PRIVATE KEY BLOCK-----\n";
        let other = "  -----BEGIN PGP PRIVATE KEY BLOCK-----\r\n  Version: GnuPG v2\r\n  \r\n  AQIDBAUGBwgJ\r\n  -----END PGP PRIVATE KEY BLOCK-----";
        let password = of(plain).expect("a key");
        assert_eq!(of(other).expect("a key"), password);
        // HKDF with SHA-256, no salt, over the bytes 1 to 9, by another implementation.
        assert_eq!(password, "4L/VK93ebEWuNENj6FrblL1vnd2A12n2FcsuZTbwepg=");
        assert_ne!(of(&plain.replace("BwgJ", "BwgK")).expect("a key"), password);
        assert_eq!(of(" a password of its own ").expect("long enough"), "a password of its own");
        for bad in
            ["short", "-----BEGIN PGP PRIVATE KEY BLOCK-----\n\n*\n-----END", "-----BEGIN PGP X-----\n\n-----END"]
        {
            assert!(of(bad).is_err(), "{bad}");
        }
    }
}
