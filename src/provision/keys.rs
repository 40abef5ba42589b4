//! Fresh keys, made by openssl and gpg. They travel through pipes and private directories, never as arguments.

use crate::host::{Cmd, Host, PrivateDirectory};
use crate::value::Secret;
use anyhow::{Context, Result, bail};
use base64::Engine;
use std::time::Duration;

/// Making a key may have to wait for the kernel's randomness.
const MAKING: Duration = Duration::from_secs(120);

/// A DKIM key: the PEM text, and the public part as it stands in DNS.
pub struct DkimKey {
    pub pem: Secret,
    pub public: String,
}

/// A 2048-bit RSA key: the longest that fits into DNS everywhere (RFC 8301, 3.2).
pub async fn dkim(host: &Host) -> Result<DkimKey> {
    let make = Cmd::new("openssl", ["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"]);
    let pem = host.ask(make.deadline(MAKING)).await.context("could not make the DKIM key")?.stdout;
    let public = Cmd::new("openssl", ["pkey", "-pubout", "-outform", "PEM"]).input(pem.as_str());
    let public = host.ask(public).await.context("could not read the DKIM key back")?.stdout;
    let public: String = public.lines().filter(|line| !line.starts_with("-----")).collect();
    if base64::engine::general_purpose::STANDARD.decode(&public).map_or(0, |bytes| bytes.len()) < 256 {
        bail!("openssl gave no public key for the DKIM key");
    }
    Ok(DkimKey { pem: Secret::new(pem.trim()), public })
}

/// An OpenPGP key without a passphrase that signs and encrypts, armored, secret part included.
pub async fn openpgp(host: &Host, name: &str) -> Result<Secret> {
    let home = host.private_directory()?;
    let request = format!(
        "%no-protection\nKey-Type: RSA\nKey-Length: 3072\nKey-Usage: encrypt,sign\nName-Real: {name}\nName-Email: \
         {name}@localhost\nExpire-Date: 0\n%commit\n"
    );
    let made = async {
        host.ask(gpg(&home, &["--generate-key"]).input(request).deadline(MAKING)).await?;
        host.ask(gpg(&home, &["--armor", "--export-secret-keys"])).await
    };
    let made = made.await.with_context(|| format!("could not make the OpenPGP key {name}"));
    let stopped = stop_agent(host, &home).await;
    let armored = made?.stdout;
    stopped?;
    if !armored.starts_with("-----BEGIN PGP PRIVATE KEY BLOCK-----") {
        bail!("gpg gave no secret key for {name}");
    }
    Ok(Secret::new(armored.trim()))
}

/// gpg with a home of its own.
pub fn gpg(home: &PrivateDirectory, args: &[&str]) -> Cmd {
    let directory = home.path().to_owned();
    let first = ["--homedir", &directory, "--batch", "--quiet", "--no-tty", "--no-autostart"];
    let own = ["--homedir", &directory, "--batch", "--quiet", "--no-tty"];
    // Making and exporting secret keys needs gpg's agent, which it starts by itself; the rest must not leave one behind.
    let needs_agent = args.iter().any(|arg| ["--generate-key", "--export-secret-keys"].contains(arg));
    let head: &[&str] = if needs_agent { &own } else { &first };
    Cmd::new("gpg", head.iter().chain(args).copied())
}

/// The agent lives on in the home's socket until it is told to go.
async fn stop_agent(host: &Host, home: &PrivateDirectory) -> Result<()> {
    let stop = Cmd::new("gpgconf", ["--homedir", home.path(), "--kill", "gpg-agent"]);
    host.ask(stop).await.map(drop).context("gpg's agent could not be stopped")
}
