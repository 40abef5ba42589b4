//! The authority that client certificates are checked against, and its revocation list, as nginx will load them. Pure.

use sha2::{Digest, Sha256};
use x509_parser::pem::Pem;
use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Certificate};

/// A CA for client certificates that nginx can use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientAuthority {
    /// Tells one state of the two files from another.
    pub digest: String,
    pub has_list: bool,
    /// When the first of its certificates ends, in seconds since the epoch.
    pub not_after: i64,
    /// When the first of its lists must have been replaced by a newer one.
    pub next_update: Option<i64>,
    /// When the last of its lists was signed.
    pub this_update: Option<i64>,
    /// How many certificates a chain has above the client's own.
    pub depth: usize,
}

/// Whether certificates and list are one chain and nothing else: each certificate signed by the next one, and each list by one of them,
/// one for each. Where the first is ours, what somebody puts behind it would be believed like ours.
///
/// # Errors
/// What does not belong to the chain.
pub fn check_chain(certificates: &str, list: Option<&str>) -> Result<(), String> {
    let chain = blocks(certificates, "CERTIFICATE").map_err(|why| format!("the CA's certificate {why}"))?;
    let chain: Vec<X509Certificate<'_>> = chain
        .iter()
        .map(|block| X509Certificate::from_der(&block.contents).map(|(_, parsed)| parsed))
        .collect::<Result<_, _>>()
        .map_err(|_| "the CA's certificate is no X.509 certificate".to_owned())?;
    for pair in chain.windows(2) {
        let [below, above] = pair else { continue };
        if below.issuer() != above.subject() || below.verify_signature(Some(above.public_key())).is_err() {
            return Err(format!("the certificate of {} has not signed the one before it", above.subject()));
        }
    }
    let mut listed = vec![false; chain.len()];
    for block in blocks(list.unwrap_or_default(), "X509 CRL").unwrap_or_default() {
        let (_, parsed) = CertificateRevocationList::from_der(&block.contents)
            .map_err(|_| "the revocation list is no X.509 list".to_owned())?;
        let signer = |certificate: &X509Certificate<'_>| {
            certificate.subject() == parsed.issuer() && parsed.verify_signature(certificate.public_key()).is_ok()
        };
        match chain.iter().position(signer) {
            Some(at) if !listed[at] => listed[at] = true,
            Some(_) => return Err(format!("there are two revocation lists of {}", parsed.issuer())),
            None => return Err(format!("a revocation list is not signed by {}, whose name it has", parsed.issuer())),
        }
    }
    Ok(())
}

impl ClientAuthority {
    /// Reads the CA's certificates and, where there is one, its revocation list, both PEM.
    ///
    /// # Errors
    /// What is wrong with one of them: it is then not used at all, since without the list revoked ones would be let in.
    pub fn parse(certificates: &str, list: Option<&str>) -> Result<ClientAuthority, String> {
        let chain = blocks(certificates, "CERTIFICATE").map_err(|why| format!("the CA's certificate {why}"))?;
        let mut not_after = i64::MAX;
        for block in &chain {
            let (_, parsed) = X509Certificate::from_der(&block.contents)
                .map_err(|_| "the CA's certificate is no X.509 certificate".to_owned())?;
            if !parsed.is_ca() {
                return Err(format!("the certificate of {} is not one of a CA", parsed.subject()));
            }
            not_after = not_after.min(parsed.validity().not_after.timestamp());
        }
        let (mut next_update, mut this_update) = (None, None);
        if let Some(list) = list {
            for block in blocks(list, "X509 CRL").map_err(|why| format!("the revocation list {why}"))? {
                let (_, parsed) = CertificateRevocationList::from_der(&block.contents)
                    .map_err(|_| "the revocation list is no X.509 list".to_owned())?;
                let next = parsed.next_update().map(|next| next.timestamp());
                next_update = [next_update, next].into_iter().flatten().min();
                this_update = this_update.max(Some(parsed.last_update().timestamp()));
            }
        }
        let digest = Sha256::digest(format!("{certificates}\0{}", list.unwrap_or("none")));
        let digest = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        Ok(ClientAuthority {
            digest,
            has_list: list.is_some(),
            not_after,
            next_update,
            this_update,
            depth: chain.len(),
        })
    }
}

/// The blocks of one kind in a PEM text.
///
/// # Errors
/// It is not PEM, or holds none of them.
pub fn blocks(text: &str, label: &str) -> Result<Vec<Pem>, String> {
    let blocks: Result<Vec<Pem>, _> = Pem::iter_from_buffer(text.as_bytes()).collect();
    let blocks: Vec<Pem> =
        blocks.map_err(|_| "is not PEM".to_owned())?.into_iter().filter(|pem| pem.label == label).collect();
    if blocks.is_empty() { Err(format!("has no block '-----BEGIN {label}-----'")) } else { Ok(blocks) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{
        BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer, KeyPair,
        KeyUsagePurpose, SerialNumber,
    };

    #[test]
    fn only_one_chain_and_its_own_lists_are_taken() {
        let make = |name: &str| {
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
            params.distinguished_name.push(DnType::CommonName, name);
            (params, KeyPair::generate().expect("a key can be made"))
        };
        let ((root, root_key), (ours, our_key), (evil, evil_key)) = (make("root"), make("ours"), make("ours"));
        let root_pem = root.self_signed(&root_key).expect("it can be signed").pem();
        let root = Issuer::new(root, root_key);
        let our_pem = ours.signed_by(&our_key, &root).expect("it can be signed").pem();
        let evil_pem = evil.self_signed(&evil_key).expect("it can be signed").pem();
        let (ours, evil) = (Issuer::new(ours, our_key), Issuer::new(evil, evil_key));
        let list = |by: &Issuer<'_, KeyPair>| {
            let params = CertificateRevocationListParams {
                this_update: rcgen::date_time_ymd(2026, 1, 1),
                next_update: rcgen::date_time_ymd(2036, 1, 1),
                crl_number: SerialNumber::from(1),
                issuing_distribution_point: None,
                revoked_certs: Vec::new(),
                key_identifier_method: rcgen::KeyIdMethod::Sha256,
            };
            params.signed_by(by).expect("it can be signed").pem().expect("it can be written")
        };
        let chain = format!("{our_pem}{root_pem}");
        let lists = format!("{}{}", list(&ours), list(&root));
        assert_eq!(check_chain(&chain, Some(&lists)), Ok(()));
        for (certificates, list, expected) in [
            (format!("{chain}{evil_pem}"), lists.clone(), "has not signed the one before it"),
            (chain.clone(), format!("{}{lists}", list(&evil)), "is not signed by"),
            (chain.clone(), format!("{lists}{}", list(&ours)), "two revocation lists"),
        ] {
            let said = check_chain(&certificates, Some(&list)).expect_err("it is refused");
            assert!(said.contains(expected), "{said}");
        }
    }

    #[test]
    fn only_a_ca_and_a_whole_list_are_taken() {
        let key = KeyPair::generate().expect("a key can be made");
        let mut params = CertificateParams::default();
        let plain = params.self_signed(&key).expect("it can be signed").pem();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = params.self_signed(&key).expect("it can be signed").pem();
        let good = ClientAuthority::parse(&ca, None).expect("a CA alone is good");
        assert!(!good.has_list && good.depth == 1);
        for (certificates, list, expected) in [
            (plain.as_str(), None, "is not one of a CA"),
            ("", None, "the CA's certificate has no block"),
            (&ca[..ca.len() / 2], None, "the CA's certificate is not PEM"),
            (&ca, Some(""), "the revocation list has no block '-----BEGIN X509 CRL-----'"),
            (
                &ca,
                Some("-----BEGIN X509 CRL-----\neA==\n-----END X509 CRL-----\n"),
                "the revocation list is no X.509 list",
            ),
        ] {
            let said = ClientAuthority::parse(certificates, list).expect_err("it is refused");
            assert!(said.contains(expected), "{said}");
        }
    }
}
