//! `appliance apply`: does what `plan` shows.

use super::env::find;
use super::host::{PATIENCE, journal, plan_stack, warn_of_unknown};
use super::{print, update};
use crate::host::{Entry, Host, Mode, UnitState};
use crate::prepare::{self, Wanted};
use crate::source::Found;
use crate::state::{Ledger, Lock, Status, history};
use crate::value::Phase;
use anyhow::{Context, Result};

/// Prepares the host, makes the env the active one, and brings release and containers to what it asks for.
///
/// # Errors
/// What of it failed first; the rest is not begun.
pub async fn apply(json: bool) -> Result<u8> {
    let host = Host::system(Mode::Apply);
    update::refuse_failed(&host)?;
    let found = find(&host).await?;
    let warnings = found.report.render_quoted(&found.origin);
    if !warnings.is_empty() {
        eprintln!("{warnings}");
    }
    let is_up = host.unit_state(update::SERVICE).await? == UnitState::Active;
    if is_up {
        prepare_host(&found, &host, json).await?;
    }
    let mut done = host.journal().entries();
    let (follows, text) = match is_up {
        true => release(&found, &host, json, &mut done).await?,
        false => (Follows::Start, None),
    };
    if let Some(text) = text.filter(|_| !json) {
        print(&format!("{text}\n"))?;
    }
    match follows {
        Follows::Nothing => {}
        Follows::Start => update::start_supervisor(&host).await?,
    }
    let status = Status::read(&host)?
        .context("the supervisor has written no status; see: journalctl -u appliance-supervisor")?;
    if json {
        print(&format!("{}\n", serde_json::json!({ "done": done, "phase": status.phase })))?;
    } else if follows == Follows::Start {
        print(&format!("{}\n", status.phase.text()))?;
    } else if done.is_empty() {
        print("nothing to do\n")?;
    }
    Ok(status.exit_code())
}

async fn prepare_host(found: &Found, host: &Host, json: bool) -> Result<()> {
    let _lock = Lock::take(host, "apply", PATIENCE).await?;
    let wanted = Wanted { env: &found.env, text: &found.bytes };
    let prepared = prepare::prepare(wanted, host, None, &mut |_| ()).await;
    // What was done is said even if a later step failed.
    if !json {
        print(&journal(host))?;
    }
    prepared?;
    history::activate(host, &found.bytes, &found.env.digest).map(drop)
}

/// What is left to do once the release is in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Follows {
    Nothing,
    /// The supervisor's start: it touches no container that is as it should be.
    Start,
}

/// Brings the release to what the env asks for, as long as one runs, and says what of it happened.
async fn release(found: &Found, host: &Host, json: bool, done: &mut Vec<Entry>) -> Result<(Follows, Option<String>)> {
    let env = &found.env;
    if env.appliance.standby {
        let is_there = Status::read(host)?.is_some_and(|status| matches!(status.phase, Phase::Standby { .. }));
        return Ok((if is_there { Follows::Nothing } else { Follows::Start }, None));
    }
    if Ledger::read_for(host, &env.app.name)?.current.is_none() {
        return Ok((Follows::Start, None));
    }
    let ahead = Host::system(Mode::Check);
    let unknown = crate::update::plan(env, &ahead).await?;
    let is_wanted = !ahead.journal().is_empty();
    let mut text = None;
    let mut follows = Follows::Nothing;
    match &unknown {
        Some(error) => {
            warn_of_unknown(error);
            // Without the server there is no other version, but the env can come into force.
            follows = if is_wanted { Follows::Start } else { Follows::Nothing };
        }
        None if is_wanted => text = Some(update::to_wanted(env, host, json).await?),
        None => {}
    }
    done.extend(ahead.journal().entries());
    // A file that the compose file names may have changed, which is no other release.
    let ahead = Host::system(Mode::Check);
    plan_stack(env, &ahead).await?;
    if !ahead.journal().is_empty() {
        follows = Follows::Start;
        if !json {
            print(&journal(&ahead))?;
        }
        done.extend(ahead.journal().entries());
    }
    Ok((follows, text))
}
