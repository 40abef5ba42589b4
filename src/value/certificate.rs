//! X.509 certificates as the crate needs them: what one says of itself, and whether a chain and a key fit together. Pure;
//! where they lie and when they are changed is `prepare/tls.rs`.

use super::{AbsPath, HostPattern, Invalid, Secret};
use rcgen::{KeyPair, PublicKeyData};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::collections::BTreeSet;
use std::str::FromStr;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
use x509_parser::public_key::PublicKey;

/// Whether the first certificate of a chain is for this key.
pub fn is_of(chain: &str, key: &KeyPair) -> bool {
    let Ok(der) = CertificateDer::from_pem_slice(chain.as_bytes()) else { return false };
    X509Certificate::from_der(&der).is_ok_and(|(_, parsed)| parsed.public_key().raw == key.subject_public_key_info())
}

/// [`is_of`], with the key as PEM.
pub fn is_of_key(chain: &str, key: &Secret) -> bool {
    KeyPair::from_pem(key.expose()).is_ok_and(|key| is_of(chain, &key))
}

/// PEM text, or where it lies.
#[derive(Debug, Clone)]
pub enum CertificateText {
    Pem(Secret),
    Path(AbsPath),
}

impl FromStr for CertificateText {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        // openssl writes lines of its own before the block.
        let begins = text.starts_with("-----BEGIN ") || text.contains("\n-----BEGIN ");
        if begins && text.contains("-----END ") {
            return Ok(CertificateText::Pem(Secret::new(format!("{}\n", text.trim()))));
        }
        text.parse()
            .map(CertificateText::Path)
            .map_err(|_| Invalid::new("PEM text ('-----BEGIN …') or an absolute path"))
    }
}

/// What a certificate says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    pub self_signed: bool,
    /// The names that it holds for: DNS names, and addresses in their usual form.
    pub names: BTreeSet<String>,
    /// Seconds since the epoch.
    pub not_before: i64,
    /// Seconds since the epoch.
    pub not_after: i64,
    pub issuer: String,
    /// Where its authority answers whether it is still good (OCSP), if it names a place.
    pub responder: Option<String>,
}

impl Facts {
    /// Whether it holds for a host; a wildcard stands for one label (RFC 6125, 6.4.3).
    pub fn holds_for(&self, host: &HostPattern) -> bool {
        let name = host.as_str();
        let above = name.split_once('.').map(|(_, rest)| format!("*.{rest}"));
        self.names.contains(name) || above.is_some_and(|above| self.names.contains(&above))
    }
}

/// A private key and the chain for its certificate: they belong together, the host's certificate first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    certificate: String,
    key: Secret,
    facts: Facts,
    length: usize,
    /// Where a certificate was not issued by the next one, in words.
    gap: Option<String>,
}

/// Which half of a pair is wrong, and how.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    #[error("the key {0}")]
    Key(String),
    #[error("the certificate {0}")]
    Certificate(String),
}

impl Pair {
    /// Reads chain and key, both PEM.
    ///
    /// # Errors
    /// One of them is none, they do not belong together, or nginx would not load them.
    pub fn parse(certificate: &str, key: &Secret) -> Result<Pair, Unfit> {
        let bad = |text: &str| Unfit::Certificate(text.to_owned());
        let chain = CertificateDer::pem_slice_iter(certificate.as_bytes()).collect::<Result<Vec<_>, _>>();
        let chain = chain.map_err(|_| bad("is not PEM: a block of it is cut or broken"))?;
        if chain.is_empty() {
            return Err(bad("has no block '-----BEGIN CERTIFICATE-----'"));
        }
        let mut parsed = Vec::new();
        for (at, der) in chain.iter().enumerate() {
            let (_, one) = X509Certificate::from_der(der)
                .map_err(|_| Unfit::Certificate(format!("number {} in the file is no X.509 certificate", at + 1)))?;
            parsed.push(one);
        }
        let signer = signer(key)?;
        if let Some(spki) = signer.public_key() {
            let belongs = |one: &X509Certificate<'_>| one.public_key().raw == spki.as_ref();
            match parsed.iter().position(belongs) {
                Some(0) => {}
                Some(at) => {
                    let text =
                        format!("has its chain in the wrong order: number {} belongs to the key, put it first", at + 1);
                    return Err(Unfit::Certificate(text));
                }
                None => return Err(Unfit::Key("does not belong to the certificate".to_owned())),
            }
        }
        if let PublicKey::RSA(rsa) = parsed[0].public_key().parsed().map_err(|_| bad("has a key of no known kind"))?
            && rsa.key_size() < 2048
        {
            let text = format!("has an RSA key of {} bits; nginx takes no less than 2048", rsa.key_size());
            return Err(Unfit::Certificate(text));
        }
        // Most clients find their way all the same, so this is a doubt only.
        let gap =
            parsed.windows(2).enumerate().find(|(_, two)| two[0].issuer() != two[1].subject()).map(|(at, two)| {
                let right = parsed.iter().position(|one| two[0].issuer() == one.subject());
                let right = right.map(|right| format!(", but by number {}", right + 1)).unwrap_or_default();
                format!(
                    "has its chain in another order than TLS wants: number {} was not issued by number {}{right}",
                    at + 1,
                    at + 2
                )
            });
        let (facts, length) = (facts_of(&parsed[0]), parsed.len());
        Ok(Pair { certificate: certificate.to_owned(), key: key.clone(), facts, length, gap })
    }

    /// The chain as PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    pub fn key(&self) -> &Secret {
        &self.key
    }

    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Whether nginx can fetch and send the responder's word on it (OCSP stapling): it needs the issuer for that.
    pub fn can_be_stapled(&self) -> bool {
        self.facts.responder.is_some() && self.length > 1
    }

    /// What is doubtful about it for these hosts, in words: its time, its names, its chain (RFC 8446, 4.4.2).
    pub fn doubts(&self, hosts: &[HostPattern], now_s: i64) -> Vec<String> {
        let (facts, mut doubts) = (&self.facts, Vec::new());
        let day =
            |seconds| jiff::Timestamp::from_second(seconds).map_or("?".to_owned(), |at| at.strftime("%F").to_string());
        let left_days = (facts.not_after - now_s).div_euclid(24 * 3600);
        if facts.not_after <= now_s {
            doubts.push(format!("expired on {}; browsers refuse it, get a new one", day(facts.not_after)));
        } else if left_days < 21 {
            doubts.push(format!("expires on {}, in {left_days} days; get a new one", day(facts.not_after)));
        }
        if facts.not_before > now_s {
            doubts.push(format!("is valid from {} only; is the clock right?", day(facts.not_before)));
        }
        let lacks: Vec<&str> = hosts.iter().filter(|host| !facts.holds_for(host)).map(HostPattern::as_str).collect();
        if !lacks.is_empty() {
            doubts.push(format!("does not hold for {} of appliance.allowed_hosts", lacks.join(", ")));
        }
        doubts.extend(self.gap.clone());
        if self.length == 1 && !facts.self_signed {
            let text =
                "stands alone; unless its issuer is a root that visitors have, put the authority's chain behind it";
            doubts.push(text.to_owned());
        }
        doubts
    }
}

fn signer(key: &Secret) -> Result<std::sync::Arc<dyn rustls::sign::SigningKey>, Unfit> {
    let text = key.expose();
    if text.contains("BEGIN ENCRYPTED PRIVATE KEY") || text.contains("Proc-Type: 4,ENCRYPTED") {
        return Err(Unfit::Key("is protected by a passphrase, which nobody could enter; remove it".to_owned()));
    }
    let der = PrivateKeyDer::from_pem_slice(text.as_bytes())
        .map_err(|_| Unfit::Key("has no whole block '-----BEGIN PRIVATE KEY-----'".to_owned()))?;
    rustls::crypto::ring::default_provider()
        .key_provider
        .load_private_key(der)
        .map_err(|_| Unfit::Key("is of no kind that is known: RSA, P-256, P-384 or Ed25519".to_owned()))
}

/// What the first certificate of a PEM text says of itself.
///
/// # Errors
/// It is none.
pub fn facts(pem: &str) -> Result<Facts, Invalid> {
    let invalid = || Invalid::new("an X.509 certificate as PEM");
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| invalid())?;
    let (_, parsed) = X509Certificate::from_der(&der).map_err(|_| invalid())?;
    Ok(facts_of(&parsed))
}

fn facts_of(parsed: &X509Certificate<'_>) -> Facts {
    let names = match parsed.subject_alternative_name() {
        Ok(Some(extension)) => extension.value.general_names.iter().filter_map(name_of).collect(),
        _ => BTreeSet::new(),
    };
    Facts {
        self_signed: parsed.issuer() == parsed.subject(),
        names,
        not_before: parsed.validity().not_before.timestamp(),
        not_after: parsed.validity().not_after.timestamp(),
        issuer: parsed.issuer().to_string(),
        responder: responder_of(parsed),
    }
}

/// The address of the OCSP responder (RFC 5280, 4.2.2.1).
fn responder_of(parsed: &X509Certificate<'_>) -> Option<String> {
    use x509_parser::extensions::ParsedExtension;
    use x509_parser::oid_registry::OID_PKIX_ACCESS_DESCRIPTOR_OCSP;
    parsed.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityInfoAccess(access) => access
            .accessdescs
            .iter()
            .filter(|description| description.access_method == OID_PKIX_ACCESS_DESCRIPTOR_OCSP)
            .find_map(|description| match &description.access_location {
                GeneralName::URI(uri) => Some((*uri).to_owned()),
                _ => None,
            }),
        _ => None,
    })
}

fn name_of(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|bytes| std::net::Ipv4Addr::from(bytes).to_string()),
            16 => <[u8; 16]>::try_from(*bytes).ok().map(|bytes| std::net::Ipv6Addr::from(bytes).to_string()),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

    /// A chain of three as an authority would issue it: host, intermediate, root; and the host's key.
    fn chain(from: i32, to: i32) -> ([String; 3], Secret) {
        let params = |name: &str, is_ca: bool| {
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::CommonName, name);
            if is_ca {
                params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            }
            (params.not_before, params.not_after) = (rcgen::date_time_ymd(from, 1, 1), rcgen::date_time_ymd(to, 1, 1));
            params
        };
        let make = || KeyPair::generate().expect("a key can be made");
        let (root_key, middle_key, key) = (make(), make(), make());
        let root = params("root", true).self_signed(&root_key).expect("it can be signed");
        let root_issuer = Issuer::new(params("root", true), root_key);
        let middle = params("middle", true).signed_by(&middle_key, &root_issuer).expect("it can be signed");
        let middle_issuer = Issuer::new(params("middle", true), middle_key);
        let mut host = params("a.de", false);
        host.subject_alt_names = vec![rcgen::SanType::DnsName("A.de".to_owned().try_into().expect("a name is ASCII"))];
        let host = host.signed_by(&key, &middle_issuer).expect("it can be signed");
        ([host.pem(), middle.pem(), root.pem()], Secret::new(key.serialize_pem()))
    }

    fn said(certificate: &str, key: &Secret) -> String {
        Pair::parse(certificate, key).map_or_else(|unfit| unfit.to_string(), |_| "good".to_owned())
    }

    #[test]
    fn key_and_chain_must_fit_and_stand_in_order() {
        let ([host, middle, root], key) = chain(2020, 2100);
        let other = chain(2020, 2100).1;
        let cut = Secret::new(&key.expose()[..60]);
        let locked = Secret::new("-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n");
        for (certificate, key, expected) in [
            (format!("{host}{middle}{root}"), &key, "good"),
            (format!("{host}{middle}"), &key, "good"),
            (host.clone(), &key, "good"),
            (
                format!("{middle}{host}"),
                &key,
                "the certificate has its chain in the wrong order: number 2 belongs to the key, put it first",
            ),
            (host.clone(), &other, "the key does not belong to the certificate"),
            (host.clone(), &cut, "the key has no whole block '-----BEGIN PRIVATE KEY-----'"),
            (host.clone(), &locked, "the key is protected by a passphrase, which nobody could enter; remove it"),
            (key.expose().to_owned(), &key, "the certificate has no block '-----BEGIN CERTIFICATE-----'"),
            (
                "-----BEGIN CERTIFICATE-----\neA==\n-----END CERTIFICATE-----\n".to_owned(),
                &key,
                "the certificate number 1 in the file is no X.509 certificate",
            ),
        ] {
            assert_eq!(said(&certificate, key), expected);
        }
    }

    #[test]
    fn doubts_are_told_in_words() {
        let day = |text: &str| text.parse::<jiff::Timestamp>().expect("a time").as_second();
        let hosts =
            |text: &str| -> Vec<HostPattern> { text.split(' ').map(|host| host.parse().expect("a host")).collect() };
        let ([host, middle, root], key) = chain(2020, 2030);
        let mixed = Pair::parse(&format!("{host}{root}{middle}"), &key).expect("the first one fits");
        let whole = Pair::parse(&format!("{host}{middle}"), &key).expect("they fit");
        let alone = Pair::parse(&host, &key).expect("they fit");
        let good = day("2026-01-01T00:00:00Z");
        assert_eq!(whole.doubts(&hosts("a.de"), good), Vec::<String>::new());
        for (doubts, expected) in [
            (whole.doubts(&hosts("a.de"), day("2029-12-20T00:00:00Z")), "expires on 2030-01-01, in 12 days"),
            (whole.doubts(&hosts("a.de"), day("2030-01-02T00:00:00Z")), "expired on 2030-01-01"),
            (whole.doubts(&hosts("a.de"), day("2019-01-02T00:00:00Z")), "is valid from 2020-01-01 only"),
            (whole.doubts(&hosts("a.de b.de *.a.de"), good), "does not hold for b.de, *.a.de of"),
            (alone.doubts(&hosts("a.de"), good), "stands alone"),
            (
                mixed.doubts(&hosts("a.de"), good),
                "has its chain in another order than TLS wants: number 1 was not issued by number 2, but by number 3",
            ),
        ] {
            assert!(doubts.len() == 1 && doubts[0].starts_with(expected), "{doubts:?}");
        }
    }

    #[test]
    fn a_wildcard_holds_for_one_label() {
        let facts = Facts {
            self_signed: false,
            names: ["*.a.de".to_owned()].into(),
            not_before: 0,
            not_after: 1,
            issuer: String::new(),
            responder: None,
        };
        let holds = |host: &str| facts.holds_for(&host.parse().expect("a host"));
        assert!(holds("b.a.de") && holds("*.a.de") && !holds("a.de") && !holds("c.b.a.de"));
    }
}
