//! The app's containers: the compose file as a model, the difference to what runs, and carrying it out.
//! When to do so, and what follows from a death, is `supervise/`; making images is `update/`.

pub mod actions;
mod allow;
pub mod apply;
pub mod beside;
pub mod compose;
pub mod conflicts;
mod create;
mod env_file;
mod grants;
pub mod images;
pub mod inside;
pub mod interpolate;
pub mod logs;
pub mod manner;
pub mod masking;
pub mod model;
mod mounts;
mod options;
mod parts;
mod ports;
pub mod probe;
pub mod routes;
pub mod slice;
pub mod stop;
pub mod stopped;
pub mod surroundings;
mod wait;

pub use model::{Build, Condition, Dependency, NamedContext, Pull, Restart, Service, Stack};

use crate::env::{Allow, Binds, BrokenFile, Env, FileKind, flat};
use crate::host::Host;
use crate::state::{Ledger, source_directory};
use crate::value::AppName;
use anyhow::{Context, Result, bail};
use std::net::Ipv4Addr;

/// Where the app's checkout is.
pub fn checkout(env: &Env) -> String {
    format!("/app/{}", env.app.name)
}

/// What a compose file is called, the first that is there.
pub const COMPOSE_NAMES: [&str; 4] = ["compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml"];

/// The stack of ECS, which came with the appliance and not with the app; the package brings it.
const ECS: &str = "/usr/share/appliance/ecs/docker-compose.yml";

/// The compose file: what `app.compose` says, else the one in `/app/etc/<name>`, else the repository's own, for ECS else ours.
///
/// # Errors
/// None of them is there; the message names all.
pub fn compose_path(env: &Env, host: &Host) -> Result<String> {
    if let Some(path) = &env.app.compose {
        return match host.exists(&as_committed(path.as_str(), host)) {
            true => Ok(path.as_str().to_owned()),
            false => bail!("app.compose names {path}, but there is no such file"),
        };
    }
    let own = format!("/app/etc/{}/docker-compose.yml", env.app.name);
    let mut places = vec![own];
    places.extend(COMPOSE_NAMES.map(|name| format!("{}/{name}", checkout(env))));
    if env.app.name == AppName::ecs() {
        places.push(ECS.to_owned());
    }
    match places.iter().find(|place| host.exists(&as_committed(place, host))) {
        Some(place) => Ok(place.clone()),
        None => bail!("there is no compose file; looked for {}", places.join(", ")),
    }
}

/// Reads the compose file with the env's variables, the files that belong to it, and the env files that it names.
///
/// # Errors
/// [`BrokenFile`] with every problem; anything else if a file cannot be read.
pub fn load(env: &Env, host: &Host) -> Result<Stack> {
    let env_files = if env.app.git.verify.is_empty() { EnvFiles::CommitOrCheckout } else { EnvFiles::CommitOnly };
    let stack = load_with(env, Rules { env_files, allow: env.app.allow }, host)?;
    refuse_two_parents(&stack)?;
    Ok(stack)
}

/// [`load`], for stopping what runs: in its order and with its grace periods, also where the env has become stricter since it was started.
///
/// # Errors
/// As for [`load`].
pub fn load_to_stop(env: &Env, host: &Host) -> Result<Stack> {
    load_with(env, Rules::none(), host)
}

fn load_with(env: &Env, rules: Rules, host: &Host) -> Result<Stack> {
    let path = compose_path(env, host)?;
    // A file that `app.compose` names stands alone.
    let neighbours = env.app.compose.is_none();
    let mut variables = flat::for_stack(env)?;
    // The operator's own, where the compose file is somebody else's.
    let own = format!("/app/etc/{}/.env", env.app.name);
    if !path.starts_with(&format!("/app/etc/{}/", env.app.name)) {
        add_env_file(&own, &mut variables, host)?;
    }
    let mut stack = read(&env.app.name, &path, neighbours, rules, variables, host)?;
    let address = loopback(env, host)?;
    // One that had the host to itself keeps the names of its images, too.
    stack.shares_host = address != Ipv4Addr::LOCALHOST;
    stack.limits = env.app.limits;
    for warning in routes::bind_to_loopback(&mut stack, address)? {
        tracing::warn!("{path}: {warning}");
    }
    Ok(stack)
}

/// # Errors
/// A service has a control group of its own, so that the limits would not reach it.
fn refuse_two_parents(stack: &Stack) -> Result<()> {
    let own = stack.services.iter().find(|service| service.options.cgroup_parent.is_some());
    match own.filter(|_| stack.limits.is_some()) {
        Some(service) => bail!(
            "services.{}.cgroup_parent takes its containers out of reach of the app's 'limits' in env.yml; take one of the two away",
            service.name
        ),
        None => Ok(()),
    }
}

/// Where the app's ports are published. One that had the host to itself keeps its address: its containers are not replaced for another.
fn loopback(env: &Env, host: &Host) -> Result<Ipv4Addr> {
    let kept = || {
        let current = Ledger::read_for(host, &env.app.name)?.current;
        let mut routes = current.iter().flat_map(|release| &release.routes);
        anyhow::Ok(routes.any(|route| route.upstream.ip() == Ipv4Addr::LOCALHOST))
    };
    if env.tenant.is_alone() || kept()? { Ok(Ipv4Addr::LOCALHOST) } else { Ok(env.app.name.loopback()) }
}

/// Which files `env_file:` may name below the checkout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EnvFiles {
    /// Those of the commit, then those that only the checkout has: user app's, or written by a container.
    CommitOrCheckout,
    /// Those of the commit, because `app.git.verify` says who may change what runs.
    CommitOnly,
}

/// What holds for a compose file, whatever it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    pub env_files: EnvFiles,
    pub allow: Allow,
}

impl Rules {
    /// Nothing is kept from it: for looking at a file.
    pub fn none() -> Rules {
        Rules { env_files: EnvFiles::CommitOrCheckout, allow: Allow::default() }
    }
}

/// Reads a compose file as [`load`] does, for a project and with variables, to which those of `.env` beside it are added. With
/// `neighbours`, the override beside it counts too, and `COMPOSE_FILE`.
///
/// # Errors
/// As for [`load`].
pub fn read(
    project: &AppName,
    path: &str,
    neighbours: bool,
    rules: Rules,
    mut variables: compose::Variables,
    host: &Host,
) -> Result<Stack> {
    let directory = path.rsplit_once('/').map_or("/", |(directory, _)| directory).to_owned();
    let read = |file: &str| match is_allowed(file, path, project, rules) {
        true => read_file(file, host),
        false => bail!("{file} is not the app's, and app.allow.binds says that it gets no others"),
    };
    if is_allowed(&format!("{directory}/.env"), path, project, rules) {
        add_env_file(&format!("{directory}/.env"), &mut variables, host)?;
    }
    // What people's files expect to be there.
    variables.insert("COMPOSE_PROJECT_NAME".to_owned(), project.as_str().to_owned());
    // Whoever ran such a file before ran it as root, as the appliance does.
    variables.entry("HOME".to_owned()).or_insert_with(|| "/root".to_owned());
    variables.entry("PWD".to_owned()).or_insert_with(|| directory.clone());
    let files = if neighbours { files(path, &directory, &variables, host) } else { vec![path.to_owned()] };
    let parts =
        compose::Project { name: project, files: &files, directory: &directory, variables: &variables, read: &read };
    let (stack, report) = compose::read(&parts);
    for warning in report.warnings() {
        tracing::warn!("{}", warning.render(path));
    }
    let Some(mut stack) = stack else {
        return Err(BrokenFile { file: path.to_owned(), kind: FileKind::Compose, report }.into());
    };
    stack.allow = rules.allow;
    allow::check(&stack, path).with_context(|| format!("{path} cannot be used"))?;
    for service in stack.services.iter().filter(|_| rules.allow.binds == Binds::Own) {
        // Before anything of it is read.
        mounts::check(&stack, service, host)?;
    }
    for service in &mut stack.services {
        stack.hidden.extend(env_file::resolve(service, rules.env_files, &variables, host)?);
    }
    Ok(stack)
}

fn is_allowed(file: &str, main: &str, project: &AppName, rules: Rules) -> bool {
    rules.allow.binds == Binds::Any || allow::is_readable(file, main, project)
}

/// Reads a file of a project. The operator's own are as good as root's word, so nobody else may have written them; a checkout is user
/// app's, so nothing in it leads out of it.
fn read_file(path: &str, host: &Host) -> Result<Option<Vec<u8>>> {
    let path = &by_its_own_name(path);
    if ["/app/etc/", "/data/etc/"].iter().any(|own| path.starts_with(own)) {
        // A directory there may have been a container's once.
        if let Some(link) = host.foreign_link(path, &[], &|_| false)? {
            bail!("{path} leads over the link {link}, which others than root can have made, so it is not read");
        }
        return host.read_trusted(path, compose::MAX_BYTES);
    }
    let committed = as_committed(path, host);
    match in_checkout(path) {
        Some((_, rest)) => {
            let directory = committed.strip_suffix(rest).unwrap_or("/").trim_end_matches('/');
            host.read_beneath(directory, &committed, compose::MAX_BYTES)
        }
        None => host.read(path, compose::MAX_BYTES),
    }
}

/// The checkout is reached by a link in the operator's directory, too, so that a compose file there can say `build: ./shop`.
fn by_its_own_name(path: &str) -> String {
    let in_own = ["/app/etc/", "/data/etc/"].iter().find_map(|own| path.strip_prefix(own)?.split_once('/'));
    let through = in_own.and_then(|(app, rest)| Some((app, rest.strip_prefix(app)?)));
    match through {
        Some((app, rest)) if rest.is_empty() || rest.starts_with('/') => format!("/app/{app}{rest}"),
        _ => path.to_owned(),
    }
}

/// The app's name and the rest of a path in a checkout.
fn in_checkout(path: &str) -> Option<(AppName, &str)> {
    let inside = path.strip_prefix("/app/")?;
    let (name, rest) = inside.split_once('/').unwrap_or((inside, ""));
    Some((name.parse().ok().filter(|_| name != "etc")?, rest))
}

/// Where a file of a checkout lies as its commit has it, and as nobody but root can write it. Compose files are read there, and images are
/// built from there; the checkout itself is the app's. On a host whose files were never put there it is the checkout.
pub fn as_committed(path: &str, host: &Host) -> String {
    let path = by_its_own_name(path);
    let Some((app, rest)) = in_checkout(&path) else { return path };
    let source = source_directory(&app);
    match (host.exists(&source), rest) {
        (false, _) => path,
        (true, "") => source,
        (true, rest) => format!("{source}/{rest}"),
    }
}

/// An env file that the commit does not have: it is the operator's, or the app's own, and only fills a container's environment. One of the
/// app's that cannot be read counts as missing.
fn read_env_file(path: &str, env_files: EnvFiles, host: &Host) -> Result<Option<Vec<u8>>> {
    if let Some(bytes) = read_file(path, host)? {
        return Ok(Some(bytes));
    }
    let path = by_its_own_name(path);
    let Some((app, _)) = in_checkout(&path) else { return Ok(None) };
    if env_files == EnvFiles::CommitOnly {
        tracing::warn!(
            "{path} is not read: app.git.verify is set, and the commit has no such file; put it below /app/etc/{app}"
        );
        return Ok(None);
    }
    let read = host.read_beneath(&format!("/app/{app}"), &path, compose::MAX_BYTES);
    Ok(read.unwrap_or_else(|error| {
        tracing::warn!("{error:#}");
        None
    }))
}

/// Adds the variables of an env file, if there is one; those that are there already stay.
fn add_env_file(path: &str, variables: &mut compose::Variables, host: &Host) -> Result<()> {
    let Some(bytes) = read_file(path, host)? else { return Ok(()) };
    let text = String::from_utf8(bytes).ok().with_context(|| format!("{path} is not UTF-8 text"))?;
    let (none, mut found) = (compose::Variables::new(), interpolate::Found::default());
    let parsed = env_file::parse(&text, env_file::Known::project(variables, &none), &mut found);
    let parsed = parsed.with_context(|| format!("{path} is broken"))?;
    env_file::warn_of_missing(path, &found);
    for (name, value) in parsed {
        variables.entry(name).or_insert(value);
    }
    Ok(())
}

/// The files of the project: those that `COMPOSE_FILE` names, else the one that was found and the override beside it.
fn files(path: &str, directory: &str, variables: &compose::Variables, host: &Host) -> Vec<String> {
    if let Some(named) = variables.get("COMPOSE_FILE").filter(|named| !named.is_empty()) {
        let separator = variables.get("COMPOSE_PATH_SEPARATOR").map_or(":", String::as_str);
        return named.split(separator).map(|name| ports::join(directory, name)).collect();
    }
    let stem = path.rsplit_once('.').map_or(path, |(stem, _)| stem);
    let stems = [stem.to_owned(), format!("{directory}/compose"), format!("{directory}/docker-compose")];
    let mut beside = stems.iter().flat_map(|stem| ["yml", "yaml"].map(|ending| format!("{stem}.override.{ending}")));
    let beside = beside.find(|path| host.exists(&as_committed(path, host)));
    std::iter::once(path.to_owned()).chain(beside).collect()
}

#[cfg(test)]
mod tests {
    use super::{as_committed, by_its_own_name};
    use crate::host::Dir;
    use crate::host::fake::TestHost;

    #[test]
    fn all_of_a_checkout_is_read_as_its_commit_has_it() {
        let test = TestHost::new();
        let source = "/data/appliance/apps/shop/source";
        for path in ["/app/shop", "/app/shop/", "/app/shop/x", "/app/etc/shop/shop"] {
            assert!(as_committed(path, &test.host).starts_with("/app/shop"), "of before: {path}");
        }
        test.host.ensure_dir(source, &Dir::plain()).expect("it can be made");
        for (path, expected) in [
            ("/app/shop", source.to_owned()),
            ("/app/shop/", source.to_owned()),
            ("/app/etc/shop/shop", source.to_owned()),
            ("/app/shop/x/y", format!("{source}/x/y")),
            ("/app/etc/shop/x", "/app/etc/shop/x".to_owned()),
            ("/app/env.yml", "/app/env.yml".to_owned()),
        ] {
            assert_eq!(as_committed(path, &test.host), expected, "{path}");
        }
    }

    #[test]
    fn the_checkout_has_one_name() {
        for (path, expected) in [
            ("/app/etc/shop/shop/api/x.yml", "/app/shop/api/x.yml"),
            ("/data/etc/shop/shop", "/app/shop"),
            ("/app/etc/shop/shopping/x", "/app/etc/shop/shopping/x"),
            ("/app/etc/shop/x.yml", "/app/etc/shop/x.yml"),
            ("/app/shop/shop/x", "/app/shop/shop/x"),
        ] {
            assert_eq!(by_its_own_name(path), expected);
        }
    }
}
