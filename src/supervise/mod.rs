//! The supervisor: from an env to running apps, and then whatever follows from its containers' deaths.
//!
//! `find.rs` chooses the env, `several.rs` keeps several apps apart, `start.rs` brings the host and a stack up (`waiting.rs` for Docker and
//! volumes, `up.rs` until a visitor gets the app), `follow.rs` is the loop, `releases.rs` notices what other commands made, `keeper.rs` the certificate beside it, `client_ca.rs` the
//! certificates of clients, `judge.rs` with `restarts.rs` and `manual_stops.rs` the pure rules, `board.rs` tells
//! everybody how things stand, `stop.rs` takes the stack down.

mod board;
mod client_ca;
mod find;
mod follow;
mod judge;
mod keeper;
mod manual_stops;
mod releases;
mod restarts;
mod several;
mod start;
mod stop;
mod up;
mod waiting;
mod wake;
#[cfg(test)]
mod walk_tests;

pub use stop::{announce, stop_all};

use crate::env::{BrokenFile, Env};
use crate::error::{Halt, Severity};
use crate::host::{Host, notify};
use crate::report::sentry;
use crate::source::Found;
use crate::state::flags::Flag;
use crate::state::moved;
use crate::value::Event;
use anyhow::{Context, Result};
pub use board::Board;
use tokio::signal::unix::{SignalKind, signal};

/// Lives as the supervisor until it is told to stop.
///
/// # Errors
/// [`Halt`] when there is nothing to run, or the app that has the host to itself failed; it has been told to everybody then.
pub async fn run(host: &Host, env_yml: Option<&str>) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("could not listen for signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("could not listen for signals")?;
    let board = Board::new(host);
    let outcome = tokio::select! {
        outcome = live(host, env_yml, &board) => outcome,
        // The containers are left alone: stopping them is appliance.service's work.
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    };
    let Err(error) = outcome else {
        notify::stopping();
        return Ok(());
    };
    if error.is::<waiting::Again>() {
        tracing::info!("{error}");
        notify::stopping();
        return Ok(());
    }
    let halt = match halt_of(error, &board) {
        Ok(halt) => halt,
        Err(broken) => {
            notify::ready();
            return Err(broken.into());
        }
    };
    // Whoever wants it to end now does not wait for its farewell: the flag comes first in it.
    tokio::select! {
        () = end(&halt, host, None, &board) => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Err(halt.into())
}

/// What an error means for what runs. A broken file is not a failed stack: that is told, and what runs is left alone.
fn halt_of(error: anyhow::Error, board: &Board) -> Result<Halt, BrokenFile> {
    let error = match error.downcast::<Halt>() {
        Ok(halt) => return Ok(halt),
        Err(error) => error,
    };
    match error.downcast::<BrokenFile>() {
        Ok(broken) => {
            board.event(Event::Standby(format!("{} is broken; see: {}", broken.file, broken.kind.checked_by())));
            Err(broken)
        }
        Err(error) => Ok(Halt::failed("The appliance could not start", format!("{error:#}"))),
    }
}

async fn live(host: &Host, env_yml: Option<&str>, board: &Board) -> Result<()> {
    let found = start::choose(host, env_yml, board).await?;
    if let Err(error) = host.acme_tidy() {
        tracing::warn!("{error:#}");
    }
    match found.envs.is_alone() {
        true => {
            live_with(host, &found, found.envs.host(), board, || {
                notify::ready();
            })
            .await
        }
        false => several::live(host, &found, board).await,
    }
}

/// Brings one app up, and keeps it up. `up` is called once it is.
async fn live_with(host: &Host, found: &Found, env: &Env, board: &Board, up: impl FnOnce()) -> Result<()> {
    let running = start::start(host, found, env, board).await?;
    // This version of the appliance came up: one that ends as failed or in standby, or cannot prepare the host, has not shown that it can
    // run the app.
    if running.is_prepared
        && let Err(error) = host.keep_own().and_then(|()| moved::settle(host))
    {
        tracing::warn!("{error:#}");
    }
    up();
    tokio::select! {
        end = follow::follow(host, board, running) => end,
        // It ends with the other.
        () = keeper::keep(host, &env.app.name) => Ok(()),
        () = client_ca::watch(host, &env.app.name) => Ok(()),
        () = several::until_halted(host, env) => Ok(()),
    }
}

/// Everything that the end of a run asks for: of the host (`None`), or of one of several apps. Trouble on the way is said and does not stop
/// the rest.
async fn end(halt: &Halt, host: &Host, of: Option<&Env>, board: &Board) {
    let said = format!("{halt}");
    let _busy = notify::Busy::begin();
    let flag = of.map_or(Flag::Host, |env| Flag::from(&env.tenant));
    match halt.severity {
        Severity::Standby => board.event(Event::Standby(said)),
        Severity::Failed => {
            tracing::error!("{said}");
            // The flag first: killed from here on, nothing starts what has failed. One that is up keeps its reason.
            let raised = flag.failed(host).and_then(|up| up.map_or_else(|| flag.raise(host, &said), |_| Ok(())));
            if let Err(error) = raised {
                tracing::error!("the failed flag could not be written: {error:#}");
            }
            board.event(Event::Fails(said));
            sentry::critical(host, &halt.title, &halt.text);
            let stopped = match of {
                None => stop_all(host).await,
                Some(env) => stop::stop_app(env, host).await,
            };
            if let Err(error) = stopped {
                tracing::error!("{error:#}");
            }
        }
    }
    if of.is_none() {
        notify::ready();
    }
}
