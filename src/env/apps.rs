//! The list `apps:` (docs/env.md): several apps on one host. An entry has the keys of `app:`, its own names and certificate, and may take
//! from another one what it does not say itself.

use super::app::{self, App};
use super::appliance::Appliance;
use super::appliance_read::read_hosts;
use super::document::{Kind, Node, Place, shown};
use super::limits;
use super::reader::{Fields, Reading, Unknown};
use super::rules;
use super::ssl::read_ssl;
use crate::value::{AppName, Domain};
use std::collections::BTreeMap;

/// How many apps one host may have.
pub(super) const MAX_APPS: usize = 50;

/// What an instance has for itself, whatever it is like.
const NOT_TAKEN: [&str; 7] = ["name", "domain", "allowed_hosts", "ssl", "database", "like", "enabled"];

/// One app of several, with the names that are its own.
pub(super) struct Entry {
    pub app: App,
    /// The appliance's keys, with this app's names and certificate in the place of the host's.
    pub appliance: Appliance,
    /// Its keys, those that it takes from another one included.
    pub own: Node,
    pub place: Place,
}

/// Whether the file has the list, right or wrong.
pub(super) fn is_there(root: &Fields) -> bool {
    root.key_place("apps").is_some()
}

/// Reads the list; `None` means an error was reported.
pub(super) fn read(root: &Fields, appliance: Option<&Appliance>) -> Option<Vec<Entry>> {
    let place = root.key_place("apps").unwrap_or(root.place());
    for (key, other) in [("app", root.key_place("app")), ("ecs", root.key_place("ecs"))] {
        if let Some(other) = other {
            root.error(other, format!("'apps' and '{key}' stand beside each other; make '{key}' an entry of 'apps'"));
        }
    }
    let items = root.list("apps", |_, node, _| Some(node.clone()))?;
    if items.is_empty() {
        root.error(place, "'apps' is empty; it says which apps to run: name, domain and git.source of each");
        return None;
    }
    if let Some(item) = items.get(MAX_APPS) {
        root.error(item.place, format!("'apps' has {} entries; one host runs at most {MAX_APPS} apps", items.len()));
        return None;
    }
    let merged: Vec<Option<Node>> = (0..items.len()).map(|index| resolve(root.reading, &items, index)).collect();
    let entries = merged.iter().enumerate().map(|(index, node)| {
        let path = format!("{}[{index}]", root.path("apps"));
        node.as_ref().and_then(|node| read_entry(root.reading, node, &path, index == 0, appliance))
    });
    // All are read before any is given up.
    let entries: Vec<Option<Entry>> = entries.collect();
    let entries: Option<Vec<Entry>> = entries.into_iter().collect();
    let entries = entries?;
    together(root.reading, &entries);
    Some(entries)
}

fn name_of(item: &Node) -> Option<&str> {
    scalar(item, "name")
}

fn scalar<'a>(item: &'a Node, key: &str) -> Option<&'a str> {
    match &*item.get(key)?.kind {
        Kind::Scalar { text, .. } => Some(text.trim()),
        _ => None,
    }
}

/// An entry with what it takes from the one that it is like, and that one from the next.
fn resolve(reading: &Reading, items: &[Node], index: usize) -> Option<Node> {
    let item = items.get(index)?;
    let mut entries = item.entries().to_vec();
    let mut seen = vec![index];
    let mut at = item;
    while let Some(like) = at.get("like") {
        let Some(wanted) = scalar(at, "like").filter(|name| !name.is_empty()) else {
            // Each says so of its own, below.
            break;
        };
        let Some(next) = items.iter().position(|item| name_of(item) == Some(wanted)) else {
            let names: Vec<&str> = items.iter().filter_map(name_of).collect();
            let text = format!("there is no app '{}' to be like; there are: {}", shown(wanted), names.join(", "));
            reading.error(like.place, text);
            return None;
        };
        if seen.contains(&next) {
            // Told once for each of the circle, with the place of the next.
            if next == index {
                let to = items[seen.get(1).copied().unwrap_or(index)].place;
                let text = format!("'like' leads back to this app; the next one of the circle is at line {}", to.line);
                reading.error(like_of(item).unwrap_or(like.place), text);
            }
            return None;
        }
        seen.push(next);
        at = &items[next];
        for (key, node) in at.entries() {
            let is_own = NOT_TAKEN.contains(&key.text.as_str()) || entries.iter().any(|(own, _)| own.text == key.text);
            if !is_own {
                entries.push((key.clone(), node.clone()));
            }
        }
    }
    match &*item.kind {
        Kind::Mapping(_) => Some(item.with_kind(Kind::Mapping(entries))),
        _ => Some(item.clone()),
    }
}

fn like_of(item: &Node) -> Option<Place> {
    item.get("like").map(|node| node.place)
}

fn read_entry(
    reading: &Reading,
    node: &Node,
    path: &str,
    is_first: bool,
    of_host: Option<&Appliance>,
) -> Option<Entry> {
    let fields = Fields::of(reading, Some(node), path);
    if !fields.is_present() {
        if node.is_null() {
            reading.error(node.place, format!("'{path}' is empty; an app has a name, a domain and git.source"));
        }
        return None;
    }
    fields.text("like");
    let is_enabled = fields.boolean("enabled").unwrap_or(true);
    let domain = match fields.checked::<Domain>("domain") {
        Some(domain) => Some(domain),
        None if fields.value("domain").is_some() => None,
        None if is_first => of_host.map(|host| host.domain.clone()),
        None => {
            let path = fields.path("domain");
            fields
                .error(node.place, format!("'{path}' is missing; only the first app has the domain of the appliance"));
            None
        }
    };
    let has_names = fields.value("allowed_hosts").is_some() || fields.value("domain").is_some();
    let hosts = read_hosts(&fields, domain.as_ref());
    // A certificate of the host's own is for the host's names.
    let has_hosts_names = is_first && !has_names;
    let ssl = read_ssl(&fields, of_host.map(|host| &host.ssl));
    let appliance = of_host.zip(domain).map(|(host, domain)| {
        let mut appliance = Appliance { domain, ..host.clone() };
        appliance.ssl = ssl;
        match has_hosts_names {
            true => appliance.ssl.own = appliance.ssl.own.or(host.ssl.own.clone()),
            false => appliance.allowed_hosts = hosts,
        }
        appliance
    });
    if let Some(appliance) = appliance.as_ref().filter(|_| !has_hosts_names) {
        rules::certificates(&fields, appliance);
    }
    let limits = limits::read(&fields);
    let update = fields.fields("update");
    let calendar = update.calendar("oncalendar");
    update.finish(Unknown::Warn);
    let app = app::read_app(fields, Some(node.place), false);
    let (app, appliance) = app.zip(appliance)?;
    let app = App { is_enabled, limits, calendar, ..app };
    Some(Entry { app, appliance, own: node.clone(), place: node.place })
}

/// Names that are PostgreSQL's own, or directories in `/app/etc`.
const OF_OTHERS: [&str; 8] = ["public", "none", "all", "tls", "tags", "flags", "hooks", "dehydrated"];

/// Whether a name is another one with a dash and more behind it: `/data/shop-ca` is a directory of the app shop.
fn is_part(name: &AppName, longer: &AppName) -> bool {
    longer.as_str().strip_prefix(name.as_str()).is_some_and(|rest| rest.starts_with('-'))
}

/// What two apps cannot both have.
fn together(reading: &Reading, entries: &[Entry]) {
    let said = |place: Place, other: Place, what: String| {
        reading.error(place, format!("{what} belongs to the app at line {} already", other.line));
    };
    let mut names: BTreeMap<&AppName, Place> = BTreeMap::new();
    let mut databases: BTreeMap<&str, Place> = BTreeMap::new();
    let mut addresses: BTreeMap<std::net::Ipv4Addr, Place> = BTreeMap::new();
    let mut hosts: BTreeMap<&str, Place> = BTreeMap::new();
    for entry in entries {
        let place = |key: &str| entry.own.get(key).map_or(entry.place, |node| node.place);
        let name = &entry.app.name;
        if let Some(other) = names.insert(name, place("name")) {
            said(place("name"), other, format!("the name '{name}'"));
            continue;
        }
        // A role of the same name is what the app connects as; and `/app/etc` has directories of the appliance's.
        if OF_OTHERS.contains(&name.as_str()) {
            reading.error(
                place("name"),
                format!("no app of several can be called '{name}': PostgreSQL or the appliance has that name itself"),
            );
        }
        if let Some(other) = entries.iter().find(|other| is_part(&other.app.name, name)) {
            let text = format!(
                "the name '{name}' begins with that of the app at line {} and a dash, as the names of that one's directories do; choose another",
                other.place.line
            );
            reading.error(place("name"), text);
        }
        let database = entry.app.database.as_str();
        if let Some(other) = databases.insert(database, place("database")) {
            said(place("database"), other, format!("the database '{}'", shown(database)));
        }
        if let Some(other) = addresses.insert(name.loopback(), place("name")) {
            let what = format!(
                "the address {} that '{name}' would have on this host; choose another name: it",
                name.loopback()
            );
            said(place("name"), other, what);
        }
        let own = if entry.own.get("allowed_hosts").is_some() { "allowed_hosts" } else { "domain" };
        for host in &entry.appliance.allowed_hosts {
            if let Some(other) = hosts.insert(host.as_str(), place(own)) {
                said(place(own), other, format!("the name '{host}'"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::env::{Env, Envs};

    fn read(apps: &str) -> Result<Envs, String> {
        let text = format!("appliance: {{domain: a.de, ssl: {{letsencrypt: {{enabled: no}}}}}}\napps:\n{apps}");
        let parsed = Env::parse(text.as_bytes());
        parsed.envs.ok_or_else(|| parsed.report.render("t"))
    }

    #[test]
    fn an_instance_takes_what_it_does_not_say_itself_but_no_names() {
        let apps = "  - {name: one, git: {source: /srv/x, branch: main}, settings: A, database: db, critical: [web]}\n  \
                    - {name: two, like: one, domain: b.de, settings: B}\n  \
                    - {name: three, like: two, domain: c.de, ssl: {client_certs_mandatory: yes}, enabled: no}\n";
        let envs = read(apps).unwrap_or_else(|said| panic!("{said}"));
        let said: Vec<String> = envs
            .iter()
            .map(|env| {
                let app = &env.app;
                let settings = app.settings.as_ref().map(|settings| settings.expose()).unwrap_or_default();
                let hosts: Vec<&str> = env.appliance.allowed_hosts.iter().map(|host| host.as_str()).collect();
                let mandatory = env.appliance.ssl.client_certs_mandatory;
                format!(
                    "{} {} {} {settings} {} {mandatory} {} {}",
                    app.name,
                    app.git.source,
                    app.database,
                    hosts.join(","),
                    app.is_enabled,
                    env.appliance.ssl.letsencrypt
                )
            })
            .collect();
        assert_eq!(
            said,
            [
                "one /srv/x db A a.de false true false",
                "two /srv/x two B b.de false true false",
                "three /srv/x three B c.de true false false"
            ]
        );
        let digests: std::collections::BTreeSet<&str> = envs.iter().map(|env| env.digest.as_str()).collect();
        assert_eq!(digests.len(), 3);
        let two = |settings: &str| {
            let envs = read(&apps.replace("settings: B", settings)).unwrap_or_else(|said| panic!("{said}"));
            envs.iter().map(|env| env.digest.clone()).collect::<Vec<_>>()
        };
        let changed: Vec<bool> =
            two("settings: B").iter().zip(two("settings: C")).map(|(old, new)| *old != new).collect();
        assert_eq!(changed, [false, true, true], "a change of one app is none of another's");
    }

    #[test]
    fn what_two_apps_cannot_both_have_is_told_with_both_places() {
        let one = "  - {name: one, git: {source: /srv/x}}\n";
        for (more, expected) in [
            ("  - {name: one, git: {source: /srv/y}, domain: b.de}\n", "the name 'one' belongs to the app at line 3"),
            ("  - {name: two, git: {source: /srv/y}, domain: A.de}\n", "the name 'a.de' belongs to the app at line 3"),
            ("  - {name: two, git: {source: /srv/y}, domain: b.de, allowed_hosts: 'c.de a.de'}\n", "'a.de' belongs"),
            ("  - {name: two, git: {source: /srv/y}, domain: b.de, database: one}\n", "the database 'one' belongs"),
            ("  - {name: two, git: {source: /srv/y}}\n", "'apps[1].domain' is missing"),
            ("  - {name: public, git: {source: /srv/y}, domain: b.de}\n", "no app of several can be called"),
            ("  - {name: tags, git: {source: /srv/y}, domain: b.de}\n", "no app of several can be called"),
            ("  - {name: one-ca, git: {source: /srv/y}, domain: b.de}\n", "begins with that of the app at line 3"),
            ("  - {name: two, like: three, domain: b.de}\n", "there is no app 'three' to be like; there are: one, two"),
            (
                "  - {name: two, like: two, domain: b.de}\n",
                "leads back to this app; the next one of the circle is at line 4",
            ),
            ("  - {name: two, like: x, domain: b.de}\n  - {name: x, like: two, domain: c.de}\n", "is at line 5"),
            ("  -\n", "'apps[1]' is empty"),
            ("  - [x]\n", "'apps[1]' must be a mapping"),
            ("app: {name: x, git: {source: /srv/x}}\n", "'apps' and 'app' stand beside each other"),
        ] {
            let said = read(&format!("{one}{more}")).map(drop).expect_err(more);
            assert!(said.contains(expected) && said.lines().count() <= 3, "{more}: {said}");
        }
        assert!(read(&one.repeat(51)).is_err_and(|said| said.contains("at most 50 apps")));
        assert!(read("  []\n").is_err_and(|said| said.contains("'apps' is empty")));
    }

    #[test]
    fn what_is_wrong_with_the_pattern_is_told_once() {
        let said = read(
            "  - {name: one, git: {source: /srv/x, local: no}}\n  - {name: two, like: one, domain: b.de}\n  \
             - {name: three, like: one, domain: c.de}\n",
        );
        let said = said.map(drop).expect_err("it is wrong");
        assert_eq!(said.matches("must be keep or merge").count(), 1, "{said}");
    }
}
