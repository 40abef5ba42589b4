//! The commands about the app's database.

use super::choice::AppArgument;
use super::update::{is_agreed, ready, watched};
use super::{absolute, print};
use crate::host::{Host, Mode};
use crate::report::sentry;
use crate::update::{self, ResetFrom, Wish};
use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

#[derive(Debug, Subcommand)]
pub enum DatabaseCommand {
    /// Dump the database while the app runs, in pg_dump's custom format
    #[command(after_help = "Example:\n  appliance database dump /data/before-the-holidays.pgdump")]
    Dump(DumpArguments),
    /// Make the database anew, empty, and migrate it; what is in it now is dumped first
    #[command(after_help = "Example:\n  appliance database reset")]
    Reset(ResetArguments),
    /// Put a dump in the place of the database, and migrate it; what is in it now is dumped first
    #[command(after_help = "Example:\n  appliance database restore /root/ecs.pgdump.gz")]
    Restore(RestoreArguments),
}

#[derive(Debug, Args)]
pub struct RestoreArguments {
    /// A dump in pg_dump's custom format, also packed by gzip, of this host or another
    file: String,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    app: AppArgument,
}

#[derive(Debug, Args)]
pub struct DumpArguments {
    /// The file to write (default: one with the date in /data/NAME-pgdump)
    file: Option<String>,
    #[command(flatten)]
    app: AppArgument,
}

#[derive(Debug, Args)]
pub struct ResetArguments {
    /// Do not ask
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    app: AppArgument,
}

pub async fn database(command: DatabaseCommand) -> Result<u8> {
    match command {
        DatabaseCommand::Dump(arguments) => dump(arguments).await,
        DatabaseCommand::Reset(arguments) => reset(&arguments.app, ResetFrom::Empty, arguments.yes).await,
        DatabaseCommand::Restore(arguments) => restore(arguments).await,
    }
}

async fn dump(arguments: DumpArguments) -> Result<u8> {
    let host = Host::system(Mode::Apply);
    let env = arguments.app.active(&host)?;
    let target = match &arguments.file {
        Some(file) => absolute(file)?,
        None => update::dump::dated(&env.app.name, &host),
    };
    if host.exists(&target) {
        bail!("{target} is there already; name another file");
    }
    update::room_for_dump(&env, &host).await?;
    let mut terminate = signal(SignalKind::terminate()).context("could not listen for signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("could not listen for signals")?;
    tokio::select! {
        done = update::dump::dump(&env, &target, &host) => done?,
        _ = terminate.recv() => return give_up(&target, &host),
        _ = interrupt.recv() => return give_up(&target, &host),
    }
    print(&format!("{target}\n"))?;
    Ok(0)
}

/// What a dump that was interrupted has written is of no use.
fn give_up(target: &str, host: &Host) -> Result<u8> {
    update::dump::discard(target, host)?;
    bail!("interrupted; nothing was kept")
}

async fn restore(arguments: RestoreArguments) -> Result<u8> {
    let host = ready().await?;
    let env = arguments.app.active(&host)?;
    let archive = update::archive::open(&env, &absolute(&arguments.file)?, &host).await?;
    let done = reset(&arguments.app, ResetFrom::Archive(archive.clone()), arguments.yes).await;
    archive.discard(&host)?;
    done
}

async fn reset(app: &AppArgument, from: ResetFrom, agreed: bool) -> Result<u8> {
    let host = ready().await?;
    let env = app.active(&host)?;
    let text = format!(
        "everything in the database {} is taken away from the app; it is dumped to {} first, and visitors see the status page meanwhile",
        env.app.database,
        update::dump::directory(&env.app.name)
    );
    if !agreed && !is_agreed(&text)? {
        bail!("{text}; nothing was done. With --yes it is");
    }
    let _reports = sentry::start(&env, &host);
    let wish = Wish { reset: Some(from), ..Wish::default() };
    watched(&env, &host, false, async |reporter| update::update(&env, wish, &host, reporter).await).await?;
    print(&format!(
        "the database {} is new; what was in it: ls {}\n",
        env.app.database,
        update::dump::directory(&env.app.name)
    ))?;
    Ok(0)
}
