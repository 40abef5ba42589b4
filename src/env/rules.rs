//! Rules over more than one key: what goes together, what contradicts, what cannot work. Rules about one
//! value alone are its type's.

use super::appliance::{Appliance, ExtraFile};
use super::reader::Fields;
use crate::value::SshKey;
use std::collections::{BTreeMap, HashSet};

/// A key that is both let in and shut out is shut out; whoever wrote that did not mean it.
pub fn ssh_keys(root: &Fields, authorized: &[SshKey], deprecated: &[SshKey]) {
    let let_in: HashSet<&str> = authorized.iter().map(SshKey::identity).collect();
    if let Some(index) = deprecated.iter().position(|key| let_in.contains(key.identity()))
        && let Some(place) = root.item_place("ssh_deprecated_keys", index)
    {
        root.warning(place, "this key is in 'ssh_authorized_keys' too; it is removed. Keep it in one of the two lists");
    }
}

/// Files that the appliance writes itself, or reads its own state from.
const OUR_FILES: [&str; 5] = [
    "/app/env.yml",
    "/run/active-env.yml",
    "/run/appliance-failed",
    "/etc/nginx/conf.d/appliance.conf",
    "/var/www/html/503.html",
];
/// Directories in which the appliance keeps its own state.
const OUR_DIRECTORIES: [&str; 7] = [
    "/run/appliance/",
    "/etc/nginx/conf.d/appliance-app-",
    "/var/www/appliance/",
    "/data/appliance/",
    "/data/appliance-git/",
    "/data/git/",
    "/app/etc/tags/",
];

/// Two files at one path overwrite each other at every run; one over the appliance's own breaks it.
pub fn extra_files(extra: &Fields, files: &[(usize, ExtraFile)]) {
    let mut first: BTreeMap<&str, usize> = BTreeMap::new();
    for (index, file) in files {
        let path = file.path.as_str();
        let Some(place) = extra.item_place("files", *index) else { continue };
        if let Some(other) = first.insert(path, *index) {
            let both = format!("'appliance.extra.files[{other}]' and '[{index}]' both write {path}; keep one of them");
            extra.error(place, both);
        }
        let real = path.strip_prefix("/data/etc/").map_or(path.to_owned(), |rest| format!("/app/etc/{rest}"));
        if OUR_FILES.contains(&path) || OUR_DIRECTORIES.iter().any(|directory| real.starts_with(directory)) {
            extra.error(place, format!("{path} belongs to the appliance itself; write to another file"));
        }
    }
}

/// A certificate by ACME needs public names, and each of them reachable by HTTP.
pub fn certificates(fields: &Fields, appliance: &Appliance) {
    let ssl = &appliance.ssl;
    if !ssl.letsencrypt || ssl.own.is_some() {
        return;
    }
    let Some(place) = fields.key_place("domain") else { return };
    if ssl.acme.directory.is_none() && !appliance.has_public_domain() {
        let text = "no public authority gives a certificate for this name; set 'appliance.ssl.letsencrypt.enabled: false', \
                    or a certificate of your own in 'appliance.ssl.key' and '.cert'";
        fields.warning(place, text);
    }
    let star = appliance.allowed_hosts.iter().find(|host| host.as_str().starts_with("*."));
    if let (Some(star), Some(place)) = (star, fields.key_place("allowed_hosts")) {
        let text =
            format!("'{star}' cannot be in a certificate that is got over HTTP; it is left out of the certificate");
        fields.warning(place, text);
    }
}

/// Parts that do nothing without another.
pub fn parts(fields: &Fields, appliance: &Appliance) {
    let backup = &appliance.backup;
    if let (None, Some(place)) = (&backup.url, fields.key_place("backup"))
        && (backup.mount.is_some() || backup.encrypt.is_some() || backup.options.is_some())
    {
        fields.warning(place, "'appliance.backup.url' is missing, so nothing is backed up");
    }
    let metric = &appliance.metric;
    if let Some(place) = fields.key_place("metric")
        && metric.gui
        && !metric.server
    {
        fields.warning(place, "'appliance.metric.gui' shows nothing without 'appliance.metric.server: true'");
    }
}
