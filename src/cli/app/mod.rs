//! `appliance app …`: the apps of a host that has several. Adding one is `add.rs`, the list is `list.rs`, a checkout's own changes are `diff.rs`.

mod add;
mod diff;
mod list;

use super::update::is_agreed;
use super::{JsonArgument, print};
use crate::env::{Env, Envs};
use crate::host::docker::Look;
use crate::host::{Host, Mode};
use crate::source;
use crate::stack::stop::is_alive;
use crate::state::flags::Flag;
use crate::state::{Status, halted, history, ledger};
use crate::update::{self, Extent, REMOVED};
use crate::value::{AppName, Phase};
use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use std::io::{BufRead, IsTerminal};
use std::time::Duration;
use tokio::time::Instant;

#[derive(Debug, Subcommand)]
pub enum AppCommand {
    /// List the host's apps: phase, release, address, containers, size
    #[command(after_help = "Example:\n  appliance app list --json | jq -r '.[].name'")]
    List(ListArguments),
    /// Print the entry of an app that is like another one, or write it into /app/env.yml
    #[command(
        after_help = "Example:\n  appliance app add shop2 --like shop --domain shop2.example.org --write && appliance apply"
    )]
    Add(add::AddArguments),
    /// Show what an app's checkout carries beyond its commit (exit 0 nothing, 2 something)
    #[command(after_help = "Example:\n  appliance app diff --app shop")]
    Diff(diff::DiffArguments),
    /// Stop an app until it is started again, over restarts and reboots
    #[command(after_help = "Example:\n  appliance app stop shop2")]
    Stop { name: AppName },
    /// Start an app that was stopped, or waits in standby
    #[command(after_help = "Example:\n  appliance app start shop2")]
    Start { name: AppName },
    /// Remove what is left of an app that env.yml does not name any more
    #[command(
        after_help = "Example:\n  appliance app remove shop2            (its data stay)\n  appliance app remove shop2 --purge    (its data go too, after a last dump)"
    )]
    Remove(RemoveArguments),
}

#[derive(Debug, Args)]
pub struct ListArguments {
    #[command(flatten)]
    json: JsonArgument,
    /// Print the names alone
    #[arg(long, conflicts_with = "json")]
    names: bool,
}

#[derive(Debug, Args)]
pub struct RemoveArguments {
    name: AppName,
    /// Its data too: database and role, volumes, directories
    #[arg(long)]
    purge: bool,
    /// Do not ask; with --purge, the app's name must be given here once more
    #[arg(long, value_name = "NAME", num_args = 0..=1, default_missing_value = "")]
    yes: Option<String>,
}

/// How long stopping or starting an app is watched.
const PATIENCE: Duration = Duration::from_secs(1800);
/// How long its status may show what was before.
const TURN: Duration = Duration::from_secs(10);

pub async fn app(command: AppCommand) -> Result<u8> {
    match command {
        AppCommand::List(arguments) => list::list(arguments.json.json, arguments.names).await,
        AppCommand::Add(arguments) => add::add(arguments).await,
        AppCommand::Diff(arguments) => diff::diff(arguments).await,
        AppCommand::Stop { name } => stop(&name).await,
        AppCommand::Start { name } => start(&name).await,
        AppCommand::Remove(arguments) => remove(arguments).await,
    }
}

/// One of several apps of the active env.
fn one_of_several(name: &AppName, host: &Host) -> Result<Env> {
    let envs = source::active(host)?.envs;
    if envs.is_alone() {
        bail!("this host has one app; systemctl stop appliance stops it, and appliance.standby keeps it stopped");
    }
    match envs.of(name) {
        Some(env) => Ok(env.clone()),
        None => bail!("this host has no app '{name}'; it has: {}", names(&envs)),
    }
}

fn names(envs: &Envs) -> String {
    envs.iter().map(|env| env.app.name.as_str()).collect::<Vec<_>>().join(", ")
}

async fn stop(name: &AppName) -> Result<u8> {
    let host = Host::system(Mode::Apply);
    let env = one_of_several(name, &host)?;
    halted::halt(&host, name)?;
    if !super::update::is_up(&host).await? {
        print(&format!("{name} will not be started with the appliance; appliance app start {name} undoes that\n"))?;
        return Ok(0);
    }
    let is_down = |phase: &Phase| matches!(phase, Phase::Standby { .. } | Phase::Failed { .. });
    wait_for(&env, &host, is_down).await?;
    // Its page comes first.
    let end = Instant::now() + PATIENCE;
    while host.docker().containers(name.as_str(), Look::Quick).await?.iter().any(is_alive) {
        if Instant::now() >= end {
            bail!("its containers still run after {} s; see: appliance ps --app {name}", PATIENCE.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    print(&format!("{name} is stopped; it comes back with: appliance app start {name}\n"))?;
    Ok(0)
}

async fn start(name: &AppName) -> Result<u8> {
    let host = Host::system(Mode::Apply);
    let env = one_of_several(name, &host)?;
    if let Some(reason) = Flag::from(&env.tenant).failed(&host)? {
        bail!("the app has failed ({reason}); mend it, then run: appliance recover --app {name}");
    }
    if !env.app.is_enabled {
        bail!("env.yml says 'enabled: false' for the app {name}; set it to true, then run: appliance apply");
    }
    halted::release(&host, name)?;
    if !super::update::is_up(&host).await? {
        print(&format!("{name} is started with the appliance: systemctl start appliance\n"))?;
        return Ok(0);
    }
    let since = host.now();
    let begun = Instant::now();
    let has_ended = move |status: &Status| match status.phase {
        Phase::Running { .. } => true,
        // That of before, until the supervisor has noticed.
        Phase::Standby { .. } | Phase::Failed { .. } => status.since >= since || begun.elapsed() > TURN,
        _ => false,
    };
    let status = wait_for_status(&env, &host, has_ended).await?;
    print(&format!("{name}: {}\n", status.phase.text()))?;
    Ok(status.exit_code())
}

async fn wait_for(env: &Env, host: &Host, is_it: impl Fn(&Phase) -> bool) -> Result<Status> {
    wait_for_status(env, host, move |status| is_it(&status.phase)).await
}

/// Waits until an app's status is as it should be.
async fn wait_for_status(env: &Env, host: &Host, is_it: impl Fn(&Status) -> bool) -> Result<Status> {
    let end = Instant::now() + PATIENCE;
    loop {
        let status = Status::read(host, Some(&env.tenant))?;
        if let Some(status) = status.filter(|status| is_it(status)) {
            return Ok(status);
        }
        if Instant::now() >= end {
            bail!("it takes longer than {} s; see: appliance status --app {}", PATIENCE.as_secs(), env.app.name);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn remove(arguments: RemoveArguments) -> Result<u8> {
    let RemoveArguments { name, purge, yes } = arguments;
    let host = Host::system(Mode::Apply);
    let active = source::active(&host)?.envs;
    let written = source::read(&host, crate::env::LOCAL).await.ok().flatten();
    if active.of(&name).is_some() {
        bail!("the active env names the app {name}; take it out of env.yml, then run: appliance apply");
    }
    if written.is_some_and(|found| found.envs.of(&name).is_some()) {
        bail!("{} names the app {name}; take it out there first", crate::env::LOCAL);
    }
    if active.is_alone() {
        bail!("this host has one app, and what is left of another one may be in use by it; see: docs/apps.md");
    }
    if !ledger::apps(&host)?.contains(&name) && last_env(&name, &host)?.is_none() {
        bail!("nothing is known of an app {name}");
    }
    let extent = if purge { Extent::All } else { Extent::Traces };
    let last = last_env(&name, &host)?;
    let text = match extent {
        Extent::Traces => format!("containers, networks and images of {name} are removed; its data stay"),
        Extent::All => format!(
            "{name} is removed with all its data: database, volumes, directories; its database is dumped to {REMOVED} first"
        ),
    };
    if !is_confirmed(&name, &text, purge, yes.as_deref())? {
        bail!("{text}; nothing was done");
    }
    let dumped = update::remove(&name, last.as_ref(), extent, &host).await?;
    if let Some(dumped) = dumped {
        print(&format!("the last dump of its database: {dumped}\n"))?;
    }
    print(&format!("{name} is removed\n"))?;
    Ok(0)
}

/// What an env said to an app last, if one is kept.
fn last_env(name: &AppName, host: &Host) -> Result<Option<Env>> {
    for kept in history::list(host)?.iter().rev() {
        if let Some(env) =
            source::judged(host, &kept.path()).ok().flatten().and_then(|found| found.envs.of(name).cloned())
        {
            return Ok(Some(env));
        }
    }
    Ok(None)
}

/// With data, the name must be typed, or given once more.
fn is_confirmed(name: &AppName, text: &str, purge: bool, yes: Option<&str>) -> Result<bool> {
    match (purge, yes) {
        (false, Some(_)) => return Ok(true),
        (true, Some(given)) if given == name.as_str() => return Ok(true),
        (true, Some(_)) => bail!("with --purge the name must be given: --yes {name}"),
        (false, None) => return is_agreed(text),
        (true, None) => {}
    }
    if !std::io::stdin().is_terminal() {
        return Ok(false);
    }
    eprint!("{text}. Type its name to go on: ");
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).context("could not read the answer")?;
    Ok(answer.trim() == name.as_str())
}
