//! Secrets and configs on the host: where their content is, so that containers can mount it. Content that stands in no file of its
//! own is written to memory, and is gone with the boot.

use super::model::{Content, Grant, Service, Stack};
use super::{allow, by_its_own_name, in_checkout};
use crate::env::{Binds, hex};
use crate::host::{Dir, File, Host};
use crate::state::RUN;
use crate::value::Owner;
use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// The largest file that a secret or config may be, in bytes.
const MAX_BYTES: u64 = 16 << 20;

/// A grant that can be mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Granted {
    /// `secrets` or `configs`.
    pub kind: &'static str,
    pub name: String,
    /// Absolute, on the host.
    pub source: String,
    pub target: String,
    /// Of the content: with another, the container is made anew.
    pub digest: String,
}

/// A service's grants, with their content as it is now.
///
/// # Errors
/// A file that is missing.
pub fn look(stack: &Stack, service: &Service, host: &Host) -> Result<Vec<Granted>> {
    service
        .grants
        .iter()
        .map(|grant| Ok(granted(stack, service, grant, &content(stack, service, grant, host)?)))
        .collect()
}

/// Writes what must lie in memory.
pub fn ensure(stack: &Stack, host: &Host) -> Result<()> {
    let written: Vec<(&Service, &Grant)> = stack
        .services
        .iter()
        .flat_map(|service| service.grants.iter().map(move |grant| (service, grant)))
        .filter(|(_, grant)| is_written(grant))
        .collect();
    if written.is_empty() {
        return Ok(());
    }
    host.ensure_dir(RUN, &Dir::plain())?;
    host.ensure_dir(&directory(stack), &Dir::plain().mode(0o700))?;
    for (service, grant) in written {
        let bytes = content(stack, service, grant, host)?;
        let path = granted(stack, service, grant, &bytes).source;
        let owner: Owner = format!("{}:{}", grant.uid.unwrap_or(0), grant.gid.unwrap_or(0))
            .parse()
            .map_err(|right| anyhow::anyhow!("the owner of {} must be {right}", grant.name))?;
        let file = File::bytes(bytes).mode(grant.mode.unwrap_or(0o444)).owner(&owner);
        host.ensure_file(&path, &file)?;
    }
    Ok(())
}

/// Only root comes this far; what lies below is mounted by Docker.
fn directory(stack: &Stack) -> String {
    format!("{RUN}/grants-{}", stack.project)
}

/// A file of the host that is wanted as it is needs no copy.
fn is_written(grant: &Grant) -> bool {
    !matches!(grant.content, Content::File(_)) || grant.uid.is_some() || grant.gid.is_some() || grant.mode.is_some()
}

fn content(stack: &Stack, service: &Service, grant: &Grant, host: &Host) -> Result<Vec<u8>> {
    match &grant.content {
        Content::Text(text) => Ok(text.clone().into_bytes()),
        Content::File(path) => read(stack, path, host)?.with_context(|| {
            format!("the service {} needs the file {path} for {}, which is missing", service.name, grant.name)
        }),
    }
}

/// With `app.allow.binds: own` no link leads out of the app's own directories, whoever has made it and when.
fn read(stack: &Stack, path: &str, host: &Host) -> Result<Option<Vec<u8>>> {
    if stack.allow.binds == Binds::Any {
        return host.read(path, MAX_BYTES);
    }
    let path = by_its_own_name(path);
    if in_checkout(&path).is_some_and(|(app, _)| app == stack.project) {
        return host.read_beneath(&format!("/app/{}", stack.project), &path, MAX_BYTES);
    }
    match allow::own_directory(&path, &stack.project) {
        Some(directory) => host.read_beneath(directory, &path, MAX_BYTES),
        // Where root alone writes.
        None => host.read_trusted(&path, MAX_BYTES),
    }
}

fn granted(stack: &Stack, service: &Service, grant: &Grant, bytes: &[u8]) -> Granted {
    let source = match &grant.content {
        Content::File(path) if !is_written(grant) => path.clone(),
        _ => {
            let place = hex(&Sha256::digest(&grant.target));
            format!("{}/{}-{}", directory(stack), service.name, place.get(..16).unwrap_or_default())
        }
    };
    Granted {
        kind: if grant.is_secret { "secrets" } else { "configs" },
        name: grant.name.clone(),
        source,
        target: grant.target.clone(),
        digest: hex(&Sha256::digest(bytes)),
    }
}
