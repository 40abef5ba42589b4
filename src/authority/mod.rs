//! Our own CA for client certificates: made here or signed elsewhere (RFC 5280), with a book of what it issued and a revocation
//! list that is kept fresh. A CA that the app made is never changed. What nginx does with it is `prepare/client_ca.rs`.

mod accept;
mod book;
mod packed;
mod sign;

pub use book::{Entry, State};
pub use packed::Packed;

use crate::host::pem::MAX_PEM;
use crate::host::{Dir, Host};
use crate::prepare::client_ca;
use crate::state::AuthorityLock;
use crate::value::{ClientAuthority, Email, Secret, Tenant, certificate};
use anyhow::{Context, Result, anyhow, bail};
use book::Book;
use rcgen::{Issuer, KeyPair};
use std::time::Duration;

/// The lists of the authorities above ours: nginx checks every certificate of a chain.
fn parent_lists(tenant: &Tenant) -> String {
    format!("{}/parent-crl.pem", client_ca::home(tenant))
}

/// How long a command waits for another one.
const PATIENCE: Duration = Duration::from_secs(60);
/// Our own root is signed anew when it has less than this left, in seconds.
const ROOT_LEFT_S: i64 = 365 * 24 * 3600;
/// A list is signed anew when it has stood this long, in seconds.
const LIST_AGE_S: i64 = 24 * 3600;

/// How the CA of an app stands.
enum Standing {
    None,
    /// There is a key, and no certificate for it yet.
    Keyed(Box<KeyPair>),
    Ready(Box<Ours>),
    /// The app's own, or somebody else's.
    Foreign,
}

struct Ours {
    issuer: Issuer<'static, KeyPair>,
    /// Its certificate and those above it.
    chain: String,
}

fn standing(host: &Host, tenant: &Tenant) -> Result<Standing> {
    let path = client_ca::our_key(tenant);
    let key = host.read_text(&path, MAX_PEM)?.map(Secret::new);
    let key =
        key.map(|pem| KeyPair::from_pem(pem.expose()).with_context(|| format!("{path} is broken"))).transpose()?;
    let chain = client_ca::read_file(host, tenant.name(), client_ca::CERTIFICATE)?;
    Ok(match (key, chain) {
        (None, None) => Standing::None,
        (Some(key), None) => Standing::Keyed(Box::new(key)),
        (Some(key), Some(chain)) if certificate::is_of(&chain, &key) => {
            let issuer = Issuer::from_ca_cert_pem(&chain, key).context("our own CA's certificate is broken")?;
            Standing::Ready(Box::new(Ours { issuer, chain }))
        }
        (_, Some(_)) => Standing::Foreign,
    })
}

fn ready(host: &Host, tenant: &Tenant) -> Result<Box<Ours>> {
    match standing(host, tenant)? {
        Standing::Ready(ours) => Ok(ours),
        Standing::Foreign => bail!(
            "the CA in {} is not the appliance's own; it is used as it is, and what issues from it is whoever made it",
            client_ca::directory(tenant.name())
        ),
        Standing::Keyed(_) => bail!("the CA waits for its certificate; see: appliance cert ca init --help"),
        Standing::None => bail!("there is no CA yet; make one with: appliance cert ca init"),
    }
}

fn path(tenant: &Tenant, name: &str) -> String {
    format!("{}/{name}", client_ca::directory(tenant.name()))
}

async fn lock(host: &Host, tenant: &Tenant) -> Result<AuthorityLock> {
    let lock = AuthorityLock::take(host, "cert ca", PATIENCE).await?;
    // Where keys lie, nothing that a killed run left may stay.
    host.sweep(&client_ca::home(tenant))?;
    Ok(lock)
}

/// The key, made and kept if there is none. Written before anything that is made with it.
fn key(host: &Host, tenant: &Tenant, standing: Standing) -> Result<KeyPair> {
    if let Standing::Keyed(key) = standing {
        return Ok(*key);
    }
    let key = KeyPair::generate().context("could not make a key")?;
    host.ensure_dir(&client_ca::home(tenant), &Dir::plain().mode(0o700))?;
    let pem = Secret::new(key.serialize_pem());
    host.put(&client_ca::our_key(tenant), pem.expose().as_bytes(), 0o600)?;
    Ok(key)
}

/// Makes a CA of its own: its certificate is signed by itself. One that is there already stays, but for its time: with less than
/// a year left, or one that is not valid now, it is signed anew, with the same key and name.
///
/// # Errors
/// There is a CA that is not ours.
pub async fn init(host: &Host, tenant: &Tenant, domain: &str) -> Result<bool> {
    let _lock = lock(host, tenant).await?;
    let standing = standing(host, tenant)?;
    let now = host.settled_now()?;
    match standing {
        Standing::Ready(ours) => {
            let facts = certificate::facts(&ours.chain).context("our own CA's certificate is broken")?;
            let left = facts.not_after - now.as_second();
            let is_good = facts.not_before <= now.as_second() && left > ROOT_LEFT_S;
            if facts.self_signed && !is_good {
                let chain = sign::root(ours.issuer.key(), &sign::name_of(tenant.name(), domain), now, host.random()?)?;
                if !sign::has_same_name(&chain, &ours.chain) {
                    bail!(
                        "the domain is another one than when the CA was made; its certificates would not hold below the new name"
                    );
                }
                host.put(&path(tenant, client_ca::CERTIFICATE), chain.as_bytes(), 0o644)?;
                return Ok(true);
            }
            write_list(host, tenant, &ours, false)?;
            return Ok(false);
        }
        Standing::Foreign => {
            bail!("there is a CA in {} already; it stays as it is", client_ca::directory(tenant.name()))
        }
        _ => {}
    }
    let key = key(host, tenant, standing)?;
    let chain = sign::root(&key, &sign::name_of(tenant.name(), domain), now, host.random()?)?;
    let ours = Ours { issuer: Issuer::from_ca_cert_pem(&chain, key).context("what was signed is broken")?, chain };
    // The list first: a CA without one would let revoked certificates in.
    write_list(host, tenant, &ours, true)?;
    host.put(&path(tenant, client_ca::CERTIFICATE), ours.chain.as_bytes(), 0o644)?;
    Ok(true)
}

/// Makes a request (PKCS #10) for a CA certificate that somebody else signs. The same key every time.
pub async fn request(host: &Host, tenant: &Tenant, domain: &str) -> Result<String> {
    let _lock = lock(host, tenant).await?;
    let standing = standing(host, tenant)?;
    match standing {
        Standing::Ready(ours) => sign::request(ours.issuer.key(), &sign::name_of(tenant.name(), domain)),
        Standing::Foreign => {
            bail!("there is a CA in {} already; it stays as it is", client_ca::directory(tenant.name()))
        }
        other => sign::request(&key(host, tenant, other)?, &sign::name_of(tenant.name(), domain)),
    }
}

/// Takes the certificate that was signed elsewhere, with those above it, and the lists of the authorities above it.
///
/// # Errors
/// It is not for our key, no CA's, or the chain or a list is missing or does not verify.
pub async fn accept(host: &Host, tenant: &Tenant, chain: &str, parent_lists: &str) -> Result<()> {
    let _lock = lock(host, tenant).await?;
    let key = match standing(host, tenant)? {
        Standing::Keyed(key) => *key,
        // Renewed elsewhere: the same key, another certificate.
        Standing::Ready(_) => {
            let path = client_ca::our_key(tenant);
            let pem = Secret::new(host.read_text(&path, MAX_PEM)?.context("the key is gone")?);
            KeyPair::from_pem(pem.expose()).with_context(|| format!("{path} is broken"))?
        }
        Standing::Foreign => {
            bail!("there is a CA in {} already; it stays as it is", client_ca::directory(tenant.name()))
        }
        Standing::None => bail!("make a request first: appliance cert ca init --request FILE"),
    };
    accept::judge(chain, parent_lists, &key, host.settled_now()?.as_second()).map_err(|why| anyhow!("{why}"))?;
    let issuer = Issuer::from_ca_cert_pem(chain, key).context("the certificate cannot be used")?;
    let ours = Ours { issuer, chain: chain.to_owned() };
    sign::check_name(&ours.issuer, chain, host.settled_now()?)?;
    host.put(&self::parent_lists(tenant), parent_lists.as_bytes(), 0o644)?;
    write_list(host, tenant, &ours, true)?;
    host.put(&path(tenant, client_ca::CERTIFICATE), ours.chain.as_bytes(), 0o644)
}

/// Issues a certificate for a person or a machine. It stands in the book before it is given away.
pub async fn issue(
    host: &Host,
    tenant: &Tenant,
    name: &str,
    email: Option<&Email>,
    days: u32,
    to: Packed<'_>,
) -> Result<Entry> {
    let _lock = lock(host, tenant).await?;
    let ours = ready(host, tenant)?;
    let name = book::check_name(name)?;
    let mut book = Book::read(host, tenant)?;
    to.is_free(host)?;
    let now = host.settled_now()?;
    let ca = certificate::facts(&ours.chain).context("our own CA's certificate is broken")?;
    if ca.not_before > now.as_second() || ca.not_after <= now.as_second() {
        bail!("the CA's certificate is not valid now; sign it anew with: appliance cert ca init");
    }
    let (pem, entry) = sign::client(&ours.issuer, &ours.chain, name, email, (now, days), host.random()?)?;
    let packed = to.pack(host, name, &pem, &ours.chain).await?;
    book.add(entry.clone())?;
    book.write(host, tenant)?;
    if let Err(error) = to.write(host, &packed) {
        // Nobody has its key.
        book.issued.pop();
        book.write(host, tenant)?;
        return Err(error);
    }
    Ok(entry)
}

/// Revokes a certificate, by its serial number or its name, and signs a new list.
///
/// # Errors
/// There is none, or more than one.
pub async fn revoke(host: &Host, tenant: &Tenant, which: &str) -> Result<Entry> {
    let _lock = lock(host, tenant).await?;
    let ours = ready(host, tenant)?;
    let mut book = Book::read(host, tenant)?;
    let entry = book.revoke(which, host.settled_now()?)?;
    book.write(host, tenant)?;
    // Also where it was revoked before: that run may have been killed here.
    write_list(host, tenant, &ours, false)?;
    Ok(entry)
}

/// What was issued; none where the CA is not ours.
pub fn list(host: &Host, tenant: &Tenant) -> Result<Option<Vec<Entry>>> {
    Ok(match standing(host, tenant)? {
        Standing::Foreign => None,
        _ => Some(Book::read(host, tenant)?.issued),
    })
}

/// Signs our list anew where it is old or lacks something, and gives back what has to be told of the CA, ours or not.
pub async fn refresh(host: &Host, tenant: &Tenant) -> Result<Vec<String>> {
    let _lock = lock(host, tenant).await?;
    if let Standing::Ready(ours) = standing(host, tenant)? {
        write_list(host, tenant, &ours, false)?;
    }
    match client_ca::look(host, tenant) {
        Ok(authority) => Ok(authority.map(|authority| worries(&authority, host.now().as_second())).unwrap_or_default()),
        Err(why) => Ok(vec![why]),
    }
}

/// What is about to end, told in time to do something.
fn worries(authority: &ClientAuthority, now_s: i64) -> Vec<String> {
    let days = |until: i64| (until - now_s).div_euclid(24 * 3600);
    let ca = (days(authority.not_after) < 30)
        .then(|| format!("the CA for client certificates ends in {} days", days(authority.not_after)));
    let list = authority.next_update.filter(|next| days(*next) < 3).map(|next| {
        format!(
            "the revocation list for client certificates is good for {} days more, then nobody is let in",
            days(next).max(0)
        )
    });
    ca.into_iter().chain(list).collect()
}

/// Writes the list: always, or where it is old or not what the book says.
fn write_list(host: &Host, tenant: &Tenant, ours: &Ours, always: bool) -> Result<()> {
    let target = path(tenant, client_ca::LIST);
    let mut book = Book::read(host, tenant)?;
    let now = host.settled_now()?;
    let there = client_ca::read_file(host, tenant.name(), client_ca::LIST)?;
    if !always && there.is_some_and(|there| sign::is_current(&there, &book, now.as_second() - LIST_AGE_S)) {
        return Ok(());
    }
    // The number grows even if the list never gets there.
    book.list_number += 1;
    book.write(host, tenant)?;
    let mut text = sign::list(&ours.issuer, &ours.chain, &book, now)?;
    if let Some(parents) = host.read_text(&parent_lists(tenant), MAX_PEM)? {
        text.push_str(&parents);
    }
    host.put(&target, text.as_bytes(), 0o644)
}
