//! The DNS records that a host with mail needs, as lines of a zone file.

use crate::value::Domain;

/// What stands for the address that only the user knows (RFC 5737).
const ADDRESS: &str = "192.0.2.1";
/// The longest string of a TXT record (RFC 1035, 3.3).
const MAX_STRING: usize = 255;

/// The records for a domain with a DKIM key, given as base64 of its public part; one per line.
pub fn records(domain: &Domain, dkim_public: &str) -> String {
    let dkim = format!("v=DKIM1; k=rsa; s=email; p={dkim_public}");
    let reversed: Vec<&str> = ADDRESS.split('.').rev().collect();
    [
        format!("{domain}. IN A {ADDRESS}"),
        format!("{domain}. IN MX 10 {domain}."),
        format!("{domain}. IN TXT \"v=spf1 a mx -all\""),
        format!("_dmarc.{domain}. IN TXT \"v=DMARC1; p=quarantine\""),
        format!("default._domainkey.{domain}. IN TXT {}", strings(&dkim)),
        format!("{}.in-addr.arpa. IN PTR {domain}.", reversed.join(".")),
    ]
    .join("\n")
}

/// A text as the strings of a TXT record, which resolvers put together again.
fn strings(text: &str) -> String {
    // The text is ASCII: base64 and a fixed beginning.
    let parts: Vec<String> =
        text.as_bytes().chunks(MAX_STRING).map(|part| format!("\"{}\"", String::from_utf8_lossy(part))).collect();
    format!("( {} )", parts.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_keys_are_cut_into_strings_and_nothing_is_lost() {
        let domain: Domain = "a.example".parse().expect("it is a domain");
        let key = "x".repeat(392);
        let all = records(&domain, &key);
        let line =
            all.lines().find(|line| line.starts_with("default._domainkey.a.example. IN TXT ")).expect("it is there");
        let strings: Vec<&str> = line.split('"').skip(1).step_by(2).collect();
        assert!(strings.iter().all(|part| part.len() <= 255));
        assert_eq!(strings.concat(), format!("v=DKIM1; k=rsa; s=email; p={key}"));
        assert_eq!(all.lines().last(), Some("1.2.0.192.in-addr.arpa. IN PTR a.example."));
    }
}
