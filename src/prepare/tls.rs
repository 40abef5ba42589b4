//! Step tls: a certificate that nginx can load: the env's own, else one that `certificate/` or dehydrated got, else a
//! self-signed one for all allowed hosts. Ordering one is not here.

use crate::env::Env;
use crate::host::pem::MAX_PEM;
use crate::host::{Changed, Dir, File, Host, Mode, Owed, UnitState};
use crate::state::{ACME, DIRECTORY, app_directory};
use crate::value::certificate::{Facts, Pair};
use crate::value::{HostPattern, Secret, Tenant};
use anyhow::{Context, Result};
use rcgen::{CertificateParams, DnType, KeyPair, SanType};
use std::collections::BTreeSet;

/// Where a certificate and what belongs to it lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub certificate: String,
    pub key: String,
    pub parameters: String,
    /// Versions of the pair; one link says which is current.
    versions: String,
    /// The pair that an authority issued last: key, then chain. Written before it is put in place, and kept behind it, so that
    /// neither a kill nor a clock that was wrong for a while loses it.
    issued: String,
    /// Directories that are made for it, in this order.
    directories: Vec<String>,
    /// Whether programs of the host's own read it, too.
    is_of_host: bool,
}

impl Place {
    /// The host's, which is that of an app that has the host to itself.
    pub fn of_host() -> Place {
        Place {
            certificate: "/app/etc/server.cert.pem".to_owned(),
            key: "/app/etc/server.key.pem".to_owned(),
            parameters: "/app/etc/server.cert.dhparam.pem".to_owned(),
            versions: "/app/etc/tls".to_owned(),
            issued: format!("{ACME}/issued.pem"),
            directories: Vec::new(),
            is_of_host: true,
        }
    }

    pub fn of(tenant: &Tenant) -> Place {
        let Tenant::OneOfSeveral(name) = tenant else { return Place::of_host() };
        let home = app_directory(name);
        Place {
            certificate: format!("{home}/tls/server.cert.pem"),
            key: format!("{home}/tls/server.key.pem"),
            parameters: format!("{home}/tls/dhparam.pem"),
            versions: format!("{home}/tls/versions"),
            issued: format!("{home}/acme/issued.pem"),
            directories: vec![format!("{DIRECTORY}/apps"), home.clone(), format!("{home}/tls")],
            is_of_host: false,
        }
    }
}

/// Where dehydrated, which issued before us, kept its certificates.
const DEHYDRATED: &str = "/app/etc/dehydrated/certs";
/// A self-signed certificate is renewed this long before its end, in seconds.
const RENEW_BEFORE_S: i64 = 30 * 24 * 3600;

/// Who else reads the certificate, where it is there, and only when it starts. An ECS-Appliance had a stunnel unit of its own.
const OTHERS: [&str; 3] = ["stunnel4.service", "stunnel.service", "postfix.service"];

/// The group ffdhe2048 (RFC 7919, appendix A.1).
const FFDHE2048: &str = include_str!("templates/ffdhe2048.pem");

/// Puts certificate and key in place, both at once. `Changed` says whether nginx must reload.
pub async fn prepare(env: &Env, host: &Host) -> Result<Changed> {
    let pair = match &env.appliance.ssl.own {
        Some(own) => {
            let unusable = "the certificate under appliance.ssl cannot be used; what was there stays";
            let (certificate, key) = (host.certificate_text(&own.certificate)?, host.certificate_text(&own.key)?);
            Pair::parse(certificate.expose(), &key).context(unusable)?
        }
        None => match best(env, host) {
            Some(pair) => pair,
            None => self_signed(env, host)?,
        },
    };
    put(host, &Place::of(&env.tenant), &pair).await
}

/// The certificate in place, if it can be read and its key fits.
pub fn current(host: &Host, place: &Place) -> Option<Pair> {
    match host.read_together(&place.versions, ["cert.pem", "key.pem"], MAX_PEM) {
        Ok(Some([certificate, key])) => fitting(&certificate, key),
        // Of a host before this one, or put there by hand: two files.
        _ => read_pair(host, &place.certificate, &place.key),
    }
}

/// Keeps a pair that an authority issued; it is put in place by [`put`].
///
/// # Errors
/// The two do not fit together, or cannot be written.
pub fn keep_issued(host: &Host, place: &Place, certificate: &str, key: &Secret) -> Result<Pair> {
    let pair = Pair::parse(certificate, key).context("the authority issued what does not fit together")?;
    let text = Secret::new(format!("{}\n{certificate}", key.expose().trim_end()));
    host.put(&place.issued, text.expose().as_bytes(), 0o600)?;
    Ok(pair)
}

/// The pair that an authority issued last, if there is one that can be read.
pub fn issued(host: &Host, place: &Place) -> Option<Pair> {
    let text = host.read_text(&place.issued, 2 * MAX_PEM).ok().flatten().map(Secret::new)?;
    let (key, chain) = text.expose().split_once("-----BEGIN CERTIFICATE-----")?;
    fitting(&format!("-----BEGIN CERTIFICATE-----{chain}"), key.to_owned())
}

/// Puts a pair in place, and restarts who else reads it. nginx's reload is the caller's; it is owed from before the change on, so
/// that a run that is killed in between leaves it to the next.
pub async fn put(host: &Host, place: &Place, pair: &Pair) -> Result<Changed> {
    let files = files(place, pair);
    for directory in &place.directories {
        host.ensure_dir(directory, &Dir::plain().mode(0o700))?;
    }
    let others = if place.is_of_host { &OTHERS[..] } else { &[] };
    if host.applies() && host.in_mode(Mode::Check).ensure_together(&place.versions, &files)?.yes() {
        host.owe(super::NGINX, Owed::Reload)?;
        others.iter().try_for_each(|unit| host.owe(unit, Owed::Restart))?;
    }
    let changed = host.ensure_together(&place.versions, &files)?;
    // The chain stands in it too, for a stunnel that is told of this file and the key.
    let parameters = format!("{}\n{FFDHE2048}", pair.certificate().trim_end());
    let changed = changed.or(host.ensure_file(&place.parameters, &File::text(parameters).mode(0o644))?);
    for unit in others.iter().copied() {
        let is_due = changed.yes() || host.owed(unit)?.is_some();
        if is_due
            && host.unit_state(unit).await? == UnitState::Active
            && let Err(error) = host.restart_unit(unit).await
        {
            // Theirs to mend; neither the app nor nginx waits for it. It stays owed.
            tracing::warn!("{unit} did not take up the new certificate: {error:#}");
            continue;
        }
        if host.applies() {
            host.settle(unit)?;
        }
    }
    Ok(changed)
}

fn files<'a>(place: &'a Place, pair: &Pair) -> [(&'a str, &'static str, File); 2] {
    [
        (&place.certificate, "cert.pem", File::text(pair.certificate()).mode(0o644)),
        (&place.key, "key.pem", File::secret(pair.key().expose())),
    ]
}

fn read_pair(host: &Host, certificate: &str, key: &str) -> Option<Pair> {
    let read = |path: &str| {
        // Something else in its place is mended like a missing one.
        host.read_text(path, MAX_PEM).unwrap_or_else(|error| {
            tracing::warn!("{path} is not used: {error:#}");
            None
        })
    };
    fitting(&read(certificate)?, read(key)?)
}

/// A pair; two halves that do not fit together are as good as none.
fn fitting(certificate: &str, key: String) -> Option<Pair> {
    Pair::parse(certificate, &Secret::new(key)).ok()
}

/// The best pair that is there already and still serves, if any: the one in place before one of an authority that was in
/// place once; a self-signed one comes last.
fn best(env: &Env, host: &Host) -> Option<Pair> {
    let domain = env.appliance.domain.as_str();
    let old = [format!("{DEHYDRATED}/{domain}/fullchain.pem"), format!("{DEHYDRATED}/{domain}/privkey.pem")];
    let place = Place::of(&env.tenant);
    let current = current(host, &place);
    let now_s = host.now().as_second();
    let of_authority =
        |pair: &Pair| !pair.facts().self_signed && serves(pair.facts(), &env.appliance.allowed_hosts, now_s);
    if let Some(pair) = current.clone().filter(of_authority) {
        return Some(pair);
    }
    // Of the time when the app had the host to itself.
    let of_host = if place.is_of_host { None } else { self::current(host, &Place::of_host()) };
    for pair in [issued(host, &place), of_host, read_pair(host, &old[0], &old[1])] {
        if let Some(pair) = pair.filter(of_authority) {
            return Some(pair);
        }
    }
    current.filter(|pair| pair.facts().self_signed && serves(pair.facts(), &env.appliance.allowed_hosts, now_s))
}

/// Whether a certificate is worth keeping: one of an authority while it is valid, a self-signed one for exactly these hosts.
pub fn serves(facts: &Facts, hosts: &[HostPattern], now_s: i64) -> bool {
    if facts.self_signed {
        let wanted: BTreeSet<&str> = hosts.iter().map(HostPattern::as_str).collect();
        let holds: BTreeSet<&str> = facts.names.iter().map(String::as_str).collect();
        holds == wanted && facts.not_before <= now_s && facts.not_after > now_s + RENEW_BEFORE_S
    } else {
        // Names that it lacks are ordered soon; until then it is better than one that nobody trusts.
        // And one that seems to be of the future only says that the clock is wrong.
        facts.not_after > now_s && hosts.iter().any(|host| facts.holds_for(host))
    }
}

/// A new self-signed pair: P-256, ten years.
fn self_signed(env: &Env, host: &Host) -> Result<Pair> {
    let year = i32::from(host.settled_now()?.to_zoned(jiff::tz::TimeZone::UTC).year());
    let key = KeyPair::generate().context("could not make a key")?;
    let mut params = CertificateParams::default();
    params.subject_alt_names = env.appliance.allowed_hosts.iter().map(subject_name).collect::<Result<_>>()?;
    params.distinguished_name.push(DnType::CommonName, env.appliance.domain.as_str());
    params.not_before = rcgen::date_time_ymd(year - 1, 1, 1);
    params.not_after = rcgen::date_time_ymd(year + 10, 1, 1);
    let certificate = params.self_signed(&key).context("could not sign the certificate")?;
    Pair::parse(&certificate.pem(), &Secret::new(key.serialize_pem())).context("what was signed does not fit together")
}

fn subject_name(host: &HostPattern) -> Result<SanType> {
    match host.address() {
        Some(address) => Ok(SanType::IpAddress(address)),
        None => host.as_str().to_owned().try_into().map(SanType::DnsName).context("a host name must be ASCII"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::TestHost;

    fn env(hosts: &str) -> Env {
        let text = format!(
            "appliance: {{domain: a.de, allowed_hosts: '{hosts}'}}\napp: {{name: x, git: {{source: /srv/x}}}}\n"
        );
        Env::of_text(&text)
    }

    #[tokio::test]
    async fn a_pair_is_kept_until_its_names_change() {
        let test = TestHost::new();
        test.host.ensure_dir("/app/etc", &crate::host::Dir::plain()).expect("the directory can be made");
        let first = env("a.de *.a.de 10.0.0.1");
        assert!(prepare(&first, &test.host).await.expect("the pair is made").yes());
        let before =
            test.host.read_text(&Place::of_host().certificate, MAX_PEM).expect("it can be read").expect("it is there");
        assert!(!prepare(&first, &test.host).await.expect("the pair is kept").yes());
        let check = test.host.in_mode(crate::host::Mode::Check);
        let second = env("a.de b.de");
        assert!(prepare(&second, &check).await.expect("the pair is checked").yes());
        let place = Place::of_host();
        let objects: Vec<String> = check.journal().entries().into_iter().map(|entry| entry.object).collect();
        assert_eq!(objects, [place.certificate, place.key, place.parameters]);
        assert_eq!(test.host.read_text(&Place::of_host().certificate, MAX_PEM).expect("it can be read"), Some(before));
        assert!(prepare(&second, &test.host).await.expect("the pair is made anew").yes());
        let versions = test.host.names(&Place::of_host().versions).expect("it can be listed").len();
        assert_eq!(versions, 3, "the version, the one before, which a reader may be at, and the link");
        prepare(&first, &test.host).await.expect("the pair is made anew");
        assert_eq!(test.host.names(&Place::of_host().versions).expect("it can be listed").len(), 3, "and no more");
    }

    /// A pair of an authority for some names, valid between two years.
    fn authoritys(names: &[&str], from: i32, to: i32) -> Pair {
        let root = KeyPair::generate().expect("a key can be made");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "the authority");
        let issuer = rcgen::Issuer::new(params, root);
        let key = KeyPair::generate().expect("a key can be made");
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("the names are good");
        params.not_before = rcgen::date_time_ymd(from, 1, 1);
        params.not_after = rcgen::date_time_ymd(to, 1, 1);
        let certificate = params.signed_by(&key, &issuer).expect("it can be signed");
        Pair::parse(&certificate.pem(), &Secret::new(key.serialize_pem())).expect("they fit together")
    }

    #[tokio::test]
    async fn an_authoritys_certificate_stays_while_it_is_valid_and_then_a_self_signed_one_serves() {
        let test = TestHost::new();
        test.host.ensure_dir("/app/etc", &crate::host::Dir::plain()).expect("the directory can be made");
        let self_signed = || current(&test.host, &Place::of_host()).expect("there is one").facts().self_signed;
        prepare(&env("a.de"), &test.host).await.expect("the pair is made");
        assert!(self_signed());
        put(&test.host, &Place::of_host(), &authoritys(&["a.de"], 2020, 2100)).await.expect("it is put in place");
        // A name that it lacks is ordered soon; nobody is served a self-signed one for that.
        assert!(!prepare(&env("a.de b.de"), &test.host).await.expect("it is looked at").yes());
        assert!(!self_signed());
        for pair in [authoritys(&["a.de"], 2000, 2001), authoritys(&["x.de"], 2020, 2100)] {
            put(&test.host, &Place::of_host(), &pair).await.expect("it is put in place");
            assert!(prepare(&env("a.de"), &test.host).await.expect("it is looked at").yes());
            assert!(self_signed());
        }
    }

    #[tokio::test]
    async fn what_was_issued_once_serves_before_a_self_signed_one_and_dehydrateds_too() {
        let test = TestHost::new();
        test.host.ensure_dir("/app/etc", &crate::host::Dir::plain()).expect("the directory can be made");
        let write = |pair: &Pair, certificate: &str, key: &str| {
            test.host.put(certificate, pair.certificate().as_bytes(), 0o600).expect("it can be written");
            test.host.put(key, pair.key().expose().as_bytes(), 0o600).expect("it can be written");
        };
        let served = || current(&test.host, &Place::of_host()).expect("there is one");
        prepare(&env("a.de"), &test.host).await.expect("the pair is made");
        let old = authoritys(&["a.de"], 2020, 2100);
        write(&old, &format!("{DEHYDRATED}/a.de/fullchain.pem"), &format!("{DEHYDRATED}/a.de/privkey.pem"));
        assert!(prepare(&env("a.de"), &test.host).await.expect("dehydrated's is taken").yes());
        assert_eq!(served(), old);
        let issued = authoritys(&["a.de"], 2020, 2100);
        keep_issued(&test.host, &Place::of_host(), issued.certificate(), issued.key()).expect("it can be kept");
        assert!(keep_issued(&test.host, &Place::of_host(), issued.certificate(), old.key()).is_err());
        assert!(!prepare(&env("a.de"), &test.host).await.expect("what serves stays").yes());
        put(&test.host, &Place::of_host(), &authoritys(&["a.de"], 2000, 2001)).await.expect("it is put in place");
        assert!(prepare(&env("a.de"), &test.host).await.expect("the issued one is taken").yes());
        assert_eq!(served().facts(), issued.facts());
    }
}
