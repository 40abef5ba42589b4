//! The command line: what can be said, and who answers it. One file per group of commands.

mod agreed;
mod alert;
mod app;
mod apply;
mod backup;
mod cert;
mod choice;
mod compose;
mod cp;
mod database;
mod env;
mod exec;
mod host;
pub mod logging;
mod logs;
mod postgres;
mod ps;
mod render;
mod selfdoc;
mod stats;
mod status;
mod update;

use crate::env::BrokenFile;
use crate::error::Halt;
use crate::value::Step;
use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};

/// Turns this host into an appliance: prepares it from one env.yml, then runs and supervises the app's containers.
#[derive(Debug, Parser)]
#[command(name = "appliance", version, max_term_width = 100)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Find env.yml, prepare the host, start the app and supervise it (what appliance-supervisor.service runs)
    #[command(
        after_help = "Example:\n  systemctl start appliance     (runs this under systemd; run it by hand only to look)"
    )]
    Run,
    /// Bring the host to what env.yml asks for
    #[command(after_help = "Example:\n  appliance prepare --step nginx")]
    Prepare(StepArgument),
    /// Show what apply would change on the host, in the stack and of the release, touching nothing (exit 0 nothing, 2 changes, 1 error)
    #[command(after_help = "Example:\n  appliance plan && echo nothing to do")]
    Plan(PlanArguments),
    /// Bring host, stack and release to what env.yml asks for; exits as status does
    #[command(after_help = "Example:\n  nano /app/env.yml && appliance plan; appliance apply")]
    Apply(JsonArgument),
    /// Show phase, services, release and steps (exit 0 fine, 3 standby, 4 failed)
    #[command(after_help = "Example:\n  appliance status --json | jq .phase.name")]
    Status(OfApps),
    /// List the app's containers
    #[command(after_help = "Example:\n  appliance ps --json")]
    Ps(OfApps),
    /// Show the app's logs from the journal
    #[command(after_help = "Example:\n  appliance logs -f web worker")]
    Logs(logs::LogsArguments),
    /// Run a command in a service's container
    #[command(after_help = "Example:\n  appliance exec web -- python3 manage.py shell")]
    Exec(exec::ExecArguments),
    /// Open a shell in a service's container
    #[command(after_help = "Example:\n  appliance shell web")]
    Shell(exec::ShellArguments),
    /// Show what the app's containers use, again and again on a terminal
    #[command(after_help = "Example:\n  appliance stats --no-stream")]
    Stats(stats::StatsArguments),
    /// Show the processes of the app's containers
    #[command(after_help = "Example:\n  appliance top web")]
    Top(stats::TopArguments),
    /// Copy files into or out of a service's container
    #[command(after_help = "Example:\n  appliance cp web:/data/report.pdf .")]
    Cp(cp::CopyArguments),
    /// Bring the app to the newest wanted commit: fetch, build, migrate, try out, switch over; back if that fails
    #[command(after_help = "Example:\n  appliance update --check || appliance update")]
    Update(update::UpdateArguments),
    /// Go back to the previous release, database included if it was migrated; called again, forth
    #[command(after_help = "Example:\n  appliance rollback --yes")]
    Rollback(update::RollbackArguments),
    /// Show the releases: current, previous, on its way, failed
    #[command(after_help = "Example:\n  appliance releases --json | jq -r .current.commit")]
    Releases(OfApps),
    /// Dump the app's database, or make it anew
    #[command(subcommand)]
    Database(database::DatabaseCommand),
    /// Back up database and files, and bring them back
    #[command(subcommand)]
    Backup(backup::BackupCommand),
    /// Show what is wrong, who is told of it, and whether that works
    #[command(subcommand)]
    Alert(alert::AlertCommand),
    /// Go to a newer major version of PostgreSQL, and back
    #[command(subcommand)]
    Postgres(postgres::PostgresCommand),
    /// List, add, stop, start and remove apps, where the host has several
    #[command(subcommand)]
    App(app::AppCommand),
    /// Leave the failed state, after saying what failed
    #[command(after_help = "Example:\n  appliance recover --start")]
    Recover(host::RecoverArguments),
    /// Make, check, show, activate or package env.yml
    #[command(subcommand)]
    Env(env::EnvCommand),
    /// Show or renew the host's certificate
    Cert(CertArguments),
    /// Try a compose file on any machine: read it as the appliance does
    #[command(subcommand)]
    Compose(compose::ComposeCommand),
    /// Print a completion script for a shell
    #[command(after_help = "Example:\n  appliance completions bash > /etc/bash_completion.d/appliance")]
    Completions { shell: clap_complete::Shell },
    /// Print the man page
    #[command(after_help = "Example:\n  appliance man | man -l -")]
    Man,
    /// Look at how things stand, and tell who is to be told (what appliance-watch.service runs)
    #[command(hide = true)]
    Watch,
    /// Stop the app's containers (what stopping appliance.service runs)
    #[command(hide = true)]
    StopStack,
}

#[derive(Debug, Args)]
struct StepArgument {
    /// Run this step alone
    #[arg(long, value_name = "NAME")]
    step: Option<Step>,
}

#[derive(Debug, Args)]
struct PlanArguments {
    #[command(flatten)]
    step: StepArgument,
    /// Plan the app's containers, networks and volumes alone
    #[arg(long, conflicts_with = "step")]
    stack: bool,
    #[command(flatten)]
    json: JsonArgument,
    #[command(flatten)]
    app: choice::AppArgument,
}

#[derive(Debug, Args)]
struct OfApps {
    #[command(flatten)]
    json: JsonArgument,
    #[command(flatten)]
    app: choice::AppArgument,
}

#[derive(Debug, Args)]
struct CertArguments {
    #[command(flatten)]
    app: choice::AppArgument,
    #[command(subcommand)]
    command: cert::CertCommand,
}

#[derive(Debug, Args)]
struct JsonArgument {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Arguments {
    /// Whether this is the long-running service, whose log is worth every line.
    pub fn is_service(&self) -> bool {
        matches!(self.command, Command::Run | Command::StopStack | Command::Watch)
    }

    /// Whether what it writes is for whoever calls it.
    pub fn is_for_the_caller(&self) -> bool {
        matches!(self.command, Command::Cp(_))
    }
}

/// Carries a command out; gives back the exit code.
pub async fn execute(arguments: Arguments) -> u8 {
    let done = match arguments.command {
        Command::Run => host::run().await,
        Command::Prepare(step) => host::prepare(step.step).await,
        Command::Plan(plan) => host::plan(&plan.app, plan.step.step, plan.stack, plan.json.json).await,
        Command::Apply(json) => apply::apply(json.json).await,
        Command::Status(of) => status::status(&of.app, of.json.json),
        Command::Ps(of) => ps::ps(&of.app, of.json.json).await,
        Command::Logs(logs) => logs::logs(logs).await,
        Command::Exec(exec) => exec::exec(exec).await,
        Command::Shell(shell) => exec::shell(shell).await,
        Command::Stats(stats) => stats::stats(stats).await,
        Command::Top(top) => stats::top(top).await,
        Command::Cp(copy) => cp::cp(copy).await,
        Command::Update(arguments) => update::update(arguments).await,
        Command::Rollback(arguments) => update::rollback(arguments).await,
        Command::Releases(of) => update::releases(&of.app, of.json.json),
        Command::Database(command) => database::database(command).await,
        Command::App(command) => app::app(command).await,
        Command::Backup(command) => backup::backup(command).await,
        Command::Alert(command) => alert::alert(command).await,
        Command::Watch => alert::watch().await,
        Command::Postgres(command) => postgres::postgres(command).await,
        Command::Recover(recover) => host::recover(recover).await,
        Command::Env(command) => env::env(command).await,
        Command::Cert(cert) => cert::cert(cert.command, &cert.app).await,
        Command::Compose(command) => compose::compose(command),
        Command::Completions { shell } => selfdoc::completions(shell),
        Command::Man => selfdoc::man(),
        Command::StopStack => host::stop_stack().await,
    };
    done.unwrap_or_else(|error| if is_closed(&error) { 0 } else { complain(&error) })
}

/// Says on stderr what failed; the exit code follows from the error's kind.
fn complain(error: &anyhow::Error) -> u8 {
    if let Some(broken) = error.downcast_ref::<BrokenFile>() {
        eprintln!("{}", broken.report.render_quoted(&broken.file));
        let what = error.to_string();
        if what != broken.to_string() {
            eprintln!("error: {what}");
        }
        return 1;
    }
    eprintln!("error: {error:#}");
    error.downcast_ref::<Halt>().map_or(1, |halt| halt.severity.exit_code())
}

/// The variable that names an env.yml.
fn env_yml() -> Option<String> {
    std::env::var("ENV_YML").ok()
}

/// A path as the host's door wants it.
fn absolute(path: &str) -> Result<String> {
    let whole = std::path::absolute(path).with_context(|| format!("'{path}' is no path"))?;
    whole.to_str().map(str::to_owned).with_context(|| format!("the path '{path}' is not UTF-8 text"))
}

/// Prints to stdout. A reader that went away (`| head`) ends the command, which is no failure.
fn print(text: &str) -> Result<()> {
    use std::io::Write;
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}

/// Whether the reader of what was printed went away.
fn is_closed(error: &anyhow::Error) -> bool {
    let closed = |error: &std::io::Error| error.kind() == std::io::ErrorKind::BrokenPipe;
    error.downcast_ref::<std::io::Error>().is_some_and(closed)
}
