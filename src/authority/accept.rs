//! What a CA certificate that was signed elsewhere must be before it is used (RFC 5280, 4.2.1.3, 4.2.1.9 and 6). Pure.

use crate::value::pem_blocks as blocks;
use rcgen::{KeyPair, PublicKeyData};
use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Certificate};

/// Judges a chain, ours first and a root last, and the lists of all that stand above ours.
///
/// # Errors
/// The first thing that is wrong, in words.
pub(super) fn judge(chain: &str, lists: &str, key: &KeyPair, now_s: i64) -> Result<(), String> {
    let blocks_of_chain = blocks(chain, "CERTIFICATE").map_err(|why| format!("the chain {why}"))?;
    let mut parsed = Vec::new();
    for block in &blocks_of_chain {
        let (_, one) = X509Certificate::from_der(&block.contents)
            .map_err(|_| "a certificate of the chain is broken".to_owned())?;
        parsed.push(one);
    }
    let Some(first) = parsed.first() else { return Err("there is no certificate in the file".to_owned()) };
    if first.public_key().raw != key.subject_public_key_info() {
        return Err("the first certificate is not for our key; sign the request of: appliance cert ca init --request"
            .to_owned());
    }
    for one in &parsed {
        if !one.is_ca() {
            return Err(format!("the certificate of {} is not one of a CA (basicConstraints)", one.subject()));
        }
        if let Ok(Some(usage)) = one.key_usage()
            && !(usage.value.key_cert_sign() && usage.value.crl_sign())
        {
            return Err(format!("the certificate of {} may not sign certificates and lists (keyUsage)", one.subject()));
        }
        if let Ok(Some(usage)) = one.extended_key_usage()
            && !(usage.value.any || usage.value.client_auth)
        {
            return Err(format!(
                "the certificate of {} does not allow clients below it (extendedKeyUsage)",
                one.subject()
            ));
        }
        if one.validity().not_after.timestamp() <= now_s || one.validity().not_before.timestamp() > now_s {
            return Err(format!("the certificate of {} is not valid now", one.subject()));
        }
    }
    for (depth, pair) in parsed.windows(2).enumerate() {
        if pair[0].issuer() != pair[1].subject() || pair[0].verify_signature(Some(pair[1].public_key())).is_err() {
            return Err(format!("{} was not signed by {}, which follows it", pair[0].subject(), pair[1].subject()));
        }
        let allowed = pair[1].basic_constraints().ok().flatten().and_then(|found| found.value.path_len_constraint);
        // Ours stands below it, and so many others in between.
        if allowed.is_some_and(|allowed| (allowed as usize) < depth + 1) {
            return Err(format!("{} allows no CA so far below it (pathlen)", pair[1].subject()));
        }
    }
    let last = parsed.last().unwrap_or(first);
    if last.issuer() != last.subject() {
        return Err(format!("the chain ends with {}; put its issuers behind it, up to the root", last.subject()));
    }
    let blocks_of_lists = if lists.trim().is_empty() {
        Vec::new()
    } else {
        blocks(lists, "X509 CRL").map_err(|why| format!("what is given as lists {why}"))?
    };
    let mut parsed_lists = Vec::new();
    for block in &blocks_of_lists {
        let (_, one) = CertificateRevocationList::from_der(&block.contents)
            .map_err(|_| "a revocation list is broken".to_owned())?;
        parsed_lists.push(one);
    }
    for above in &parsed[1..] {
        let Some(list) = parsed_lists.iter().find(|list| list.issuer() == above.subject()) else {
            return Err(format!(
                "the revocation list of {} is missing; nginx checks every certificate of a chain",
                above.subject()
            ));
        };
        if list.verify_signature(above.public_key()).is_err() {
            return Err(format!("the revocation list of {} is not signed by it", above.subject()));
        }
        let is_on = |one: &X509Certificate<'_>| {
            list.iter_revoked_certificates().any(|gone| gone.raw_serial() == one.raw_serial())
        };
        if let Some(gone) = parsed.iter().find(|one| one.issuer() == above.subject() && is_on(one)) {
            return Err(format!("{} is revoked", gone.subject()));
        }
        if list.next_update().is_some_and(|next| next.timestamp() <= now_s) {
            return Err(format!("the revocation list of {} is out of date", above.subject()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::*;

    struct Above {
        issuer: Issuer<'static, KeyPair>,
        pem: String,
        list: String,
    }

    fn above(name: &str, pathlen: BasicConstraints, revoked: Option<SerialNumber>) -> Above {
        let key = KeyPair::generate().expect("a key can be made");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(pathlen);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let pem = params.self_signed(&key).expect("it can be signed").pem();
        let issuer = Issuer::new(params, key);
        let revoked = revoked.map(|serial_number| RevokedCertParams {
            serial_number,
            revocation_time: date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(2100, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.into_iter().collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&issuer).expect("it can be signed").pem().expect("it can be written");
        Above { issuer, pem, list }
    }

    fn sub(key: &KeyPair, is_ca: IsCa, usage: KeyUsagePurpose, issuer: &Issuer<'_, KeyPair>, until: i32) -> String {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "sub");
        (params.is_ca, params.key_usages) = (is_ca, vec![usage, KeyUsagePurpose::CrlSign]);
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(until, 1, 1));
        params.serial_number = Some(SerialNumber::from(7));
        params.signed_by(key, issuer).expect("it can be signed").pem()
    }

    #[test]
    fn every_rule_of_a_signed_certificate_is_held() {
        let now_s = 1_790_000_000;
        let key = KeyPair::generate().expect("a key can be made");
        let other = KeyPair::generate().expect("a key can be made");
        let open = || BasicConstraints::Unconstrained;
        let root = above("root", open(), None);
        let stranger = above("root", open(), None);
        let strict = above("root", BasicConstraints::Constrained(0), None);
        let angry = above("root", open(), Some(SerialNumber::from(7)));
        let ca = || IsCa::Ca(BasicConstraints::Constrained(0));
        let sign = KeyUsagePurpose::KeyCertSign;
        let good = sub(&key, ca(), sign, &root.issuer, 2100);
        for (chain, lists, expected) in [
            (format!("{good}{}", root.pem), root.list.clone(), "good"),
            (good.clone(), root.list.clone(), "up to the root"),
            (format!("{good}{}", root.pem), String::new(), "is missing"),
            (format!("{good}{}", stranger.pem), stranger.list.clone(), "was not signed by"),
            (format!("{good}{}", root.pem), stranger.list.clone(), "is not signed by it"),
            (
                format!("{}{}", sub(&other, ca(), sign, &root.issuer, 2100), root.pem),
                root.list.clone(),
                "not for our key",
            ),
            (
                format!("{}{}", sub(&key, IsCa::NoCa, sign, &root.issuer, 2100), root.pem),
                root.list.clone(),
                "basicConstraints",
            ),
            (
                format!("{}{}", sub(&key, ca(), KeyUsagePurpose::DigitalSignature, &root.issuer, 2100), root.pem),
                root.list.clone(),
                "keyUsage",
            ),
            (
                format!("{}{}", sub(&key, ca(), sign, &root.issuer, 2021), root.pem),
                root.list.clone(),
                "is not valid now",
            ),
            (format!("{}{}", sub(&key, ca(), sign, &strict.issuer, 2100), strict.pem), strict.list.clone(), "pathlen"),
            (format!("{}{}", sub(&key, ca(), sign, &angry.issuer, 2100), angry.pem), angry.list.clone(), "is revoked"),
            (String::new(), root.list.clone(), "the chain has no block"),
        ] {
            let said = judge(&chain, &lists, &key, now_s).map_or_else(|why| why, |()| "good".to_owned());
            assert!(said.contains(expected), "wanted '{expected}': {said}");
        }
    }
}
