//! The authority for client certificates, as it lies in `/data/<app>-ca`: the app's own, or ours (`authority/`). It is looked at
//! here and never changed. The app's containers may write there, so nginx gets a copy of what was checked.

use crate::host::pem::MAX_PEM;
use crate::host::{Dir, File, Host};
use crate::state::app_directory;
use crate::value::{AppName, ClientAuthority, Secret, Tenant, certificate, check_chain};
use anyhow::Result;

/// The directory that holds it.
pub fn directory(app: &AppName) -> String {
    format!("/data/{app}-ca")
}

/// Where the key of a CA of our own lies, and the book that goes with it: a directory that is root's.
pub fn home(tenant: &Tenant) -> String {
    tenant.path("/data/client-ca", |name| format!("{}/client-ca", app_directory(name)))
}

/// The key of a CA of our own.
pub fn our_key(tenant: &Tenant) -> String {
    format!("{}/key.pem", home(tenant))
}

/// The files of a CA of our own, the key last: once it is there, nothing is left to be taken over.
const OURS: [&str; 3] = ["book.json", "parent-crl.pem", "key.pem"];
/// The largest of them that is read, in bytes.
const MAX_OURS: u64 = 32 << 20;

/// Takes over the CA that was made for an app while it had the host to itself, or while it was one of several. It is in one place only: a
/// book that was left behind would let in who was revoked since.
pub fn take_over(host: &Host, tenant: &Tenant) -> Result<()> {
    let name = tenant.name().clone();
    let other = if tenant.is_alone() { Tenant::OneOfSeveral(name) } else { Tenant::Alone(name) };
    let Some(key) = host.read_text(&our_key(&other), MAX_PEM)?.map(Secret::new) else { return Ok(()) };
    let Some(certificate) = read_file(host, tenant.name(), CERTIFICATE)? else { return Ok(()) };
    if !certificate::is_of_key(&certificate, &key) {
        return Ok(());
    }
    let is_copied = host.read_text(&our_key(tenant), MAX_PEM)?.is_some_and(|own| own == key.expose());
    if !is_copied && host.exists(&our_key(tenant)) {
        // Of another CA than the one that lies there.
        return Ok(());
    }
    for name in OURS.iter().filter(|_| !is_copied) {
        if let Some(bytes) = host.read(&format!("{}/{name}", home(&other)), MAX_OURS)? {
            host.put(&format!("{}/{name}", home(tenant)), &bytes, 0o600)?;
        }
    }
    OURS.iter().rev().try_for_each(|name| host.discard(&format!("{}/{name}", home(&other))))
}

pub const CERTIFICATE: &str = "ca.cert.pem";
pub const LIST: &str = "crl.pem";
/// Where nginx reads both: root's alone.
pub fn checked(tenant: &Tenant) -> String {
    tenant.path("/data/appliance/host/client-ca", |name| format!("{}/client-ca-checked", app_directory(name)))
}

/// The authority, if there is one that can be used now; nginx's copy is made equal to it. What is wrong with one that cannot be used is
/// told.
pub fn usable(host: &Host, tenant: &Tenant) -> Result<Option<ClientAuthority>> {
    match read(host, tenant) {
        Ok(Some(found)) => {
            let now = host.now().as_second();
            let Found { authority, .. } = &found;
            let is_over = authority.next_update.is_some_and(|next| next <= now);
            if is_over || authority.this_update.is_some_and(|this| this > now) {
                // nginx refuses every client with such a list, which is what must happen; but somebody has to know.
                tracing::warn!(
                    "the revocation list for client certificates is not valid now; see {}",
                    directory(tenant.name())
                );
            }
            let checked = checked(tenant);
            host.ensure_dir(&checked, &Dir::plain().mode(0o700))?;
            if let Some(list) = found.list {
                host.ensure_file(&format!("{checked}/{LIST}"), &File::text(list).mode(0o600))?;
            }
            host.ensure_file(&format!("{checked}/{CERTIFICATE}"), &File::text(found.certificates).mode(0o600))?;
            Ok(Some(found.authority))
        }
        Ok(None) => Ok(None),
        Err(why) => {
            tracing::warn!("no client certificate is accepted: {why}; see {}", directory(tenant.name()));
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
pub fn look(host: &Host, tenant: &Tenant) -> Result<Option<ClientAuthority>, String> {
    Ok(read(host, tenant)?.map(|found| found.authority))
}

/// A file that the app may have put there: no link is followed, and no pipe waited for.
pub fn read_file(host: &Host, app: &AppName, name: &str) -> Result<Option<String>> {
    host.read_text_unlinked(&format!("{}/{name}", directory(app)), MAX_PEM)
}

fn read(host: &Host, tenant: &Tenant) -> Result<Option<Found>, String> {
    let (app, our_key) = (tenant.name(), our_key(tenant));
    let read = |name| read_file(host, app, name).map_err(|error| format!("{error:#}"));
    let (certificates, list) = (read(CERTIFICATE)?, read(LIST)?);
    let Some(certificates) = certificates else { return Ok(None) };
    if list.is_none() {
        // It was there before, or must be: without it those who were revoked would be let in.
        if host.exists(&our_key) {
            return Err("the revocation list is missing; appliance cert ca refresh signs it".to_owned());
        }
        let site = host.read_text(&super::site_of(tenant), MAX_PEM).map_err(|error| format!("{error:#}"))?;
        if site.is_some_and(|site| site.contains("ssl_crl ")) {
            return Err("the revocation list is gone; put it back, one that is empty will do".to_owned());
        }
    }
    let authority = ClientAuthority::parse(&certificates, list.as_deref())?;
    if let Some(key) = host.read_text(&our_key, MAX_PEM).map_err(|error| format!("{error:#}"))?.map(Secret::new) {
        // The app could let in whom it likes in the name of ours.
        if !certificate::is_of_key(&certificates, &key) {
            return Err(format!(
                "the certificate is not that of the appliance's own key {our_key}; with another CA that key must go"
            ));
        }
        check_chain(&certificates, list.as_deref())?;
    }
    let now = host.now().as_second();
    if authority.not_after <= now {
        return Err("the CA's certificate has expired".to_owned());
    }
    Ok(Some(Found { authority, certificates, list }))
}
