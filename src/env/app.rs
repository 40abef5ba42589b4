//! The keys under `app:` or `ecs:` (docs/env.md): one of the two, `ecs:` being `app:` named `ecs`.

use super::app_backup::{self, AppBackup};
use super::document::{Kind, Node, Place, shown};
use super::gate::{self, Probe};
use super::limits::Limits;
use super::reader::{Fields, Reading, Unknown};
use super::words;
use crate::value::{
    AbsPath, AppName, Calendar, Commit, DatabaseName, GitRef, GitUrl, Invalid, KnownHost, Secret, ServiceName,
    SigningKey,
};
use std::str::FromStr;

/// Everything under `app:`.
#[derive(Debug, Clone)]
pub struct App {
    pub name: AppName,
    /// The top-level key it stood under, `app` or `ecs`: the first part of its flat variables.
    pub tree: &'static str,
    /// Whether it is to run.
    pub is_enabled: bool,
    /// What all of its containers may use together, where something bounds that.
    pub limits: Option<Limits>,
    /// When it is updated by itself, where that is not when the host is.
    pub calendar: Option<Calendar>,
    /// Services whose crash loop fails the stack, besides those with a route.
    pub critical: Vec<ServiceName>,
    pub git: AppGit,
    pub database: DatabaseName,
    /// What the compose file may ask of the host.
    pub allow: Allow,
    /// The compose file, where it is not one of the default places.
    pub compose: Option<AbsPath>,
    pub migrate: Option<Migrate>,
    pub backup: AppBackup,
    /// What must hold beside the default gate before a release is good.
    pub gate: Vec<Probe>,
    pub settings: Option<Secret>,
    /// OpenPGP keys that the storage vault encrypts and signs with, in this order; none: there is no vault.
    pub vault: Vec<Secret>,
}

#[derive(Debug, Clone)]
pub struct AppGit {
    pub source: GitUrl,
    /// `None`: what the remote's HEAD names.
    pub branch: Option<GitRef>,
    /// Pins the release to one commit.
    pub commitid: Option<Commit>,
    pub local: GitLocal,
    /// A release's commit, or its tag, must be signed with one of these; none: it is not looked at.
    pub verify: Vec<SigningKey>,
    /// The ssh servers that git talks to; none: whoever answers first is remembered.
    pub host_keys: Vec<KnownHost>,
}

/// What the compose file may ask of the host; everything, unless the env says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allow {
    /// Privileged containers, capabilities, devices, the host's namespaces.
    pub privileged: bool,
    pub binds: Binds,
}

/// Which files and directories of the host a container may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binds {
    Any,
    /// Those of the checkout, of `/app/etc/<name>`, and of the app's data.
    Own,
}

impl Default for Allow {
    fn default() -> Allow {
        Allow { privileged: true, binds: Binds::Any }
    }
}

/// What happens to local commits in the checkout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GitLocal {
    Keep,
    Merge,
}

/// How to migrate: a command in a one-off container of a service.
#[derive(Debug, Clone)]
pub struct Migrate {
    pub auto: bool,
    pub service: ServiceName,
    pub command: Vec<String>,
    /// A glob of repository paths whose addition means that a migration is needed.
    pub when: String,
}

/// The repository that `ecs:` means without a source (docs/env.md).
const ECS_SOURCE: &str = "https://github.com/ecs-org/ecs.git";

/// Reads `app:` or `ecs:`; `None` means an error was reported.
pub(super) fn read(root: &Fields) -> Option<App> {
    let (app, ecs) = (root.fields("app"), root.fields("ecs"));
    let (app_place, ecs_place) = (root.key_place("app"), root.key_place("ecs"));
    match (app_place, ecs_place) {
        (Some(_), Some(place)) => {
            root.error(place, "'app' and 'ecs' are two names for one thing; keep one of them");
            // Read all the same: all problems are told at once.
            drop((read_app(app, app_place, false), read_app(ecs, ecs_place, true)));
            None
        }
        (None, None) => {
            let misspelt = root.misspelt("app").or_else(|| root.misspelt("ecs"));
            // One of cloud-init's own.
            if let Some((place, instead)) = misspelt.filter(|(_, name)| name != "apt") {
                root.error(place, format!("'app' is missing; did you mean it by '{instead}'?"));
                return None;
            }
            root.error(root.place(), "'app' is missing; it says which app to run: name and git.source");
            None
        }
        (Some(_), None) => read_app(app, app_place, false),
        (None, Some(_)) => read_app(ecs, ecs_place, true),
    }
}

/// One app: `app:`, `ecs:`, or one of `apps:`. What is missing in it is told at its place.
pub(super) fn read_app(fields: Fields, place: Option<Place>, is_ecs: bool) -> Option<App> {
    let tree = if is_ecs { "ecs" } else { "app" };
    let place = place.unwrap_or(fields.place());
    let name = match fields.checked::<AppName>("name") {
        Some(name) => Some(name),
        None if fields.value("name").is_some() => None,
        None if is_ecs => Some(AppName::ecs()),
        None => {
            let path = fields.path("name");
            fields.error(place, format!("'{path}' is missing; it names project, database and directory"));
            None
        }
    };
    if is_ecs
        && let (Some(node), Some(name)) = (fields.value("name"), &name)
        && name.as_str() != "ecs"
    {
        fields.error(node.place, "'ecs.name' can only be 'ecs'; use 'app:' for another name");
    }
    let critical = fields.list("critical", |reading, node, path| reading.checked(node, path)).unwrap_or_default();
    let git = read_git(&fields, is_ecs, place);
    let allow = read_allow(&fields);
    let database = fields.checked("database");
    let compose = fields.checked("compose");
    let migrate = read_migrate(&fields, is_ecs);
    let backup = app_backup::read(&fields);
    let settings = fields.secret("settings");
    let gate = gate::read(&fields);
    let vault = read_ecs_own(&fields);
    fields.finish(Unknown::Warn);
    let name = name?;
    Some(App {
        tree,
        is_enabled: true,
        limits: None,
        calendar: None,
        critical,
        allow,
        git: git?,
        database: database.unwrap_or_else(|| DatabaseName::from(&name)),
        compose,
        migrate,
        backup,
        gate,
        settings,
        vault,
        name,
    })
}

/// A wish for safety: what is written wrongly there is not passed over.
fn read_allow(app: &Fields) -> Allow {
    if let (None, Some((place, name))) = (app.key_place("allow"), app.misspelt("allow")) {
        app.error(
            place,
            format!("did you mean '{}' by '{name}'? A wish for safety is not passed over", app.path("allow")),
        );
    }
    let fields = app.fields("allow");
    let binds = match fields.text("binds").as_deref() {
        None | Some("any") => Binds::Any,
        Some("own") => Binds::Own,
        Some(_) => {
            let place = fields.value("binds").map_or(fields.place(), |node| node.place);
            fields.error(place, format!("'{}' must be own or any", fields.path("binds")));
            Binds::Any
        }
    };
    let allow = Allow { privileged: fields.boolean("privileged").unwrap_or(true), binds };
    fields.finish(Unknown::Refuse);
    allow
}

fn read_git(app: &Fields, is_ecs: bool, place: Place) -> Option<AppGit> {
    let fields = app.fields("git");
    let secretly = |reading: &Reading, node: &Node, path: &str| reading.checked_secretly::<GitUrl>(node, path);
    let source = match fields.get("source", secretly) {
        Some(source) => Some(source),
        None if fields.value("source").is_some() => None,
        // The text is a constant that the check takes.
        None if is_ecs => Some(ECS_SOURCE.parse().expect("the public ECS repository is a valid URL")),
        None => {
            let path = fields.path("source");
            fields.error(place, format!("'{path}' is missing; it says where the app's repository is"));
            None
        }
    };
    let default_branch = || is_ecs.then(|| "master".parse().ok()).flatten();
    let local = match fields.text("local").as_deref() {
        None | Some("keep") => GitLocal::Keep,
        Some("merge") => GitLocal::Merge,
        Some(_) => {
            let place = fields.value("local").map_or(place, |node| node.place);
            fields.error(place, format!("'{}' must be keep or merge", fields.path("local")));
            GitLocal::Keep
        }
    };
    let verify = keys(&fields, "verify", fields.value("verify").is_some_and(is_block));
    let host_keys = keys(&fields, "host_keys", false);
    let (branch, commitid) = (fields.checked("branch").or_else(default_branch), fields.checked("commitid"));
    fields.finish(Unknown::Warn);
    Some(AppGit { branch, commitid, local, verify, host_keys, source: source? })
}

/// One key in many lines.
fn is_block(node: &Node) -> bool {
    matches!(&*node.kind, Kind::Scalar { text, .. } if text.trim_start().starts_with("-----BEGIN"))
}

/// Keys: a list, or a text with one in each line; the whole text is one if it is said to be.
fn keys<T: FromStr<Err = Invalid>>(fields: &Fields, key: &'static str, is_one: bool) -> Vec<T> {
    let path = fields.path(key);
    let Some(node) = fields.value(key) else {
        // Written down and left empty, or nearly written down: somebody relies on it.
        if let Some(node) = fields.node(key) {
            fields.error(node.place, format!("'{path}' holds no key"));
        } else if let Some((place, name)) = fields.misspelt(key) {
            fields.error(place, format!("did you mean '{path}' by '{name}'? A wish for safety is not passed over"));
        }
        return Vec::new();
    };
    let found: Vec<T> = match &*node.kind {
        Kind::Scalar { text, .. } if !is_one => {
            fields.reading.mark_open(node);
            let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
            let read = lines.map_while(|line| match line.parse() {
                Ok(value) => Some(value),
                Err(right) => {
                    fields.error(node.place, format!("'{path}' has the line '{}', but must be {right}", shown(line)));
                    None
                }
            });
            read.collect()
        }
        Kind::Scalar { .. } => fields.checked(key).into_iter().collect(),
        _ => fields.list(key, |reading, node, path| reading.checked(node, path)).unwrap_or_default(),
    };
    // As above.
    let is_empty = match &*node.kind {
        Kind::Sequence(items) => items.is_empty(),
        Kind::Scalar { text, .. } => text.lines().all(|line| line.trim().is_empty() || line.trim().starts_with('#')),
        Kind::Mapping(_) => false,
    };
    if is_empty {
        fields.error(node.place, format!("'{path}' holds no key"));
    }
    found
}

fn read_migrate(app: &Fields, is_ecs: bool) -> Option<Migrate> {
    let fields = app.fields("migrate");
    let auto = fields.boolean("auto").unwrap_or(true);
    let service: Option<ServiceName> = fields.checked("service");
    let command = words::command(&fields, "command");
    let when = fields.text("when").unwrap_or_else(|| "**/migrations/*".to_owned());
    if globset::Glob::new(&when).is_err() {
        let place = fields.value("when").map_or(fields.place(), |node| node.place);
        fields.error(place, format!("'{}' must be a glob, like '**/migrations/*'", fields.path("when")));
    }
    if !is_ecs {
        app_backup::need_each_other(&fields, ["service", "command"]);
    }
    fields.finish(Unknown::Warn);
    let ecs = |text: &str| is_ecs.then(|| text.to_owned());
    let service = service.or_else(|| ecs("ecs.web").and_then(|name| name.parse().ok()))?;
    let command = command.or_else(|| ecs("migrate").map(|word| vec![word]))?;
    Some(Migrate { auto, service, command, when })
}

/// ECS's own keys: kept, and handed on as flat variables. Those of the vault are given back.
fn read_ecs_own(fields: &Fields) -> Vec<Secret> {
    let switcher = fields.fields("userswitcher");
    switcher.boolean("enabled");
    switcher.text("parameter");
    switcher.finish(Unknown::Warn);
    ["vault_encrypt", "vault_sign"].into_iter().filter_map(|key| fields.secret(key)).collect()
}
