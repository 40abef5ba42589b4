//! Step tls: a certificate that nginx can load: the env's own, else a self-signed one for all allowed hosts.
//! ACME is not built yet.

use crate::env::{CertificateText, Env};
use crate::host::{Changed, File, Host, Mode, Owed};
use crate::value::HostPattern;
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
    let files =
        [(CERTIFICATE, "cert.pem", File::text(pair.certificate).mode(0o644)), (KEY, "key.pem", File::secret(pair.key))];
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

/// The self-signed pair that is there, if it still serves.
fn kept(env: &Env, host: &Host) -> Result<Option<Pair>> {
    let read = |path| host.read_text(path, MAX_PEM);
    let (Some(certificate), Some(key)) = (read(CERTIFICATE)?, read(KEY)?) else { return Ok(None) };
    let serves = serves(&certificate, &key, &env.appliance.allowed_hosts, host.now().as_second());
    Ok(serves.then_some(Pair { certificate, key }))
}

/// Whether a certificate is self-signed by this key, names exactly these hosts, and will live long enough.
fn serves(certificate: &str, key: &str, hosts: &[HostPattern], now_s: i64) -> bool {
    let Ok((_, pem)) = x509_parser::pem::parse_x509_pem(certificate.as_bytes()) else { return false };
    let Ok((_, parsed)) = X509Certificate::from_der(&pem.contents) else { return false };
    let Ok(pair) = KeyPair::from_pem(key) else { return false };
    let names: BTreeSet<String> = match parsed.subject_alternative_name() {
        Ok(Some(extension)) => extension.value.general_names.iter().filter_map(name_of).collect(),
        _ => return false,
    };
    let wanted: BTreeSet<String> = hosts.iter().map(|host| host.as_str().to_owned()).collect();
    parsed.issuer() == parsed.subject()
        && parsed.public_key().raw == rcgen::PublicKeyData::subject_public_key_info(&pair)
        && names == wanted
        && parsed.validity().not_before.timestamp() <= now_s
        && parsed.validity().not_after.timestamp() > now_s + RENEW_BEFORE_S
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

    #[test]
    fn key_and_certificate_match_and_expiry_is_seen() {
        let test = TestHost::new();
        test.host.ensure_dir("/app/etc", &crate::host::Dir::plain()).expect("the directory can be made");
        prepare(&env(""), &test.host).expect("the pair is made").yes();
        let read = |path| test.host.read_text(path, MAX_PEM).expect("it can be read").expect("it is there");
        let hosts = [HostPattern::from(&"a.de".parse().expect("a domain"))];
        let now = test.host.now().as_second();
        assert!(serves(&read(CERTIFICATE), &read(KEY), &hosts, now));
        let other = KeyPair::generate().expect("a key can be made").serialize_pem();
        assert!(!serves(&read(CERTIFICATE), &other, &hosts, now));
        assert!(!serves(&read(CERTIFICATE), &read(KEY), &hosts, now + 11 * 366 * 24 * 3600));
    }
}
