//! Which app a command is about: `--app`, or the variable `APPLIANCE_APP`. On a host with one app nobody needs to say it.

use crate::env::{Env, Envs};
use crate::host::Host;
use crate::source;
use crate::value::AppName;
use anyhow::{Result, bail};
use clap::Args;

/// The app, where a host has several.
#[derive(Debug, Clone, Default, Args)]
pub struct AppArgument {
    /// The app, where the host has several
    #[arg(long = "app", value_name = "NAME", env = "APPLIANCE_APP", hide_env_values = true, global = true)]
    app: Option<AppName>,
}

impl AppArgument {
    /// The app that is named, or the only one.
    ///
    /// # Errors
    /// There is none of that name; or there are several, and none is named.
    pub fn one<'a>(&self, envs: &'a Envs) -> Result<&'a Env> {
        match (&self.app, envs.iter().count()) {
            (None, 1) => Ok(envs.host()),
            (None, _) => bail!("this host has several apps: {}; say which one, with --app NAME", names(envs)),
            (Some(name), _) => named(name, envs),
        }
    }

    /// The app that is named, or all.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn some<'a>(&self, envs: &'a Envs) -> Result<Vec<&'a Env>> {
        match &self.app {
            None => Ok(envs.iter().collect()),
            Some(name) => named(name, envs).map(|env| vec![env]),
        }
    }

    /// Whether one is named.
    pub fn is_named(&self) -> bool {
        self.app.is_some()
    }

    /// [`AppArgument::one`] of the active env.
    pub fn active(&self, host: &Host) -> Result<Env> {
        self.one(&source::active(host)?.envs).cloned()
    }

    /// [`AppArgument::some`] of the active env.
    pub fn all_active(&self, host: &Host) -> Result<Vec<Env>> {
        Ok(self.some(&source::active(host)?.envs)?.into_iter().cloned().collect())
    }
}

fn names(envs: &Envs) -> String {
    envs.iter().map(|env| env.app.name.as_str()).collect::<Vec<_>>().join(", ")
}

fn named<'a>(name: &AppName, envs: &'a Envs) -> Result<&'a Env> {
    match envs.of(name) {
        Some(env) => Ok(env),
        None => bail!("this host has no app '{name}'; it has: {}", names(envs)),
    }
}

/// `NAME: ` before a line that is about one of several apps.
pub fn prefix(env: &Env) -> String {
    if env.tenant.is_alone() { String::new() } else { format!("{}: ", env.app.name) }
}
