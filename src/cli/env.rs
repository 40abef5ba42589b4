//! `appliance env …`: check, show, activate.

use super::{env_yml, print};
use crate::env::flat;
use crate::host::{Host, Mode};
use crate::prepare::{Wanted, activate};
use crate::source::{self, Found, Search};
use anyhow::{Result, bail};
use clap::{Args, Subcommand, ValueEnum};

#[derive(Debug, Subcommand)]
pub enum EnvCommand {
    /// Check an env.yml: every problem with file, line and column (exit 0 fine, 1 errors)
    #[command(after_help = "Example:\n  appliance env check /tmp/env.yml")]
    Check(CheckArguments),
    /// Print the env as flat variables; this shows its secrets
    #[command(after_help = "Example:\n  eval \"$(appliance env show --format export appliance,ecs)\"")]
    Show(ShowArguments),
    /// Check the env and make it the active one, which other commands read
    #[command(after_help = "Example:\n  appliance env activate && systemctl restart appliance")]
    Activate,
}

#[derive(Debug, Args)]
pub struct CheckArguments {
    /// The file; else the first source that answers
    file: Option<String>,
}

#[derive(Debug, Args)]
pub struct ShowArguments {
    /// Top-level keys, separated by commas; else all that go to the app
    trees: Option<String>,
    #[arg(long, value_enum, default_value_t = Format::Env)]
    format: Format,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    /// `export NAME='value'`, for eval
    Export,
    /// `NAME=value`
    Env,
    Json,
    Yaml,
}

pub async fn env(command: EnvCommand) -> Result<u8> {
    match command {
        EnvCommand::Check(arguments) => check(arguments).await,
        EnvCommand::Show(arguments) => show(&arguments).await,
        EnvCommand::Activate => activate_env().await,
    }
}

/// The first source that answers.
pub async fn find(host: &Host) -> Result<Box<Found>> {
    match source::find(host, env_yml().as_deref()).await? {
        Search::Found(found) => Ok(found),
        Search::Nothing(tried) => bail!("no env.yml was found; tried:\n{}", source::render_tried(&tried)),
    }
}

async fn check(arguments: CheckArguments) -> Result<u8> {
    let host = Host::system(Mode::Check);
    let found = match &arguments.file {
        Some(file) => {
            let path = std::path::absolute(file)?.display().to_string();
            match source::read(&host, &path).await? {
                Some(found) => Box::new(found),
                None => bail!("there is no file {file}"),
            }
        }
        None => find(&host).await?,
    };
    let warnings = found.report.render_quoted(&found.origin);
    if !warnings.is_empty() {
        eprintln!("{warnings}");
    }
    print(&format!("{} is fine\n", found.origin))?;
    Ok(0)
}

async fn show(arguments: &ShowArguments) -> Result<u8> {
    let found = find(&Host::system(Mode::Check)).await?;
    let variables = match &arguments.trees {
        Some(trees) => flat::variables(&found.env, &trees.split(',').map(str::trim).collect::<Vec<_>>()),
        None => flat::for_stack(&found.env),
    };
    print(&match arguments.format {
        Format::Export => flat::as_export(&variables),
        Format::Env => variables.iter().map(|(name, value)| format!("{name}={value}\n")).collect(),
        Format::Json => format!("{}\n", serde_json::to_string_pretty(&variables)?),
        Format::Yaml => serde_yaml::to_string(&variables)?,
    })?;
    Ok(0)
}

async fn activate_env() -> Result<u8> {
    let host = Host::system(Mode::Apply);
    let found = find(&host).await?;
    activate(Wanted { env: &found.env, text: &found.bytes }, &host)?;
    let what = if host.journal().is_empty() { "was active already" } else { "is active now" };
    print(&format!("{} {what}\n", found.origin))?;
    Ok(0)
}
