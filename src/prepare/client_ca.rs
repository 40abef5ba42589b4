//! The authority for client certificates, as it lies in `/data/<app>-ca`: the app's own, or ours (`authority/`). It is looked at
//! here and never changed. The app's containers may write there, so nginx gets a copy of what was checked.

use crate::host::pem::MAX_PEM;
use crate::host::{Dir, File, Host};
use crate::value::{AppName, ClientAuthority, Secret, certificate, check_chain};
use anyhow::Result;

/// The directory that holds it.
pub fn directory(app: &AppName) -> String {
    format!("/data/{app}-ca")
}

/// The key of a CA of our own, below a directory that is root's.
pub const OUR_KEY: &str = "/data/client-ca/key.pem";
pub const CERTIFICATE: &str = "ca.cert.pem";
pub const LIST: &str = "crl.pem";
/// Where nginx reads both: root's alone.
pub const CHECKED: &str = "/data/appliance/host/client-ca";

/// The authority, if there is one that can be used now; nginx's copy is made equal to it. What is wrong with one that cannot be used is
/// told.
pub fn usable(host: &Host, app: &AppName) -> Result<Option<ClientAuthority>> {
    match read(host, app) {
        Ok(Some(found)) => {
            host.ensure_dir(CHECKED, &Dir::plain().mode(0o700))?;
            if let Some(list) = found.list {
                host.ensure_file(&format!("{CHECKED}/{LIST}"), &File::text(list).mode(0o600))?;
            }
            host.ensure_file(&format!("{CHECKED}/{CERTIFICATE}"), &File::text(found.certificates).mode(0o600))?;
            Ok(Some(found.authority))
        }
        Ok(None) => Ok(None),
        Err(why) => {
            tracing::warn!("no client certificate is accepted: {why}; see {}", directory(app));
            Ok(None)
        }
    }
}

/// What was read and checked, at one moment.
struct Found {
    authority: ClientAuthority,
    certificates: String,
    list: Option<String>,
}

/// The authority, if there is one.
///
/// # Errors
/// It cannot be used, and why.
pub fn look(host: &Host, app: &AppName) -> Result<Option<ClientAuthority>, String> {
    Ok(read(host, app)?.map(|found| found.authority))
}

/// A file that the app may have put there: no link is followed, and no pipe waited for.
pub fn read_file(host: &Host, app: &AppName, name: &str) -> Result<Option<String>> {
    host.read_text_unlinked(&format!("{}/{name}", directory(app)), MAX_PEM)
}

fn read(host: &Host, app: &AppName) -> Result<Option<Found>, String> {
    let read = |name| read_file(host, app, name).map_err(|error| format!("{error:#}"));
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
    if let Some(key) = host.read_text(OUR_KEY, MAX_PEM).map_err(|error| format!("{error:#}"))?.map(Secret::new) {
        // The app could let in whom it likes in the name of ours.
        if !certificate::is_of_key(&certificates, &key) {
            return Err(format!(
                "the certificate is not that of the appliance's own key {OUR_KEY}; with another CA that key must go"
            ));
        }
        check_chain(&certificates, list.as_deref())?;
    }
    let now = host.now().as_second();
    if authority.not_after <= now {
        return Err("the CA's certificate has expired".to_owned());
    }
    if authority.next_update.is_some_and(|next| next <= now) || authority.this_update.is_some_and(|this| this > now) {
        // nginx refuses every client with such a list, which is what must happen; but somebody has to know.
        tracing::warn!("the revocation list for client certificates is not valid now; see {}", directory(app));
    }
    Ok(Some(Found { authority, certificates, list }))
}
