//! Keys that are read and checked, or that an ECS-Appliance had, but from which nothing follows in this version: whoever wrote one relies on
//! it, so each is told.

use super::document::{Kind, Node, Place};
use super::reader::{Fields, parse_boolean};

/// Keys at the top level that the Salt states read; what is said of each.
const TOP: [(&str, &str); 6] = [
    ("http_proxy", "a proxy for apt and Docker is set up by hand"),
    ("https_proxy", "a proxy for apt and Docker is set up by hand"),
    ("no_proxy", "a proxy for apt and Docker is set up by hand"),
    ("timezone", "only cloud-init reads it; 'timedatectl set-timezone' sets it"),
    ("kernel", "the kernel is the distribution's"),
    ("docker", "Docker is set up in /etc/docker/daemon.json"),
];

/// Keys of the appliance: section and key; what is said of each.
const OWN: [(&str, &str, &str); 7] = [
    ("backup", "options", "they are duplicity's, and restic makes the backups now"),
    (
        "backup",
        "mount",
        "while it is there nothing is backed up; mount it by /etc/fstab, and name a directory in it in 'appliance.backup.url'",
    ),
    ("metric", "exporter", "metrics are not collected yet"),
    ("metric", "server", "metrics are not collected yet"),
    ("metric", "gui", "metrics are not collected yet"),
    ("metric", "pghero", "metrics are not collected yet"),
    ("dkim", "key", "mail is not sent yet; the key only goes into the DNS records of 'appliance env create'"),
];

/// Warns of each that is there and says something: a flag that is off asks for nothing.
pub(super) fn warn(root: &Fields) {
    let Some(node) = root.mapping() else { return };
    for (key, instead) in TOP {
        if let Some(place) = place_of(Some(node), key) {
            root.warning(place, format!("'{key}' has no effect here: {instead}"));
        }
    }
    for (section, key, why) in OWN {
        if let Some(place) = place_of(node.get("appliance").and_then(|appliance| appliance.get(section)), key) {
            root.warning(place, format!("'appliance.{section}.{key}' has no effect: {why}"));
        }
    }
}

/// Where a key stands that has a value.
fn place_of(node: Option<&Node>, key: &str) -> Option<Place> {
    let (name, value) = node?.entries().iter().find(|(name, _)| name.text == key)?;
    let says_something = match &*value.kind {
        Kind::Scalar { text, .. } => !value.is_null() && !text.trim().is_empty() && parse_boolean(text) != Some(false),
        _ => true,
    };
    says_something.then_some(name.place)
}
