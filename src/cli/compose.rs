//! The commands for those who write compose files: `check` and `config`, on any machine, without env.yml and without Docker.

use super::{absolute, print};
use crate::host::{Host, Mode};
use crate::stack::{self, Stack, compose};
use crate::value::AppName;
use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand, ValueEnum};

#[derive(Debug, Subcommand)]
pub enum ComposeCommand {
    /// Read a compose file as the appliance does, and say what is wrong with it (exit 0 good, 1 not)
    #[command(after_help = "Example:\n  appliance compose check -f deploy/compose.yml")]
    Check(ProjectArguments),
    /// Print the project as it is read, in compose's own form, to compare it with docker compose config
    #[command(after_help = "Example:\n  appliance compose config --format json")]
    Config(ConfigArguments),
}

#[derive(Debug, Args)]
pub struct ProjectArguments {
    /// The compose file (default: compose.yaml and its other names, in this directory)
    #[arg(short, long, value_name = "FILE")]
    file: Option<String>,
    /// The project's name (default: the directory's)
    #[arg(short, long, value_name = "NAME")]
    project_name: Option<AppName>,
}

#[derive(Debug, Args)]
pub struct ConfigArguments {
    #[command(flatten)]
    project: ProjectArguments,
    /// How it is printed
    #[arg(long, value_enum, default_value = "yaml")]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Json,
    Yaml,
}

pub fn compose(command: ComposeCommand) -> Result<u8> {
    match command {
        ComposeCommand::Check(project) => {
            let stack = read(&project)?;
            print(&format!("{}: {} services, no error\n", stack.files.join(", "), stack.services.len()))?;
        }
        ComposeCommand::Config(config) => {
            let value = compose::print::project(&read(&config.project)?);
            let text = match config.format {
                Format::Json => format!("{}\n", serde_json::to_string_pretty(&value)?),
                Format::Yaml => serde_yaml::to_string(&value).context("the project cannot be written as YAML")?,
            };
            print(&text)?;
        }
    }
    Ok(0)
}

/// Reads a project with the variables of this process, as docker compose does.
fn read(arguments: &ProjectArguments) -> Result<Stack> {
    let host = Host::system(Mode::Check);
    let path = match &arguments.file {
        Some(file) => absolute(file)?,
        None => {
            let here = absolute(".")?;
            let places = stack::COMPOSE_NAMES.map(|name| format!("{}/{name}", here.trim_end_matches("/.")));
            match places.into_iter().find(|path| host.exists(path)) {
                Some(path) => path,
                None => bail!("there is no compose file here; looked for {}", stack::COMPOSE_NAMES.join(", ")),
            }
        }
    };
    let name = match &arguments.project_name {
        Some(name) => name.clone(),
        None => project_name(&path),
    };
    stack::read(&name, &path, arguments.file.is_none(), stack::Rules::none(), std::env::vars().collect(), &host)
}

/// The name of the directory, as far as it can be a project's.
fn project_name(path: &str) -> AppName {
    let directory = path.rsplit('/').nth(1).unwrap_or_default().to_ascii_lowercase();
    let name: String = directory.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
    name.trim_matches('-').parse().or_else(|_| "project".parse()).unwrap_or_else(|_| AppName::ecs())
}
