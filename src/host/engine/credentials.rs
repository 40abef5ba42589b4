//! Logins for registries, from where `docker login` keeps them: root's `.docker/config.json`, or the helper that it names.
#![allow(clippy::disallowed_methods)] // Reads Docker's own configuration and runs its helpers.

use crate::host::exec::SystemExec;
use crate::host::{Cmd, Exec};
use anyhow::{Context, Result, bail};
use base64::Engine as _;
use bollard::auth::DockerCredentials;
use serde::Deserialize;
use std::collections::HashMap;
use std::io::ErrorKind;

const CONFIG: &str = "/root/.docker/config.json";
/// What Docker Hub is called in that file.
const HUB: &str = "https://index.docker.io/v1/";

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Config {
    auths: HashMap<String, Login>,
    #[serde(rename = "credsStore")]
    store: Option<String>,
    #[serde(rename = "credHelpers")]
    helpers: HashMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Login {
    /// Base64 of `user:password`.
    auth: Option<String>,
    identitytoken: Option<String>,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Login(…)")
    }
}

/// What a helper answers.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// The registry of an image's reference, as the configuration names it.
pub(super) fn registry_of(image: &str) -> &str {
    match image.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host,
        _ => HUB,
    }
}

/// The login for a registry, if there is one.
///
/// # Errors
/// A configuration that is broken, or a helper that fails.
pub(super) async fn for_registry(registry: &str) -> Result<Option<DockerCredentials>> {
    let config = read()?;
    match config.helpers.get(registry).or(config.store.as_ref()) {
        Some(helper) => ask_helper(helper, registry).await,
        None => config
            .auths
            .iter()
            .find(|(name, _)| host(name) == host(registry))
            .map_or(Ok(None), |(name, login)| stored(name, login).map(Some)),
    }
}

/// All logins that are stored: a build may begin with any image.
pub(super) async fn all() -> Result<HashMap<String, DockerCredentials>> {
    let config = read()?;
    let mut all = HashMap::new();
    for name in config.auths.keys().chain(config.helpers.keys()) {
        if let Some(login) = for_registry(name).await? {
            all.insert(name.clone(), login);
        }
    }
    Ok(all)
}

fn read() -> Result<Config> {
    match std::fs::read(CONFIG) {
        Ok(bytes) => {
            serde_json::from_slice(&bytes).with_context(|| format!("{CONFIG} is broken; run docker login anew"))
        }
        Err(missing) if missing.kind() == ErrorKind::NotFound => Ok(Config::default()),
        Err(error) => Err(error).with_context(|| format!("could not read {CONFIG}")),
    }
}

/// `https://host/v1/` is `host`.
fn host(name: &str) -> &str {
    let name = name.strip_prefix("https://").or_else(|| name.strip_prefix("http://")).unwrap_or(name);
    name.split('/').next().unwrap_or(name)
}

fn stored(name: &str, login: &Login) -> Result<DockerCredentials> {
    let broken = || format!("the login for {name} in {CONFIG} is broken; run docker login anew");
    let decoded = match &login.auth {
        Some(text) => base64::engine::general_purpose::STANDARD.decode(text.trim()).with_context(broken)?,
        None => Vec::new(),
    };
    let text = String::from_utf8(decoded).with_context(broken)?;
    let (user, password) = text.split_once(':').unwrap_or((&text, ""));
    Ok(DockerCredentials {
        username: Some(user.to_owned()).filter(|user| !user.is_empty()),
        password: Some(password.trim_end_matches('\0').to_owned()).filter(|password| !password.is_empty()),
        identitytoken: login.identitytoken.clone(),
        serveraddress: Some(name.to_owned()),
        ..Default::default()
    })
}

async fn ask_helper(helper: &str, registry: &str) -> Result<Option<DockerCredentials>> {
    if !helper.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
        bail!("{CONFIG} names the helper '{helper}', which is no program's name");
    }
    let program = format!("docker-credential-{helper}");
    let answer = SystemExec.run(&Cmd::new(&program, ["get"]).input(registry).env("HOME", "/root")).await?;
    if answer.code != Some(0) {
        // That is how a helper says that it has none.
        if answer.stdout.contains("credentials not found") {
            return Ok(None);
        }
        bail!("{program} failed for {registry}: {}", answer.stderr.trim());
    }
    let answer: Answer = serde_json::from_str(&answer.stdout).with_context(|| format!("{program} gave no login"))?;
    let token = answer.username == "<token>";
    Ok(Some(DockerCredentials {
        username: Some(answer.username).filter(|_| !token),
        password: Some(answer.secret.clone()).filter(|_| !token),
        identitytoken: Some(answer.secret).filter(|_| token),
        serveraddress: Some(registry.to_owned()),
        ..Default::default()
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_and_logins_are_read_as_docker_writes_them() {
        assert_eq!(registry_of("redis:7"), HUB);
        assert_eq!(registry_of("library/redis"), HUB);
        assert_eq!(registry_of("localhost/x"), "localhost");
        assert_eq!(registry_of("r.example:5000/a/b@sha256:00"), "r.example:5000");
        assert_eq!(host(HUB), "index.docker.io");
        let login =
            stored("r", &Login { auth: Some("bWU6cGE6c3M=".to_owned()), identitytoken: None }).expect("it is good");
        assert_eq!((login.username.as_deref(), login.password.as_deref()), (Some("me"), Some("pa:ss")));
        assert!(stored("r", &Login { auth: Some("%".to_owned()), identitytoken: None }).is_err());
    }
}
