//! The supervisor: from an env to a running app, and then whatever follows from its containers' deaths.
//!
//! `find.rs` chooses the env, `start.rs` brings the host and the stack up (`waiting.rs` for Docker and
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
mod start;
mod stop;
mod up;
mod waiting;
#[cfg(test)]
mod walk_tests;

pub use stop::{announce, stop_stack};

use crate::env::BrokenFile;
use crate::error::{Halt, Severity};
use crate::host::{Host, notify};
use crate::report::sentry;
use crate::state::{flags, moved};
use crate::value::Event;
use anyhow::{Context, Result};
pub use board::Board;
use tokio::signal::unix::{SignalKind, signal};

/// Lives as the supervisor until it is told to stop.
///
/// # Errors
/// [`Halt`] when there is nothing to run or the stack failed; it has been told to everybody then.
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
    let halt = match error.downcast::<Halt>() {
        Ok(halt) => halt,
        Err(error) => match error.downcast::<BrokenFile>() {
            // A broken env is not a failed stack: what runs is left alone.
            Ok(broken) => {
                let said = format!("{} is broken; see: {}", broken.file, broken.kind.checked_by());
                board.event(Event::Standby(said));
                notify::ready();
                return Err(broken.into());
            }
            Err(error) => Halt::failed("The appliance could not start", format!("{error:#}")),
        },
    };
    // Whoever wants it to end now does not wait for its farewell: the flag comes first in it.
    tokio::select! {
        () = end(&halt, host, &board) => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Err(halt.into())
}

async fn live(host: &Host, env_yml: Option<&str>, board: &Board) -> Result<()> {
    let running = start::start(host, env_yml, board).await?;
    // This version of the appliance came up: one that ends as failed or in standby, or cannot prepare the host, has not shown that it can
    // run the app.
    if running.is_prepared
        && let Err(error) = host.keep_own().and_then(|()| moved::settle(host))
    {
        tracing::warn!("{error:#}");
    }
    notify::ready();
    tokio::select! {
        end = follow::follow(host, board, running) => end,
        // It ends with the other.
        () = keeper::keep(host) => Ok(()),
        () = client_ca::watch(host) => Ok(()),
    }
}

/// Everything that the end of a run asks for. Trouble on the way is said and does not stop the rest.
async fn end(halt: &Halt, host: &Host, board: &Board) {
    let said = format!("{halt}");
    let _busy = notify::Busy::begin();
    match halt.severity {
        Severity::Standby => board.event(Event::Standby(said)),
        Severity::Failed => {
            tracing::error!("{said}");
            // The flag first: killed from here on, nothing starts what has failed. One that is up keeps its reason.
            let raised = flags::failed(host).and_then(|up| up.map_or_else(|| flags::raise(host, &said), |_| Ok(())));
            if let Err(error) = raised {
                tracing::error!("the failed flag could not be written: {error:#}");
            }
            board.event(Event::Fails(said));
            sentry::critical(host, &halt.title, &halt.text);
            if let Err(error) = stop_stack(host).await {
                tracing::error!("{error:#}");
            }
        }
    }
    notify::ready();
}
