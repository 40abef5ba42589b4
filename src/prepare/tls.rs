//! Step tls: a certificate that nginx can load: the env's own, else the one that `certificate/` got, else a self-signed one
//! for all allowed hosts.

use crate::env::{CertificateText, Env};
use crate::host::{Changed, File, Host, Mode, Owed};
use crate::value::{HostPattern, Secret};
use anyhow::{Context, Result, anyhow, bail};
use rcgen::{CertificateParams, DnType, KeyPair, SanType};
use std::collections::BTreeSet;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

pub const CERTIFICATE: &str = "/app/etc/server.cert.pem";
pub const KEY: &str = "/app/etc/server.key.pem";
pub const DH_PARAMETERS: &str = "/app/etc/server.cert.dhparam.pem";
/// Versions of the pair; one link says which is current.
const VERSIONS: &str = "/app/etc/tls";
const MAX_PEM: u64 = 1 << 20;
/// A self-signed certificate is renewed this long before its end, in seconds.
const RENEW_BEFORE_S: i64 = 30 * 24 * 3600;

/// The group ffdhe2048 (RFC 7919, appendix A.1).
const FFDHE2048: &str = include_str!("templates/ffdhe2048.pem");

struct Pair {
    certificate: String,
    key: String,
}

/// Puts certificate and key in place, both at once. `Changed` says whether nginx must reload.
pub fn prepare(env: &Env, host: &Host) -> Result<Changed> {
    let pair = match &env.appliance.ssl.own {
        Some((key, certificate)) => {
            let pair = Pair { certificate: pem(host, certificate)?, key: pem(host, key)? };
            check_own(&pair).context("the certificate under appliance.ssl cannot be used; what was there stays")?;
            pair
        }
        None => match kept(env, host)? {
            Some(pair) => pair,
            None => self_signed(env, host)?,
        },
    };
    let files = files(pair);
    // Killed between the switch and the reload, the next run makes up for it.
    if host.applies() && host.in_mode(Mode::Check).ensure_together(VERSIONS, &files)?.yes() {
        host.owe("nginx.service", Owed::Reload)?;
    }
    let changed = host.ensure_together(VERSIONS, &files)?;
    let parameters = host.ensure_file(DH_PARAMETERS, &File::text(FFDHE2048).mode(0o644))?;
    Ok(changed.or(parameters))
}

/// A pair that nginx could not load must not take the place of one that it can.
fn check_own(pair: &Pair) -> Result<()> {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let chain = CertificateDer::pem_slice_iter(pair.certificate.as_bytes()).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|error| anyhow!("the certificate is not PEM: {error}"))?;
    if chain.is_empty() {
        bail!("there is no certificate in appliance.ssl.cert");
    }
    let key =
        PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).map_err(|error| anyhow!("the key is not PEM: {error}"))?;
    let provider = rustls::crypto::ring::default_provider();
    let key = provider.key_provider.load_private_key(key).context("the key is of no kind that is known")?;
    let certified = rustls::sign::CertifiedKey::new(chain, key);
    certified.keys_match().context("the key does not belong to the first certificate")
}

fn pem(host: &Host, text: &CertificateText) -> Result<String> {
    match text {
        CertificateText::Pem(secret) => Ok(secret.expose().to_owned()),
        CertificateText::Path(path) => host
            .read_text(path.as_str(), MAX_PEM)?
            .with_context(|| format!("{path}, named under appliance.ssl, does not exist")),
    }
}

/// What a certificate says of itself.
#[derive(Debug, Clone)]
pub struct Facts {
    pub self_signed: bool,
    pub names: BTreeSet<String>,
    /// Seconds since the epoch.
    pub not_before: i64,
    pub not_after: i64,
    pub issuer: String,
}

/// The certificate in place and its chain, if it can be read and its key fits.
pub fn current(host: &Host) -> Result<Option<(Facts, String)>> {
    Ok(read_current(host)?.and_then(|pair| Some((facts(&pair)?, pair.certificate))))
}

/// Puts a pair from an authority in place. The reload is the caller's.
///
/// # Errors
/// The two do not fit together; what was there stays.
pub fn install(host: &Host, certificate: &str, key: &Secret) -> Result<Changed> {
    let pair = Pair { certificate: certificate.to_owned(), key: key.expose().to_owned() };
    check_own(&pair)?;
    host.ensure_together(VERSIONS, &files(pair))
}

fn files(pair: Pair) -> [(&'static str, &'static str, File); 2] {
    [(CERTIFICATE, "cert.pem", File::text(pair.certificate).mode(0o644)), (KEY, "key.pem", File::secret(pair.key))]
}

fn read_current(host: &Host) -> Result<Option<Pair>> {
    let read = |path| host.read_text(path, MAX_PEM);
    Ok(read(CERTIFICATE)?.zip(read(KEY)?).map(|(certificate, key)| Pair { certificate, key }))
}

/// The pair that is there, if it still serves: one of an authority while it is valid, a self-signed one for exactly these
/// hosts.
fn kept(env: &Env, host: &Host) -> Result<Option<Pair>> {
    let Some(pair) = read_current(host)? else { return Ok(None) };
    let Some(facts) = facts(&pair) else { return Ok(None) };
    let now_s = host.now().as_second();
    let serves = if facts.self_signed {
        let wanted: BTreeSet<String> =
            env.appliance.allowed_hosts.iter().map(|host| host.as_str().to_owned()).collect();
        facts.names == wanted && facts.not_before <= now_s && facts.not_after > now_s + RENEW_BEFORE_S
    } else {
        // Names that it lacks are ordered soon; until then it is better than one that nobody trusts.
        // And one that seems to be of the future only says that the clock is wrong.
        let serves_some = |host: &HostPattern| facts.names.contains(host.as_str());
        facts.not_after > now_s && env.appliance.allowed_hosts.iter().any(serves_some)
    };
    Ok(serves.then_some(pair))
}

/// What a pair's certificate says, if key and certificate belong together.
fn facts(pair: &Pair) -> Option<Facts> {
    check_own(pair).ok()?;
    let (_, pem) = x509_parser::pem::parse_x509_pem(pair.certificate.as_bytes()).ok()?;
    let (_, parsed) = X509Certificate::from_der(&pem.contents).ok()?;
    let names = match parsed.subject_alternative_name() {
        Ok(Some(extension)) => extension.value.general_names.iter().filter_map(name_of).collect(),
        _ => BTreeSet::new(),
    };
    Some(Facts {
        self_signed: parsed.issuer() == parsed.subject(),
        names,
        not_before: parsed.validity().not_before.timestamp(),
        not_after: parsed.validity().not_after.timestamp(),
        issuer: parsed.issuer().to_string(),
    })
}

fn name_of(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|bytes| std::net::Ipv4Addr::from(bytes).to_string()),
            16 => <[u8; 16]>::try_from(*bytes).ok().map(|bytes| std::net::Ipv6Addr::from(bytes).to_string()),
            _ => None,
        },
        _ => None,
    }
}

/// A new self-signed pair: P-256, ten years.
fn self_signed(env: &Env, host: &Host) -> Result<Pair> {
    let year = i32::from(host.now().to_zoned(jiff::tz::TimeZone::UTC).year());
    if year < 2024 {
        bail!("the clock says {year}; set it, or the certificate would not be valid");
    }
    let key = KeyPair::generate().context("could not make a key")?;
    let mut params = CertificateParams::default();
    params.subject_alt_names = env.appliance.allowed_hosts.iter().map(subject_name).collect::<Result<_>>()?;
    params.distinguished_name.push(DnType::CommonName, env.appliance.domain.as_str());
    params.not_before = rcgen::date_time_ymd(year - 1, 1, 1);
    params.not_after = rcgen::date_time_ymd(year + 10, 1, 1);
    let certificate = params.self_signed(&key).context("could not sign the certificate")?;
    Ok(Pair { certificate: certificate.pem(), key: key.serialize_pem() })
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
        Env::parse(text.as_bytes()).env.expect("the env is valid")
    }

    #[test]
    fn a_pair_is_kept_until_its_names_change() {
        let test = TestHost::new();
        test.host.ensure_dir("/app/etc", &crate::host::Dir::plain()).expect("the directory can be made");
        let first = env("a.de *.a.de 10.0.0.1");
        assert!(prepare(&first, &test.host).expect("the pair is made").yes());
        let before = test.host.read_text(CERTIFICATE, MAX_PEM).expect("it can be read").expect("it is there");
        assert!(!prepare(&first, &test.host).expect("the pair is kept").yes());
        let check = test.host.in_mode(crate::host::Mode::Check);
        let second = env("a.de b.de");
        assert!(prepare(&second, &check).expect("the pair is checked").yes());
        let objects: Vec<String> = check.journal().entries().into_iter().map(|entry| entry.object).collect();
        assert_eq!(objects, [CERTIFICATE, KEY]);
        assert_eq!(test.host.read_text(CERTIFICATE, MAX_PEM).expect("it can be read"), Some(before));
        assert!(prepare(&second, &test.host).expect("the pair is made anew").yes());
        assert_eq!(test.host.names(VERSIONS).expect("it can be listed").len(), 2, "one version and the link");
    }

    #[test]
    fn an_own_pair_must_match() {
        let pair = || {
            let key = KeyPair::generate().expect("a key can be made");
            let certificate = CertificateParams::default().self_signed(&key).expect("it can be signed");
            Pair { certificate: certificate.pem(), key: key.serialize_pem() }
        };
        let (good, other) = (pair(), pair());
        assert!(check_own(&good).is_ok());
        assert!(check_own(&Pair { certificate: good.certificate, key: other.key.clone() }).is_err());
        let broken = "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n".to_owned();
        assert!(check_own(&Pair { certificate: broken, key: other.key }).is_err());
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
        Pair { certificate: certificate.pem(), key: key.serialize_pem() }
    }

    #[test]
    fn an_authoritys_certificate_stays_while_it_is_valid_and_then_a_self_signed_one_serves() {
        let test = TestHost::new();
        test.host.ensure_dir("/app/etc", &crate::host::Dir::plain()).expect("the directory can be made");
        let self_signed = || current(&test.host).expect("it can be read").expect("there is one").0.self_signed;
        let put = |pair: &Pair| install(&test.host, &pair.certificate, &Secret::new(pair.key.as_str()));
        prepare(&env("a.de"), &test.host).expect("the pair is made");
        assert!(self_signed());
        let good = authoritys(&["a.de"], 2020, 2100);
        assert!(
            put(&Pair { key: authoritys(&["a.de"], 2020, 2100).key, certificate: good.certificate.clone() }).is_err()
        );
        assert!(self_signed(), "a pair that does not match is not put in place");
        put(&good).expect("it is put in place");
        // A name that it lacks is ordered soon; nobody is served a self-signed one for that.
        assert!(!prepare(&env("a.de b.de"), &test.host).expect("it is looked at").yes());
        assert!(!self_signed());
        for pair in [authoritys(&["a.de"], 2000, 2001), authoritys(&["x.de"], 2020, 2100)] {
            put(&pair).expect("it is put in place");
            assert!(prepare(&env("a.de"), &test.host).expect("it is looked at").yes());
            assert!(self_signed());
        }
    }
}
