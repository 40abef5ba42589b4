//! The env's own certificate, judged: whether key and chain fit together, for how long, and for which names. The rules are
//! `value/certificate.rs`.

use crate::env::{AskOwn, Diagnostic, Spot};
use crate::host::Host;
use crate::state::history;
use crate::value::AbsPath;
use crate::value::certificate::{CertificateText, Pair, Unfit};

fn is_of_volume(path: &AbsPath) -> bool {
    ["/app/", "/data/", "/volatile/"].iter().any(|volume| path.as_str().starts_with(volume))
}

/// Everything that is wrong or doubtful with it. A host must come up with a certificate that ran out, so that is a warning.
pub(super) fn judge(host: &Host, asked: AskOwn) -> Vec<Diagnostic> {
    let at = |spot: &Spot, diagnostic: Diagnostic| Diagnostic { quote: spot.quote.clone(), ..diagnostic };
    let wrong = |spot: &Spot, text: String| at(spot, Diagnostic::error(spot.place, text));
    let is_written =
        |text: &CertificateText| matches!(text, CertificateText::Path(path) if asked.written.contains(path));
    if is_written(&asked.pair.key) || is_written(&asked.pair.certificate) {
        // Not there yet, or about to be replaced; the step tls judges it.
        return Vec::new();
    }
    let mut found = Vec::new();
    let mut text = |text: &CertificateText, spot: &Spot, key: &str| match host.certificate_text(text) {
        Ok(text) => Some(text),
        Err(error) => {
            // Before the first start, what lies on a volume is not where it will be.
            let later = matches!(text, CertificateText::Path(path) if is_of_volume(path)) && !history::has_place(host);
            let text = format!("'{}.{key}' cannot be read: {error:#}", asked.path);
            found.push(if later { at(spot, Diagnostic::warning(spot.place, text)) } else { wrong(spot, text) });
            None
        }
    };
    let key = text(&asked.pair.key, &asked.key, "key");
    let certificate = text(&asked.pair.certificate, &asked.certificate, "cert");
    let Some((key, certificate)) = key.zip(certificate) else { return found };
    match Pair::parse(certificate.expose(), &key) {
        Ok(pair) => {
            let doubts = pair.doubts(&asked.hosts, host.now().as_second());
            let spot = &asked.certificate;
            let warn = |doubt| {
                at(spot, Diagnostic::warning(spot.place, format!("the certificate in '{}.cert' {doubt}", asked.path)))
            };
            doubts.into_iter().map(warn).collect()
        }
        Err(Unfit::Key(why)) => vec![wrong(&asked.key, format!("the key in '{}.key' {why}", asked.path))],
        Err(Unfit::Certificate(why)) => {
            vec![wrong(&asked.certificate, format!("the certificate in '{}.cert' {why}", asked.path))]
        }
    }
}
