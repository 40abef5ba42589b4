//! Signing: the CA's own certificate, requests, clients' certificates and revocation lists (RFC 5280). Pure but for the
//! randomness of keys.

use super::book::{Book, Entry, State};
use crate::value::{AppName, Email, Secret};
use anyhow::{Context, Result, anyhow, bail};
use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::collections::BTreeSet;
use time::OffsetDateTime;
use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Certificate};

/// How long a CA lives, in days.
const CA_DAYS: i64 = 3650;
/// How long a list is good, in days; it is signed anew every day.
const LIST_DAYS: i64 = 30;
const DAY_S: i64 = 24 * 3600;

/// What the CA of an app is called.
pub(super) fn name_of(app: &AppName, domain: &str) -> String {
    // A common name has at most 64 characters.
    format!("{app} clients of {domain}").chars().take(64).collect()
}

fn at(seconds: i64) -> Result<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp(seconds).context("the clock is out of reach")
}

/// What makes a certificate one of a CA that issues to clients, and to nobody below them.
fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

pub(super) fn root(key: &KeyPair, name: &str, now: Timestamp, random: [u8; 16]) -> Result<String> {
    let mut params = ca_params(name);
    // Clocks differ.
    params.not_before = at(now.as_second() - 3600)?;
    params.not_after = at(now.as_second() + CA_DAYS * DAY_S)?;
    params.serial_number = Some(serial(random));
    Ok(params.self_signed(key).context("could not sign the CA's certificate")?.pem())
}

pub(super) fn request(key: &KeyPair, name: &str) -> Result<String> {
    let request = ca_params(name).serialize_request(key).context("could not make the request")?;
    request.pem().context("could not write the request")
}

/// A positive serial number of 16 random bytes (RFC 5280, 4.1.2.2).
fn serial(mut random: [u8; 16]) -> SerialNumber {
    random[0] = (random[0] & 0x7f) | 0x40;
    SerialNumber::from(random.to_vec())
}

fn hex(serial: &[u8]) -> String {
    serial.iter().map(|byte| format!("{byte:02X}")).collect()
}

/// A client's certificate with its key, both PEM, and its entry in the book. `life` is from when on, and for how many days.
pub(super) fn client(
    issuer: &Issuer<'_, KeyPair>,
    chain: &str,
    name: &str,
    email: Option<&Email>,
    life: (Timestamp, u32),
    random: [u8; 16],
) -> Result<(Secret, Entry)> {
    let (now, days) = life;
    let key = KeyPair::generate().context("could not make a key")?;
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    if let Some(email) = email {
        params
            .subject_alt_names
            .push(SanType::Rfc822Name(email.as_str().to_owned().try_into().context("an email address is ASCII")?));
    }
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params.not_before = at(now.as_second() - 3600)?;
    // Nothing lives longer than what it is signed with.
    let end = crate::value::certificate::facts(chain).context("the CA's certificate is broken")?.not_after;
    let expires = (now.as_second() + i64::from(days) * DAY_S).min(end);
    params.not_after = at(expires)?;
    let serial = serial(random);
    let entry = Entry {
        serial: hex(serial.as_ref()),
        name: name.to_owned(),
        email: email.cloned(),
        issued: now,
        expires: Timestamp::from_second(expires).context("the clock is out of reach")?,
        revoked: None,
    };
    params.serial_number = Some(serial);
    let certificate = params.signed_by(&key, issuer).context("could not sign the certificate")?;
    Ok((Secret::new(format!("{}{}", key.serialize_pem(), certificate.pem())), entry))
}

/// The serial numbers that belong on the list: revoked, and not expired anyway.
fn revoked(book: &Book, now: Timestamp) -> impl Iterator<Item = &Entry> {
    book.issued.iter().filter(move |entry| entry.state(now) == State::Revoked && entry.expires > now)
}

/// `chain` is the CA's certificate with those above it.
pub(super) fn list(issuer: &Issuer<'_, KeyPair>, chain: &str, book: &Book, now: Timestamp) -> Result<String> {
    let revoked_certs = revoked(book, now).map(|entry| {
        let bytes =
            (0..entry.serial.len() / 2).map(|i| u8::from_str_radix(entry.serial.get(2 * i..2 * i + 2)?, 16).ok());
        let serial: Vec<u8> = bytes.collect::<Option<_>>().context("a serial number in the book is broken")?;
        let revocation_time = at(entry.revoked.unwrap_or(now).as_second())?;
        let serial_number = SerialNumber::from(serial);
        Ok(RevokedCertParams { serial_number, revocation_time, reason_code: None, invalidity_date: None })
    });
    let params = CertificateRevocationListParams {
        this_update: at(now.as_second() - 3600)?,
        next_update: at(now.as_second() + LIST_DAYS * DAY_S)?,
        crl_number: SerialNumber::from(book.list_number),
        issuing_distribution_point: None,
        revoked_certs: revoked_certs.collect::<Result<_>>()?,
        // What signs is found by this: it must be what the CA's certificate says, whoever made that (RFC 5280, 5.2.1).
        key_identifier_method: subject_key_id(chain).map_or(KeyIdMethod::Sha256, KeyIdMethod::PreSpecified),
    };
    let list = params.signed_by(issuer).context("could not sign the revocation list")?;
    list.pem().context("could not write the revocation list")
}

/// Whether a list is younger than `oldest_s` and holds exactly what the book says.
pub(super) fn is_current(pem: &str, book: &Book, oldest_s: i64) -> bool {
    let Ok((_, block)) = x509_parser::pem::parse_x509_pem(pem.as_bytes()) else { return false };
    let Ok((_, parsed)) = CertificateRevocationList::from_der(&block.contents) else { return false };
    let now = crate::host::now();
    let listed: BTreeSet<String> = parsed
        .iter_revoked_certificates()
        .map(|one| hex(one.raw_serial()))
        .filter(|serial| book.issued.iter().any(|entry| &entry.serial == serial && entry.expires > now))
        .collect();
    let wanted: BTreeSet<String> = revoked(book, now).map(|entry| entry.serial.clone()).collect();
    let signed = parsed.last_update().timestamp();
    // It was dated back by an hour when it was signed; one of the future was signed when the clock was ahead.
    signed <= now.as_second() && signed + 3600 >= oldest_s && listed == wanted
}

fn subject_key_id(chain: &str) -> Option<Vec<u8>> {
    let der = CertificateDer::from_pem_slice(chain.as_bytes()).ok()?;
    let (_, parsed) = X509Certificate::from_der(&der).ok()?;
    parsed.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        x509_parser::extensions::ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
        _ => None,
    })
}

/// Whether two CAs have the same name, byte for byte.
pub(super) fn has_same_name(one: &str, other: &str) -> bool {
    let subject = |chain: &str| {
        let der = CertificateDer::from_pem_slice(chain.as_bytes()).ok()?;
        let (_, parsed) = X509Certificate::from_der(&der).ok()?;
        Some(parsed.subject().as_raw().to_vec())
    };
    subject(one).is_some_and(|one| Some(one) == subject(other))
}

/// What we sign must name the CA as its certificate does: a name with two parts of one kind (`DC=example,DC=com`) would lose one.
pub(super) fn check_name(issuer: &Issuer<'_, KeyPair>, chain: &str, now: Timestamp) -> Result<()> {
    let list = list(issuer, chain, &Book::default(), now)?;
    let (_, block) = x509_parser::pem::parse_x509_pem(list.as_bytes()).context("the list that was signed is broken")?;
    let (_, parsed) =
        CertificateRevocationList::from_der(&block.contents).context("the list that was signed is broken")?;
    let der = CertificateDer::from_pem_slice(chain.as_bytes()).map_err(|error| anyhow!("{error}"))?;
    let (_, ca) = X509Certificate::from_der(&der).context("the CA's certificate is broken")?;
    if parsed.issuer().as_raw() != ca.subject().as_raw() {
        bail!(
            "the CA's name, {}, has a part more than once; have it signed for a name that has each part once",
            ca.subject()
        );
    }
    Ok(())
}
