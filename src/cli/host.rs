//! The commands about the host as a whole: run, prepare, plan, recover, stop-stack.

use super::env::find;
use super::update::is_up;
use super::{env_yml, print, render};
use crate::env::Env;
use crate::host::{Host, Mode, What};
use crate::prepare::{self, Wanted};
use crate::stack::actions::Occasion;
use crate::stack::{self, apply};
use crate::state::{Ledger, StackLock, flags};
use crate::supervise;
use crate::update;
use crate::value::Step;
use anyhow::Result;
use clap::Args;
use std::time::Duration;

#[derive(Debug, Args)]
pub struct RecoverArguments {
    /// Start the appliance too
    #[arg(long)]
    start: bool,
}

/// How long a command waits for another one that holds the lock.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

pub async fn run() -> Result<u8> {
    supervise::run(&Host::system(Mode::Apply), env_yml().as_deref()).await.map(|()| 0)
}

pub async fn prepare(step: Option<Step>) -> Result<u8> {
    let host = Host::system(Mode::Apply);
    let found = find(&host).await?;
    let _lock = StackLock::take(&host, "prepare", PATIENCE).await?;
    let wanted = Wanted { env: &found.env, text: &found.bytes };
    let done = prepare::prepare(wanted, &host, step, &mut |_| ()).await;
    // What was done is said even if a later step failed.
    print(&journal(&host))?;
    done?;
    if host.journal().is_empty() {
        print("nothing to do\n")?;
    }
    Ok(0)
}

pub async fn plan(step: Option<Step>, stack_alone: bool, json: bool) -> Result<u8> {
    let host = Host::system(Mode::Check);
    let found = find(&host).await?;
    let wanted = Wanted { env: &found.env, text: &found.bytes };
    if !stack_alone {
        prepare::prepare(wanted, &host, step, &mut |_| ()).await?;
    }
    // In standby nothing of the app's is wanted.
    let with_app = step.is_none() && !found.env.appliance.standby;
    if with_app {
        plan_stack(&found.env, &host).await?;
    }
    if with_app
        && !stack_alone
        && let Some(error) = update::plan(&found.env, &host).await?
    {
        eprintln!("warning: whether there is a newer version is not known: {error:#}");
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
    match flags::failed(&host)? {
        Some(reason) => {
            flags::clear(&host)?;
            print(&format!("had failed: {reason}\nthe failed state is left\n"))?;
        }
        None => print("the appliance is not in the failed state\n")?,
    }
    if arguments.start {
        host.start_unit("appliance.service").await?;
    } else {
        print("start it with: systemctl start appliance\n")?;
    }
    Ok(0)
}

pub async fn stop_stack() -> Result<u8> {
    let host = Host::system(Mode::Apply);
    // Telling must not stand in the way of stopping.
    if let Err(error) = supervise::announce(&host) {
        tracing::warn!("{error:#}");
    }
    supervise::stop_stack(&host).await?;
    Ok(0)
}
