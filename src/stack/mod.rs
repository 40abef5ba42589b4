//! The app's containers: the compose file as a model, the difference to what runs, and carrying it out.
//! When to do so, and what follows from a death, is `supervise/`; making images is `update/`.

pub mod actions;
pub mod apply;
pub mod beside;
pub mod compose;
mod create;
mod env_file;
mod grants;
pub mod interpolate;
pub mod logs;
pub mod manner;
pub mod masking;
pub mod model;
mod options;
mod parts;
mod ports;
pub mod probe;
pub mod routes;
pub mod stop;
pub mod stopped;
pub mod surroundings;
mod wait;

pub use model::{Build, Condition, Dependency, NamedContext, Pull, Restart, Service, Stack};

use crate::env::{BrokenFile, Env, flat};
use crate::host::Host;
use crate::value::AppName;
use anyhow::{Context, Result, bail};

/// Where the app's checkout is.
pub fn checkout(env: &Env) -> String {
    format!("/app/{}", env.app.name)
}

/// The stack of ECS, which came with the appliance and not with the app; the package brings it.
const ECS: &str = "/usr/share/appliance/ecs/docker-compose.yml";

/// The compose file: what `app.compose` says, else the one in `/app/etc/<name>`, else the repository's own, for ECS else ours.
///
/// # Errors
/// None of them is there; the message names all.
pub fn compose_path(env: &Env, host: &Host) -> Result<String> {
    if let Some(path) = &env.app.compose {
        return match host.exists(path.as_str()) {
            true => Ok(path.as_str().to_owned()),
            false => bail!("app.compose names {path}, but there is no such file"),
        };
    }
    let own = format!("/app/etc/{}/docker-compose.yml", env.app.name);
    let names = ["compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml"];
    let mut places = vec![own];
    places.extend(names.map(|name| format!("{}/{name}", checkout(env))));
    if env.app.name == AppName::ecs() {
        places.push(ECS.to_owned());
    }
    match places.iter().find(|place| host.exists(place)) {
        Some(place) => Ok(place.clone()),
        None => bail!("there is no compose file; looked for {}", places.join(", ")),
    }
}

/// Reads the compose file with the env's variables, the files that belong to it, and the env files that it names.
///
/// # Errors
/// [`BrokenFile`] with every problem; anything else if a file cannot be read.
pub fn load(env: &Env, host: &Host) -> Result<Stack> {
    let path = compose_path(env, host)?;
    // A file that `app.compose` names stands alone.
    let neighbours = env.app.compose.is_none();
    let mut variables = flat::for_stack(env)?;
    // The operator's own, where the compose file is somebody else's.
    let own = format!("/app/etc/{}/.env", env.app.name);
    if !path.starts_with(&format!("/app/etc/{}/", env.app.name)) {
        add_env_file(&own, &mut variables, host)?;
    }
    read(&env.app.name, &path, neighbours, variables, host)
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
    mut variables: compose::Variables,
    host: &Host,
) -> Result<Stack> {
    let directory = path.rsplit_once('/').map_or("/", |(directory, _)| directory).to_owned();
    add_env_file(&format!("{directory}/.env"), &mut variables, host)?;
    // What people's files expect to be there.
    variables.insert("COMPOSE_PROJECT_NAME".to_owned(), project.as_str().to_owned());
    variables.entry("PWD".to_owned()).or_insert_with(|| directory.clone());
    let files = if neighbours { files(path, &directory, &variables, host) } else { vec![path.to_owned()] };
    let read = |path: &str| host.read(path, compose::MAX_BYTES);
    let project =
        compose::Project { name: project, files: &files, directory: &directory, variables: &variables, read: &read };
    let (stack, report) = compose::read(&project);
    for warning in report.warnings() {
        tracing::warn!("{}", warning.render(path));
    }
    let Some(mut stack) = stack else { return Err(BrokenFile { file: path.to_owned(), report }.into()) };
    for service in &mut stack.services {
        stack.hidden.extend(env_file::resolve(service, &variables, host)?);
    }
    Ok(stack)
}

/// Adds the variables of an env file, if there is one; those that are there already stay.
fn add_env_file(path: &str, variables: &mut compose::Variables, host: &Host) -> Result<()> {
    let Some(text) = host.read_text(path, compose::MAX_BYTES)? else { return Ok(()) };
    for (name, value) in env_file::parse(&text, variables).with_context(|| format!("{path} is broken"))? {
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
    let beside = beside.find(|path| host.exists(path));
    std::iter::once(path.to_owned()).chain(beside).collect()
}
