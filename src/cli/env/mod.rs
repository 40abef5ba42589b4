//! `appliance env …`: check, show, activate and schema. The history is `history.rs`, new files are `make.rs`.

mod history;
mod make;

use super::choice::AppArgument;
use super::{absolute, env_yml, print};
use crate::alert::Channel;
use crate::env::document::Place;
use crate::env::{Diagnostic, Env, Report, flat, schema};
use crate::host::{Host, Mode};
use crate::source::{self, Found, Search};
use crate::state;
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
    /// Make a new env.yml with fresh secrets
    #[command(after_help = "Example:\n  appliance env create app.example.org env.yml --extra more.yml")]
    Create(make::CreateArguments),
    /// Make a cidata drive image, a printable PDF and an encrypted archive of an env.yml, next to it
    #[command(after_help = "Example:\n  appliance env package ./env.yml")]
    Package(make::PackageArguments),
    /// Show what differs between two envs, secrets masked (exit 0 nothing, 2 something)
    #[command(
        after_help = "Example:\n  appliance env diff          (the active env against the one that the next start takes)\n  appliance env diff 3 /tmp/env.yml"
    )]
    Diff(history::DiffArguments),
    /// List the envs that were active
    #[command(after_help = "Example:\n  appliance env history --json")]
    History(history::HistoryArguments),
    /// Put the env before this one back into /app/env.yml
    #[command(after_help = "Example:\n  appliance env undo && systemctl restart appliance")]
    Undo,
    /// Print the JSON Schema of env.yml, for editors
    #[command(after_help = "Example:\n  appliance env schema > env.schema.json")]
    Schema,
}

#[derive(Debug, Args)]
pub struct CheckArguments {
    /// The file; else the first source that answers
    file: Option<String>,
    /// Print JSON: every problem with file, line, column, severity and message
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub struct ShowArguments {
    /// Top-level keys, separated by commas; else all that go to the app
    trees: Option<String>,
    #[arg(long, value_enum, default_value_t = Format::Env)]
    format: Format,
    #[command(flatten)]
    app: AppArgument,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    /// `export NAME='value'`, for eval
    Export,
    /// `NAME=value`; a value may span lines
    Env,
    Json,
    Yaml,
}

pub async fn env(command: EnvCommand) -> Result<u8> {
    match command {
        EnvCommand::Check(arguments) => check(arguments).await,
        EnvCommand::Show(arguments) => show(&arguments).await,
        EnvCommand::Activate => activate().await,
        EnvCommand::Create(arguments) => make::create(arguments).await,
        EnvCommand::Package(arguments) => make::package(arguments).await,
        EnvCommand::Diff(arguments) => history::diff(arguments).await,
        EnvCommand::History(arguments) => history::history(arguments).await,
        EnvCommand::Undo => history::undo().await,
        EnvCommand::Schema => print(&schema::text()?).map(|()| 0),
    }
}

/// The first source that answers.
pub async fn find(host: &Host) -> Result<Box<Found>> {
    match source::find(host, env_yml().as_deref()).await? {
        Search::Found(found) => Ok(found),
        Search::Nothing(tried) => bail!("no env.yml was found; tried:\n{}", source::render_tried(&tried)),
    }
}

/// A file that somebody named.
async fn named(host: &Host, file: &str) -> Result<Box<Found>> {
    match source::read(host, &absolute(file)?).await? {
        Some(found) => Ok(Box::new(found)),
        None => bail!("there is no file {file}"),
    }
}

async fn check(arguments: CheckArguments) -> Result<u8> {
    let host = Host::system(Mode::Check);
    let found = match &arguments.file {
        Some(file) => named(&host, file).await,
        None => find(&host).await,
    };
    let found = found.map(|mut found| {
        if Channel::all(found.envs.host()).is_empty() {
            found.report.push(nobody_is_told(found.envs.host()));
            found.report = std::mem::take(&mut found.report).sorted();
        }
        found
    });
    if !arguments.json {
        let found = found?;
        let warnings = found.report.render_quoted(&found.origin);
        if !warnings.is_empty() {
            eprintln!("{warnings}");
        }
        print(&format!("{} is fine\n", found.origin))?;
        return Ok(0);
    }
    match found {
        Ok(found) => print_json(&found.origin, &found.report).map(|()| 0),
        Err(error) => match error.downcast::<crate::env::BrokenFile>() {
            Ok(broken) => print_json(&broken.file, &broken.report).map(|()| 1),
            Err(error) => Err(error),
        },
    }
}

/// A host that can tell nobody what is wrong with it is right, and yet not what anybody wants.
fn nobody_is_told(env: &Env) -> Diagnostic {
    let place = env.root.get("appliance").map_or(Place::START, |node| node.place);
    let what = "nobody is told when something goes wrong: name a channel under 'appliance.alert' (docs/alerts.md)";
    Diagnostic::warning(place, what)
}

fn print_json(file: &str, report: &Report) -> Result<()> {
    let told = serde_json::json!({ "file": file, "valid": !report.has_errors(), "problems": report.all(),
        "left_out": report.left_out() });
    print(&format!("{}\n", serde_json::to_string_pretty(&told)?))
}

async fn show(arguments: &ShowArguments) -> Result<u8> {
    let found = find(&Host::system(Mode::Check)).await?;
    let variables = match &arguments.trees {
        Some(trees) => {
            let trees: Vec<&str> = trees.split(',').map(str::trim).collect();
            if let Some(missing) = trees.iter().find(|tree| found.envs.host().root.get(tree).is_none()) {
                bail!("{} has no top-level key '{}'", found.origin, crate::env::document::shown(missing));
            }
            flat::variables(found.envs.host(), &trees)?
        }
        None => flat::for_stack(arguments.app.one(&found.envs)?)?,
    };
    print(&match arguments.format {
        Format::Export => flat::as_export(&variables),
        Format::Env => variables.iter().map(|(name, value)| format!("{name}={value}\n")).collect(),
        Format::Json => format!("{}\n", serde_json::to_string_pretty(&variables)?),
        Format::Yaml => serde_yaml::to_string(&variables)?,
    })?;
    Ok(0)
}

async fn activate() -> Result<u8> {
    let host = Host::system(Mode::Apply);
    let found = find(&host).await?;
    state::history::activate(&host, &found.bytes, &found.envs.host().file_digest)?;
    let what = if host.journal().is_empty() { "was active already" } else { "is active now" };
    print(&format!("{} {what}\n", found.origin))?;
    Ok(0)
}
