//! Taking a certificate back whose key may be in other hands. Another one is put in place first; what is to be revoked is written
//! down before, so that a kill between the two leaves it to the next look.

use super::{ORDERING, authority, home, look};
use crate::env::Env;
use crate::host::Host;
use crate::host::acme::Authority;
use crate::prepare::tls;
use crate::state::OrderLock;
use crate::value::Tenant;
use crate::value::certificate::{self, Pair};
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

/// The certificates that are to be revoked.
fn path(tenant: &Tenant) -> String {
    format!("{}/revoke.json", home(tenant))
}

/// The largest list that is read, in bytes.
const MAX_BYTES: u64 = 4 << 20;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Condemned {
    /// The server that issued it, as far as is known: the one that was named when it was to be revoked.
    directory: String,
    /// The chain, PEM.
    certificate: String,
}

fn read(host: &Host, tenant: &Tenant) -> Result<Vec<Condemned>> {
    let path = path(tenant);
    match host.read(&path, MAX_BYTES)? {
        Some(bytes) => serde_json::from_slice(&bytes).with_context(|| format!("{path} is broken")),
        None => Ok(Vec::new()),
    }
}

fn write(host: &Host, tenant: &Tenant, all: &[Condemned]) -> Result<()> {
    if all.is_empty() {
        return host.discard(&path(tenant));
    }
    host.put(&path(tenant), &serde_json::to_vec(all).context("the list cannot be written")?, 0o600)
}

/// Orders another certificate and then revokes the one in place.
///
/// # Errors
/// It is not revoked; the next look at the certificate tries it again.
pub async fn revoke(env: &Env, host: &Host) -> Result<()> {
    let tenant = &env.tenant;
    let current =
        tls::current(host, &tls::Place::of(tenant)).context("there is no certificate that could be revoked")?;
    if current.facts().self_signed {
        bail!("the certificate in place is signed by itself; there is no authority that could revoke it");
    }
    let authority = authority(env, host)?;
    let mut all = read(host, tenant)?;
    if !all.iter().any(|known| known.certificate == current.certificate()) {
        let certificate = current.certificate().to_owned();
        all.push(Condemned { directory: authority.directory.clone(), certificate });
        write(host, tenant, &all)?;
    }
    look(env, host, true)
        .await
        .context("the certificate is not revoked yet; it will be once another one is in its place")?;
    let _order = OrderLock::take(host, "cert", ORDERING).await?;
    carry_out(&authority, tenant, host).await;
    if read(host, tenant)?.iter().any(|left| left.certificate == current.certificate()) {
        bail!(
            "another certificate is in place, but the old one is not revoked yet; the journal or the line above says why"
        );
    }
    Ok(())
}

/// Whether the pair in place is to be revoked.
pub(super) fn is_condemned(host: &Host, tenant: &Tenant, current: Option<&Pair>) -> Result<bool> {
    let Some(current) = current else { return Ok(false) };
    Ok(read(host, tenant)?.iter().any(|known| known.certificate == current.certificate()))
}

/// Revokes what is to be revoked and not in place any more. Trouble is told: it must not keep a certificate from being renewed.
pub(super) async fn carry_out(authority: &Authority, tenant: &Tenant, host: &Host) {
    if let Err(error) = try_all(authority, tenant, host).await {
        tracing::warn!("{error:#}");
    }
}

async fn try_all(authority: &Authority, tenant: &Tenant, host: &Host) -> Result<()> {
    let all = read(host, tenant)?;
    if all.is_empty() {
        return Ok(());
    }
    let (current, now) = (tls::current(host, &tls::Place::of(tenant)), host.now().as_second());
    let mut left = Vec::new();
    for one in all {
        let is_in_place = current.as_ref().is_some_and(|current| current.certificate() == one.certificate);
        let ended = certificate::facts(&one.certificate).is_ok_and(|facts| facts.not_after <= now);
        if ended && !is_in_place {
            continue;
        }
        let theirs = Authority { directory: one.directory.clone(), ..authority.clone() };
        if is_in_place {
            left.push(one);
        } else if let Err(error) = super::within(host.acme_revoke(&theirs, &one.certificate)).await {
            tracing::warn!("a certificate is not revoked yet: {error:#}");
            left.push(one);
        }
    }
    write(host, tenant, &left)
}
