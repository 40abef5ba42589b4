//! The keys under `appliance.ssl:`: a certificate of one's own, or an authority's.

use super::document::{Node, Place};
use super::reader::{Fields, Reading, Unknown};
use crate::value::certificate::CertificateText;
use crate::value::{Email, Secret, WebUrl};

#[derive(Debug, Clone)]
pub struct Ssl {
    pub letsencrypt: bool,
    pub acme: Acme,
    pub client_certs_mandatory: bool,
    pub own: Option<OwnPair>,
}

/// Another certificate authority than the default one.
#[derive(Debug, Clone, Default)]
pub struct Acme {
    pub directory: Option<WebUrl>,
    /// The authority's own root certificate, where the system does not know it.
    pub ca: Option<CertificateText>,
    pub email: Option<Email>,
    /// External account binding (RFC 8555, 7.3.4): key id and key, base64url.
    pub eab: Option<(String, Secret)>,
}

/// A key and certificate chain of one's own, and where they stand in the file. Whether they fit together is judged where
/// their files can be read: `source/`.
#[derive(Debug, Clone)]
pub struct OwnPair {
    pub key: CertificateText,
    pub certificate: CertificateText,
    pub key_place: Place,
    pub certificate_place: Place,
    /// The key that both stand under, like `appliance.ssl`.
    pub path: String,
}

/// Reads `ssl:` below the appliance, or below one of several apps, which has from the appliance what it does not say itself: all but a
/// certificate of its own.
pub(super) fn read_ssl(parent: &Fields, of_host: Option<&Ssl>) -> Ssl {
    let fields = parent.fields("ssl");
    let secretly = |reading: &Reading, node: &Node, path: &str| reading.checked_secretly::<CertificateText>(node, path);
    let key_place = fields.key_place("key").or(fields.key_place("cert"));
    let (key, cert) = (fields.get("key", secretly), fields.get("cert", secretly));
    if key.is_some() != cert.is_some()
        && fields.value("key").is_some() != fields.value("cert").is_some()
        && let Some(place) = key_place
    {
        let (key, cert) = (fields.path("key"), fields.path("cert"));
        fields.error(place, format!("'{key}' and '{cert}' go together; set both or neither"));
    }
    let place = |key| fields.value(key).map_or(Place::START, |node| node.place);
    let (key_place, certificate_place) = (place("key"), place("cert"));
    let path = parent.path("ssl");
    let own = |(key, certificate)| OwnPair { key, certificate, key_place, certificate_place, path };
    let letsencrypt = fields.fields("letsencrypt");
    let enabled = letsencrypt.boolean("enabled").or(of_host.map(|ssl| ssl.letsencrypt)).unwrap_or(true);
    letsencrypt.finish(Unknown::Warn);
    let acme = read_acme(&fields);
    let mandatory = fields.boolean("client_certs_mandatory").or(of_host.map(|ssl| ssl.client_certs_mandatory));
    let ssl = Ssl {
        letsencrypt: enabled,
        acme: match (of_host, fields.value("acme")) {
            (Some(ssl), None) => ssl.acme.clone(),
            _ => acme,
        },
        client_certs_mandatory: mandatory.unwrap_or(false),
        own: key.zip(cert).map(own),
    };
    fields.finish(Unknown::Warn);
    ssl
}

fn read_acme(ssl: &Fields) -> Acme {
    let fields = ssl.fields("acme");
    let binding = fields.fields("eab");
    let (kid, key) = (binding.text("kid"), binding.secret("key"));
    if binding.is_present() && kid.is_some() != key.is_some() {
        binding.error(binding.place(), format!("'{}' needs both 'kid' and 'key'", fields.path("eab")));
    }
    binding.finish(Unknown::Warn);
    let acme = Acme {
        directory: fields.get("directory", |reading, node, path| reading.checked_secretly(node, path)),
        ca: fields.get("ca", |reading, node, path| reading.checked_secretly(node, path)),
        email: fields.checked("email"),
        eab: kid.zip(key),
    };
    fields.finish(Unknown::Warn);
    acme
}
