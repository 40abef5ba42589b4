//! Taking a certificate back whose key may be in other hands. Another one is put in place first; the order to revoke is
//! written down before, so that a kill between the two leaves it to the next look.

use super::{ORDERING, authority, look};
use crate::env::Env;
use crate::host::Host;
use crate::host::acme::Authority;
use crate::host::pem::MAX_PEM;
use crate::prepare::tls;
use crate::state::Lock;
use crate::value::certificate::Pair;
use anyhow::{Context, Result, bail};

/// The certificate that is to be revoked.
const CONDEMNED: &str = "/app/etc/acme/revoke.pem";

/// Orders another certificate and then revokes the one in place.
///
/// # Errors
/// Nothing was revoked; the next look at the certificate tries it again.
pub async fn revoke(env: &Env, host: &Host) -> Result<()> {
    let current = tls::current(host)?.context("there is no certificate that could be revoked")?;
    if current.facts().self_signed {
        bail!("the certificate in place is signed by itself; there is no authority that could revoke it");
    }
    if host.read_text(CONDEMNED, MAX_PEM)?.is_none() {
        host.put(CONDEMNED, current.certificate().as_bytes(), 0o600)?;
    }
    look(env, host, true)
        .await
        .context("the certificate is not revoked yet; it will be once another one is in its place")?;
    let authority = authority(env, host)?;
    let _order = Lock::take_order(host, "cert", ORDERING).await?;
    carry_out(&authority, host).await
}

/// Whether the pair in place is to be revoked.
pub(super) fn is_condemned(host: &Host, current: Option<&Pair>) -> Result<bool> {
    let condemned = host.read_text(CONDEMNED, MAX_PEM)?;
    Ok(current.is_some_and(|current| condemned.as_deref() == Some(current.certificate())))
}

/// Revokes what is to be revoked, once something else is in its place.
pub(super) async fn carry_out(authority: &Authority, host: &Host) -> Result<()> {
    let Some(condemned) = host.read_text(CONDEMNED, MAX_PEM)? else { return Ok(()) };
    if is_condemned(host, tls::current(host)?.as_ref())? {
        bail!("the certificate that is to be revoked is still in place");
    }
    super::within(host.acme_revoke(authority, &condemned)).await?;
    tracing::info!("the certificate that was to be revoked is revoked");
    host.discard(CONDEMNED)
}
