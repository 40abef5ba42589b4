//! The app's containers: the compose file as a model, the difference to what runs, and carrying it out.
//! When to do so, and what follows from a death, is `supervise/`; making images is `update/`.

pub mod actions;
pub mod apply;
pub mod compose;
mod create;
mod env_file;
pub mod interpolate;
pub mod logs;
pub mod model;
mod options;
mod ports;
pub mod probe;
pub mod routes;

pub use model::{Build, Condition, Restart, Service, Stack};

use crate::env::{BrokenFile, Env, flat};
use crate::host::Host;
use anyhow::{Context, Result, bail};

/// The largest compose file that is read, in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// Where the app's checkout is.
pub fn checkout(env: &Env) -> String {
    format!("/app/{}", env.app.name)
}

/// The compose file: what `app.compose` says, else the one in `/app/etc/<name>`, else the repository's own.
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
    let names = ["compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml"];
    let mut places = vec![own];
    places.extend(names.map(|name| format!("{}/{name}", checkout(env))));
    match places.iter().find(|place| host.exists(place)) {
        Some(place) => Ok(place.clone()),
        None => bail!("there is no compose file; looked for {}", places.join(", ")),
    }
}

/// Reads the compose file with the env's variables, and the env files that it names.
///
/// # Errors
/// [`BrokenFile`] with every problem; anything else if a file cannot be read.
pub fn load(env: &Env, host: &Host) -> Result<Stack> {
    let path = compose_path(env, host)?;
    let directory = path.rsplit_once('/').map_or("/", |(directory, _)| directory).to_owned();
    let bytes = host.read(&path, MAX_BYTES)?.with_context(|| format!("{path} is missing"))?;
    let mut variables = flat::for_stack(env)?;
    if let Some(text) = host.read_text(&format!("{directory}/.env"), MAX_BYTES)? {
        for (name, value) in env_file::parse(&text).with_context(|| format!("{directory}/.env is broken"))? {
            variables.entry(name).or_insert(value);
        }
    }
    let project = env.app.name.clone();
    let (stack, report) = compose::read(&bytes, MAX_BYTES, &project, &path, &variables);
    for warning in report.warnings() {
        tracing::warn!("{}", warning.render(&path));
    }
    let Some(mut stack) = stack else { return Err(BrokenFile { file: path, report }.into()) };
    for service in &mut stack.services {
        env_file::resolve(service, &directory, host)?;
    }
    Ok(stack)
}
