//! A client's key and certificate as browsers import them: PKCS #12 (RFC 7292), packed by openssl.

use crate::host::{Cmd, Host};
use crate::value::Secret;
use anyhow::{Context, Result, bail};

/// The largest file that openssl gives, in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// Where it goes, and what it is protected with.
#[derive(Debug, Clone, Copy)]
pub struct Packed<'a> {
    pub path: &'a str,
    pub password: &'a Secret,
    /// With the algorithms that old systems understand (RC2 and 3DES): weak, so only the password's way must be safe.
    pub legacy: bool,
}

impl Packed<'_> {
    /// Nothing is issued that then has no place to go.
    pub(super) fn is_free(&self, host: &Host) -> Result<()> {
        if host.exists(self.path) {
            bail!("{} is there already; name another file with --out", self.path);
        }
        Ok(())
    }

    pub(super) async fn pack(&self, host: &Host, name: &str, pem: &Secret, chain: &str) -> Result<Vec<u8>> {
        let directory = host.private_directory()?;
        let file = directory.file("client.p12");
        let mut args = vec!["pkcs12", "-export", "-name", name, "-passout", "env:PKCS12_PASSWORD", "-out", &file];
        if self.legacy {
            args.push("-legacy");
        }
        let pack = Cmd::new("openssl", args)
            .env("PKCS12_PASSWORD", self.password.expose())
            .input(format!("{}{chain}", pem.expose()))
            .mask(self.password.expose());
        host.ask(pack).await.context("could not pack the certificate")?;
        host.read(&file, MAX_BYTES)?.context("openssl packed nothing")
    }

    pub(super) fn write(&self, host: &Host, packed: &[u8]) -> Result<()> {
        host.write_new(self.path, packed, 0o600, false)
    }
}
