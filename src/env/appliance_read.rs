//! Reading the mapping `appliance`.

use super::alert::read_alert;
use super::appliance::*;
use super::backup::read_backup;
use super::document::Node;
use super::reader::{Fields, Reading, Unknown};
use super::rules;
use super::setup::read_setup;
use super::ssl::read_ssl;
use crate::value::*;

/// Reads `appliance:`; `None` means an error was reported.
pub fn read(root: &Fields) -> Option<Appliance> {
    let fields = root.fields("appliance");
    let standby = fields.boolean("standby").unwrap_or(false);
    let domain: Option<Domain> = fields.checked("domain");
    if let (None, Some((place, instead))) = (root.key_place("appliance"), root.misspelt("appliance")) {
        fields.error(place, format!("'appliance' is missing; did you mean it by '{instead}'?"));
    } else if fields.value("domain").is_none() {
        let place = root.key_place("appliance").unwrap_or(root.place());
        fields.error(place, "'appliance.domain' is missing; set it to the host's name, like 'app.example.org'");
    }
    let allowed_hosts = read_hosts(&fields, domain.as_ref());
    // Everything is read before anything is given up: all problems are told at once.
    let (ssl, metric, update) = (read_ssl(&fields, None), read_metric(&fields), read_update(&fields));
    let (storage, backup) = (read_storage(&fields), read_backup(&fields));
    let sentry = fields.fields("sentry");
    let sentry_dsn = sentry.get("dsn", |reading, node, path| reading.checked_secretly(node, path));
    sentry.finish(Unknown::Warn);
    let alert = read_alert(&fields);
    let dkim = fields.fields("dkim");
    let dkim_key = dkim.secret("key");
    dkim.finish(Unknown::Warn);
    let (extra_files, extra_packages) = read_extra(&fields);
    read_old_git(&fields);
    let appliance = domain.map(|domain| Appliance {
        standby,
        domain,
        allowed_hosts,
        ssl,
        sentry_dsn,
        alert,
        metric,
        extra_files,
        extra_packages,
        update,
        storage,
        dkim_key,
        backup,
    });
    if let Some(appliance) = &appliance {
        rules::certificates(&fields, appliance);
        rules::parts(&fields, appliance);
    }
    fields.finish(Unknown::Warn);
    appliance
}

/// Reads `allowed_hosts`, below the appliance or below one of several apps. The domain is always among them.
pub(super) fn read_hosts(fields: &Fields, domain: Option<&Domain>) -> Vec<HostPattern> {
    let named: Vec<HostPattern> = fields.words("allowed_hosts").unwrap_or_default();
    let mut hosts: Vec<HostPattern> = named.iter().flat_map(HostPattern::spelled_out).collect();
    if let Some(own) = domain.map(HostPattern::from)
        && !hosts.contains(&own)
    {
        hosts.insert(0, own);
    }
    hosts
}

fn read_metric(appliance: &Fields) -> Metric {
    let fields = appliance.fields("metric");
    let flag = |key| fields.boolean(key).unwrap_or(false);
    let metric =
        Metric { exporter: flag("exporter"), server: flag("server"), gui: flag("gui"), pghero: flag("pghero") };
    fields.finish(Unknown::Warn);
    metric
}

fn read_update(appliance: &Fields) -> Update {
    let fields = appliance.fields("update");
    let update = Update {
        automatic: fields.boolean("automatic").unwrap_or(true),
        oncalendar: fields.calendar("oncalendar").unwrap_or_else(daily),
        reboot: fields.boolean("reboot").unwrap_or(true),
    };
    fields.finish(Unknown::Warn);
    update
}

/// The default of `update.oncalendar` (docs/env.md).
fn daily() -> Calendar {
    // The text is a constant that the check takes; a test of this file's defaults holds it.
    "*-*-* 06:30:00".parse().expect("the default calendar is valid")
}

fn read_storage(appliance: &Fields) -> StorageWish {
    let fields = appliance.fields("storage");
    let setup = fields.value("setup").and_then(|node| read_setup(fields.reading, node));
    if let Some(place) = fields.value("proxy_cache").and_then(|_| fields.key_place("proxy_cache")) {
        fields.warning(place, "'appliance.storage.proxy_cache' is not used any more: there is no proxy on the host");
    }
    let ignore = fields.fields("ignore");
    let wish = StorageWish {
        setup,
        ignore_volatile: ignore.boolean("volatile").unwrap_or(false),
        ignore_data: ignore.boolean("data").unwrap_or(false),
        grow_root: fields.boolean("grow_root").unwrap_or(false),
    };
    ignore.finish(Unknown::Warn);
    fields.finish(Unknown::Warn);
    wish
}

fn read_extra(appliance: &Fields) -> (Vec<ExtraFile>, Vec<PackageName>) {
    let fields = appliance.fields("extra");
    let files =
        fields.list("files", |reading, node, path| Some(read_extra_file(reading, node, path))).unwrap_or_default();
    let files: Vec<(usize, ExtraFile)> =
        files.into_iter().enumerate().filter_map(|(index, file)| Some((index, file?))).collect();
    rules::extra_files(&fields, &files);
    let packages = fields.list("packages", |reading, node, path| reading.checked(node, path)).unwrap_or_default();
    if let Some(node) = fields.value("states") {
        fields.warning(node.place, "'appliance.extra.states' is a Salt state and not run any more; use extra.files");
    }
    fields.finish(Unknown::Warn);
    (files.into_iter().map(|(_, file)| file).collect(), packages)
}

fn read_extra_file(reading: &Reading, node: &Node, path: &str) -> Option<ExtraFile> {
    let fields = Fields::of(reading, Some(node), path);
    if !fields.is_present() {
        return None;
    }
    let target: Option<AbsPath> = fields.checked("path");
    if fields.value("path").is_none() {
        fields.error(node.place, format!("'{path}.path' is missing; say where the file goes"));
    }
    // An empty file is a file.
    let text =
        |key| fields.node(key).filter(|node| !node.is_null()).and_then(|node| reading.secret(node, &fields.path(key)));
    let (contents, old) = (text("contents"), text("content"));
    if let (Some(_), Some(_), Some(place)) = (&contents, &old, fields.key_place("content")) {
        fields.error(place, format!("'{path}.content' is the old name of 'contents'; keep one of them"));
    }
    let contents = contents.or(old);
    if contents.is_none() && fields.value("contents").is_none() && fields.value("content").is_none() {
        fields.error(node.place, format!("'{path}.contents' is missing; say what is in the file"));
    }
    let (owner, mode) = (fields.checked("owner"), fields.checked("permissions"));
    let file = target.zip(contents).map(|(path, contents)| ExtraFile { path, contents, owner, mode });
    fields.finish(Unknown::Warn);
    file
}

/// `appliance.git`: where old installs got the appliance itself from.
fn read_old_git(appliance: &Fields) {
    let fields = appliance.fields("git");
    if let Some(place) = appliance.key_place("git") {
        fields.warning(place, "'appliance.git' is not used any more: the appliance comes as a package");
    }
    // Not even looked at: an old env must not fail over what nobody reads.
    for key in ["source", "branch", "commitid"] {
        fields.node(key);
    }
    fields.finish(Unknown::Warn);
}
