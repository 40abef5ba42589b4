//! The authority for client certificates, as it lies in `/data/<app>-ca`: the app's own, or ours (`authority/`). It is looked at
//! here and never changed.

use crate::host::Host;
use crate::host::pem::MAX_PEM;
use crate::value::{AppName, ClientAuthority};

/// The directory that holds it.
pub fn directory(app: &AppName) -> String {
    format!("/data/{app}-ca")
}

/// The key of a CA of our own, below a directory that is root's.
pub const OUR_KEY: &str = "/data/client-ca/key.pem";
pub const CERTIFICATE: &str = "ca.cert.pem";
pub const LIST: &str = "crl.pem";

/// The authority, if there is one that can be used now. What is wrong with one that cannot is told.
pub fn usable(host: &Host, app: &AppName) -> Option<ClientAuthority> {
    match look(host, app) {
        Ok(authority) => authority,
        Err(why) => {
            tracing::warn!("no client certificate is accepted: {why}; see {}", directory(app));
            None
        }
    }
}

/// The authority, if there is one.
///
/// # Errors
/// It cannot be used, and why.
pub fn look(host: &Host, app: &AppName) -> Result<Option<ClientAuthority>, String> {
    let read =
        |name| host.read_text(&format!("{}/{name}", directory(app)), MAX_PEM).map_err(|error| format!("{error:#}"));
    let (certificates, list) = (read(CERTIFICATE)?, read(LIST)?);
    let Some(certificates) = certificates else { return Ok(None) };
    if list.is_none() {
        // It was there before, or must be: without it those who were revoked would be let in.
        if host.exists(OUR_KEY) {
            return Err("the revocation list is missing; appliance cert ca refresh signs it".to_owned());
        }
        let site = host.read_text(super::SITE, MAX_PEM).map_err(|error| format!("{error:#}"))?;
        if site.is_some_and(|site| site.contains("ssl_crl ")) {
            return Err("the revocation list is gone; put it back, one that is empty will do".to_owned());
        }
    }
    let authority = ClientAuthority::parse(&certificates, list.as_deref())?;
    let now = host.now().as_second();
    if authority.not_after <= now {
        return Err("the CA's certificate has expired".to_owned());
    }
    if authority.next_update.is_some_and(|next| next <= now) || authority.this_update.is_some_and(|this| this > now) {
        // nginx refuses every client with such a list, which is what must happen; but somebody has to know.
        tracing::warn!("the revocation list for client certificates is not valid now; see {}", directory(app));
    }
    Ok(Some(authority))
}
