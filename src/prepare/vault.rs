//! Step vault: the keys of `vault_encrypt` and `vault_sign` are those that the storage vault's keyring holds. Only when they change is
//! it made anew.

use crate::env::Env;
use crate::host::{Cmd, Dir, File, Host, What};
use crate::value::{Owner, Secret};
use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use std::time::Duration;

/// Who reads the keyring: the app's user in its containers.
const OWNER: &str = "1000:1000";
/// Which keys it was made from.
const MARK: &str = "appliance.sha256";
const MAX: u64 = 1 << 10;
/// How long taking in a key may take.
const IMPORT: Duration = Duration::from_secs(120);

pub async fn prepare(env: &Env, host: &Host) -> Result<()> {
    let keys = &env.app.vault;
    if keys.is_empty() {
        return Ok(());
    }
    let home = format!("/data/{}-gpg", env.app.name);
    let mark = format!("{home}/{MARK}");
    let mut digest = Sha256::new();
    for key in keys {
        digest.update(key.expose());
        digest.update([0]);
    }
    let digest: String = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    // The directory is a container's: what is no plain file there is no mark, and is replaced.
    let known = host.read_text_unlinked(&mark, MAX).unwrap_or_else(|error| {
        tracing::warn!("{error:#}");
        None
    });
    if known.is_some_and(|has| has.trim() == digest) {
        return Ok(());
    }
    host.note_act(What::Directory, &home, &format!("make the keyring anew with {} keys", keys.len()));
    if !host.applies() {
        return Ok(());
    }
    let owner: Owner = OWNER.parse().context("two numbers are an owner")?;
    let ids = host.ids(&owner)?;
    // Not in the app's directory: what its containers write there is GnuPG's configuration, which may name programs.
    let private = host.private_directory()?;
    host.ensure_dir(private.path(), &Dir::plain().mode(0o700).owner(&owner))?;
    let made = import(keys, private.path(), ids, host).await;
    // It was started for the secret keys, and would stay.
    let stop = Cmd::new("gpgconf", ["--homedir", private.path(), "--kill", "all"]).ids(ids).directory("/");
    host.try_ask(stop).await?;
    made?;
    // Killed from here on, the next run begins again: the mark comes last.
    host.discard(&mark)?;
    for name in host.names(&home)? {
        // What GnuPG of any version calls keys; seeds and settings stay.
        let is_key = name.contains(".gpg")
            || name.contains(".kbx")
            || ["private-keys-v1.d", "public-keys.d"].contains(&name.as_str());
        if is_key {
            host.remove_tree(&format!("{home}/{name}")).await?;
        }
    }
    for name in host.names(private.path())?.iter().filter(|name| IMPORTED.contains(&name.as_str())) {
        let args = ["--recursive", "--no-dereference", "--preserve=mode,timestamps", "--remove-destination", "--"];
        let copy = Cmd::new("cp", [&args[..], &[&private.file(name), &home]].concat());
        host.ask(copy.ids(ids).directory("/").deadline(IMPORT)).await?;
    }
    host.ensure_file(&mark, &File::secret(format!("{digest}\n")).owner(&owner)).map(drop)
}

/// What an import leaves that is a key, or says which are trusted.
/// A newer GnuPG keeps public keys in a directory, and says so in `common.conf`.
const IMPORTED: [&str; 6] =
    ["pubring.kbx", "pubring.gpg", "trustdb.gpg", "private-keys-v1.d", "public-keys.d", "common.conf"];

async fn import(keys: &[Secret], home: &str, ids: (u32, u32), host: &Host) -> Result<()> {
    for (index, key) in keys.iter().enumerate() {
        let args = ["--homedir", home, "--batch", "--no-tty", "--yes", "--import"];
        let cmd = Cmd::new("gpg", args).ids(ids).directory("/").input(key.expose()).deadline(IMPORT);
        let which = ["vault_encrypt", "vault_sign"].get(index).unwrap_or(&"vault");
        host.ask(cmd).await.with_context(|| format!("the key of '{which}' cannot be taken in"))?;
    }
    Ok(())
}
