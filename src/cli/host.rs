//! The commands about the host as a whole: run, prepare, plan, recover, stop-stack.

use super::choice::{AppArgument, prefix};
use super::env::find;
use super::update::is_up;
use super::{env_yml, print, render};
use crate::env::Env;
use crate::host::{Host, Mode, What};
use crate::prepare::{self, Wanted};
use crate::source::{self, Found};
use crate::stack::actions::Occasion;
use crate::stack::{self, apply};
use crate::state::flags::Flag;
use crate::state::{HostLock, Ledger, StackLock};
use crate::supervise;
use crate::update;
use crate::value::{AppName, Step};
use anyhow::{Context, Result};
use clap::Args;
use std::collections::BTreeSet;
use std::time::Duration;

#[derive(Debug, Args)]
pub struct RecoverArguments {
    /// Start the appliance too
    #[arg(long)]
    start: bool,
    #[command(flatten)]
    app: AppArgument,
}

/// How long a command waits for another one that holds the lock.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

pub async fn run() -> Result<u8> {
    supervise::run(&Host::system(Mode::Apply), env_yml().as_deref()).await.map(|()| 0)
}

pub async fn prepare(step: Option<Step>) -> Result<u8> {
    let host = Host::system(Mode::Apply);
    let found = find(&host).await?;
    let done = prepare_all(&found, &host, step, "prepare").await;
    // What was done is said even if a later step failed.
    print(&journal(&host))?;
    done?;
    if host.journal().is_empty() {
        print("nothing to do\n")?;
    }
    Ok(0)
}

/// All steps or one, of the host and of all its apps, with their locks.
///
/// # Errors
/// The host could not be prepared, or one of several apps: the others were.
pub(super) async fn prepare_all(found: &Found, host: &Host, step: Option<Step>, verb: &str) -> Result<()> {
    let mut locks = Vec::new();
    // In one order, so that two commands do not wait for each other.
    let names: BTreeSet<&AppName> = found.envs.iter().map(|env| &env.app.name).collect();
    for name in names {
        match StackLock::take_of(host, name, verb, PATIENCE).await {
            Ok(lock) => locks.push((name, lock)),
            Err(error) if found.envs.is_alone() => return Err(error),
            Err(error) => tracing::warn!("{name}: {error:#}; what is its own is left as it is"),
        }
    }
    let _lock = HostLock::take(host, verb, PATIENCE).await?;
    let free = found.envs.iter().filter(|env| locks.iter().any(|(name, _)| *name == &env.app.name));
    run_steps(found, &free.collect::<Vec<_>>(), host, step).await
}

async fn run_steps(found: &Found, envs: &[&Env], host: &Host, step: Option<Step>) -> Result<()> {
    let mut ended = Ok(());
    for (index, env) in envs.iter().enumerate() {
        let wanted = Wanted { env, text: &found.bytes };
        let done = match index {
            0 => prepare::prepare(wanted, host, step, &mut |_| ()).await,
            // What is the host's is done.
            _ => prepare::prepare_further(wanted, host, step).await,
        };
        if found.envs.is_alone() {
            return done;
        }
        // Another app's trouble is not this one's.
        ended = ended.and(done.with_context(|| format!("preparing the host for the app {} failed", env.app.name)));
    }
    ended
}

pub async fn plan(app: &AppArgument, step: Option<Step>, stack_alone: bool, json: bool) -> Result<u8> {
    let host = Host::system(Mode::Check);
    let found = find(&host).await?;
    let chosen = app.some(&found.envs)?;
    if !stack_alone && !app.is_named() {
        run_steps(&found, &found.envs.iter().collect::<Vec<_>>(), &host, step).await?;
    } else if !stack_alone {
        for env in &chosen {
            prepare::prepare(Wanted { env, text: &found.bytes }, &host, step, &mut |_| ()).await?;
        }
    }
    // In standby nothing of an app's is wanted.
    let with_apps = step.is_none() && !found.envs.host().appliance.standby;
    for env in chosen.into_iter().filter(|env| with_apps && env.app.is_enabled) {
        plan_stack(env, &host).await?;
        if !stack_alone && let Some(error) = update::plan(env, &host).await? {
            eprintln!("warning: {}whether there is a newer version is not known: {error:#}", prefix(env));
        }
    }
    let entries = host.journal().entries();
    if json {
        print(&format!("{}\n", serde_json::to_string_pretty(&entries)?))?;
    } else if entries.is_empty() {
        print("nothing to do\n")?;
    } else {
        print(&journal(&host))?;
    }
    Ok(if entries.is_empty() { 0 } else { 2 })
}

/// Notes what would be done with the containers of the release: by the supervisor, if it runs, else by the next start.
pub(super) async fn plan_stack(env: &Env, host: &Host) -> Result<()> {
    if let Some(release) = Ledger::read_for(host, &env.app.name)?.current {
        let occasion = match is_up(host).await? {
            true => Occasion::Mend,
            false => Occasion::Start,
        };
        let stack = stack::load(env, host)?;
        apply::plan(&stack, &update::references(&stack, &release)?, host, occasion).await?;
    }
    Ok(())
}

pub(super) fn journal(host: &Host) -> String {
    let entries = host.journal().entries();
    if entries.is_empty() {
        return String::new();
    }
    let rows = entries.into_iter().map(|entry| {
        let of_app = if entry.what == What::Release { "release" } else { "stack" };
        let step = entry.step.filter(|_| !entry.what.is_of_stack()).map(Step::name).unwrap_or(of_app);
        vec![step.to_owned(), entry.what.to_string(), entry.object, entry.how]
    });
    render::table(&["STEP", "WHAT", "OBJECT", "CHANGE"], rows)
}

pub async fn recover(arguments: RecoverArguments) -> Result<u8> {
    let host = Host::system(Mode::Apply);
    let mut had_failed = false;
    for (flag, prefix) in flags(&arguments.app, &host)? {
        if let Some(reason) = flag.failed(&host)? {
            flag.clear(&host)?;
            print(&format!("{prefix}had failed: {reason}\n{prefix}the failed state is left\n"))?;
            had_failed = true;
        }
    }
    if !had_failed {
        print("the appliance is not in the failed state\n")?;
    }
    if arguments.start {
        host.start_unit(super::update::SERVICE).await?;
    } else if had_failed && is_up(&host).await? {
        print("it is started again; see: appliance status\n")?;
    } else {
        print("start it with: systemctl start appliance\n")?;
    }
    Ok(0)
}

/// The flags that a command is about, and what stands before a line about each. Without an active env there is the host's alone.
fn flags(app: &AppArgument, host: &Host) -> Result<Vec<(Flag, String)>> {
    let of_host = (Flag::Host, String::new());
    let Ok(found) = source::active(host) else { return Ok(vec![of_host]) };
    if found.envs.is_alone() {
        app.one(&found.envs)?;
        return Ok(vec![of_host]);
    }
    let of_apps = app.some(&found.envs)?.into_iter().map(|env| (Flag::from(&env.tenant), prefix(env)));
    let of_host = (!app.is_named()).then_some(of_host);
    Ok(of_host.into_iter().chain(of_apps).collect())
}

pub async fn stop_stack() -> Result<u8> {
    let host = Host::system(Mode::Apply);
    // Telling must not stand in the way of stopping.
    if let Err(error) = supervise::announce(&host) {
        tracing::warn!("{error:#}");
    }
    supervise::stop_all(&host).await?;
    Ok(0)
}
