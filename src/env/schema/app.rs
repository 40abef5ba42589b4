//! The schema of the app: the keys below `app` and `ecs`.
#![allow(dead_code)] // These types are never made; they are only described.

use super::words::*;
use schemars::JsonSchema;

#[derive(JsonSchema)]
pub struct App {
    /// Names project, database and directory.
    name: Name,
    git: AppGit,
    #[schemars(flatten)]
    common: Common,
}

#[derive(JsonSchema)]
pub struct Ecs {
    name: Option<EcsName>,
    git: Option<EcsGit>,
    #[schemars(flatten)]
    common: Common,
}

#[derive(JsonSchema)]
pub struct OneOfSeveral {
    /// Names project, database and directory.
    name: Name,
    /// Needed unless the app is like another one.
    git: Option<AppGit>,
    /// The app's name: certificate, nginx (default: the appliance's domain, for the first app alone).
    domain: Option<DomainName>,
    /// Names that nginx answers for with this app: separated by spaces, or a list (default: the domain).
    allowed_hosts: Option<Words>,
    ssl: Option<super::Ssl>,
    /// Another app of the list, from which every key is taken that is not set here, but the names, the database and the certificate.
    like: Option<Name>,
    /// false: it is stopped and everything of it kept (default true).
    enabled: Option<Boolean>,
    limits: Option<Limits>,
    update: Option<AppUpdate>,
    #[schemars(flatten)]
    common: Common,
}

/// When it is updated by itself.
#[derive(JsonSchema)]
struct AppUpdate {
    /// A calendar expression of systemd's (default: when the host is updated).
    oncalendar: Option<String>,
}

/// What all of its containers may use together (default: as much as there is).
#[derive(JsonSchema)]
struct Limits {
    /// A size like 512m or 2g, at least 16m.
    memory: Option<SizeText>,
    /// A number of processors, like 1.5.
    cpus: Option<Cpus>,
    /// How many processes and threads.
    #[schemars(range(min = 16, max = 4_194_304))]
    pids: Option<i64>,
}

#[derive(JsonSchema)]
struct Common {
    /// Services whose crash loop fails the stack, beside those with a route.
    critical: Option<Vec<String>>,
    /// What the compose file may ask of the host (default: everything).
    allow: Option<Allow>,
    /// The database's name (default: the app's).
    database: Option<String>,
    /// The compose file (default: /app/etc/NAME/docker-compose.yml, else the repository's own).
    compose: Option<Path>,
    migrate: Option<Migrate>,
    /// What is done before a run of the backup, and what is not stored.
    backup: Option<AppBackup>,
    /// What must hold before a release is good.
    gate: Option<Vec<Probe>>,
    /// Handed to the containers as NAME_SETTINGS.
    settings: Option<Text>,
    userswitcher: Option<UserSwitcher>,
    vault_encrypt: Option<String>,
    vault_sign: Option<String>,
}

#[derive(JsonSchema)]
struct AppBackup {
    /// A command in a running container, before the app's part of each run.
    exec: Option<Inside>,
    /// Absolute paths, or such below the storage vault, that are not stored; * and ** as restic takes them.
    exclude: Option<Vec<String>>,
}

#[derive(JsonSchema)]
struct Inside {
    /// The service.
    service: String,
    /// A list of words, or a line that is split like a shell does.
    command: Text,
}

#[derive(JsonSchema)]
struct AppGit {
    /// The repository.
    source: Repository,
    #[schemars(flatten)]
    release: Release,
}

#[derive(JsonSchema)]
struct EcsGit {
    /// The repository (default: the public one of ECS).
    source: Option<Repository>,
    #[schemars(flatten)]
    release: Release,
}

#[derive(JsonSchema)]
struct Release {
    /// The branch (default: the remote's HEAD; for ecs: master).
    branch: Option<Text>,
    /// Pins the release to one commit.
    commitid: Option<CommitId>,
    /// What happens to local commits in the checkout (default keep).
    local: Option<Local>,
    /// Keys that a commit must be signed by.
    verify: Option<Keys>,
    /// Known ssh host keys.
    host_keys: Option<Keys>,
}

#[derive(JsonSchema)]
struct Allow {
    /// Privileged containers, capabilities, devices and the host's namespaces (default true).
    privileged: Option<Boolean>,
    /// Which files and directories of the host: own (the app's) or any (default any).
    binds: Option<Binds>,
}

#[derive(JsonSchema)]
struct Migrate {
    /// Migrate without being asked (default true).
    auto: Option<Boolean>,
    /// The service in whose image the command runs.
    service: Option<String>,
    /// The command.
    command: Option<Command>,
    /// A glob of repository paths whose addition means that a migration is needed (default "**/migrations/*").
    when: Option<String>,
}

/// One of its keys.
#[derive(JsonSchema)]
struct Probe {
    /// A request to the new container that must be answered.
    http: Option<HttpProbe>,
    /// A connection that must come about.
    tcp: Option<TcpProbe>,
    /// A command in the new container that must end with 0.
    command: Option<CommandProbe>,
    /// A query of the app's database whose first value must be neither missing, false nor 0.
    sql: Option<SqlProbe>,
}

#[derive(JsonSchema)]
struct HttpProbe {
    service: String,
    /// The container's port (default: the one of the service's route).
    port: Option<u16>,
    /// Path and query (default /).
    path: Option<String>,
    /// The status code (default: any below 400).
    status: Option<u16>,
    /// A text that the answer must hold.
    body: Option<Text>,
    /// For how many seconds it is tried again (default 60).
    timeout: Option<u16>,
}

#[derive(JsonSchema)]
struct TcpProbe {
    service: String,
    port: u16,
    timeout: Option<u16>,
}

#[derive(JsonSchema)]
struct CommandProbe {
    service: String,
    run: Command,
    timeout: Option<u16>,
}

#[derive(JsonSchema)]
struct SqlProbe {
    query: String,
    timeout: Option<u16>,
}

#[derive(JsonSchema)]
struct UserSwitcher {
    enabled: Option<Boolean>,
    parameter: Option<Text>,
}
