//! From nothing to a running app: flag, env, Docker, the host's steps, the release, its containers, the gate.

use super::board::Board;
use crate::env::Env;
use crate::error::Halt;
use crate::host::Host;
use crate::host::docker::is_away;
use crate::prepare::{self, Wanted, prepare};
use crate::report::{page, sentry};
use crate::source::{self, Found, Search};
use crate::stack::probe::{Rigour, wait_until_good};
use crate::stack::{self, Stack, apply};
use crate::state::{InFlight, Ledger, Lock, Release, Stage, flags};
use crate::update;
use crate::value::{Event, Step};
use anyhow::{Context, Result};
use std::time::Duration;

/// What runs, for as long as it does.
pub struct Running {
    pub env: Env,
    pub stack: Stack,
    pub release: Release,
    /// Reports are sent while this lives.
    _sentry: Option<sentry::Guard>,
}

/// How long the start waits for another command that holds the lock.
const PATIENCE: Duration = Duration::from_secs(600);

/// Brings everything up.
///
/// # Errors
/// [`Halt`], or a broken env.
pub async fn start(host: &Host, env_yml: Option<&str>, board: &Board) -> Result<Running> {
    if let Some(reason) = flags::failed(host)? {
        let text = format!("{reason}\nMend it, then run: appliance recover --start");
        return Err(Halt::failed("The appliance had failed before", text).into());
    }
    let lock = Lock::take(host, "run", PATIENCE).await?;
    let found = find(host, env_yml, board).await?;
    let guard = sentry::start(&found.env);
    let env = &found.env;
    board.describe(|status| {
        status.app = Some(env.app.name.as_str().to_owned());
        status.url = Some(format!("https://{}/", env.appliance.domain));
        status.source = Some(found.origin.clone());
        status.warnings.extend(found.report.warnings().map(|warning| warning.render(&found.origin)));
    });
    if env.appliance.standby {
        prepare::page::prepare(host).await?;
        return Err(Halt::standby(
            "appliance.standby is set",
            "set it to false in env.yml, then run: systemctl restart appliance",
        )
        .into());
    }
    loop {
        wait_for_docker(host, board).await?;
        match bring_up(&found, host, board, &lock).await {
            // It went away in the middle: everything can be begun again once it is back.
            Err(error) if is_away(&error) => tracing::warn!("{error:#}; waiting for it"),
            Err(error) => return Err(error),
            Ok((stack, release)) => return Ok(Running { env: found.env, stack, release, _sentry: guard }),
        }
    }
}

/// The env; where the newest is broken, the one that is active since before goes on.
async fn find(host: &Host, env_yml: Option<&str>, board: &Board) -> Result<Box<Found>> {
    match source::find(host, env_yml) {
        Ok(Search::Found(found)) => Ok(found),
        Ok(Search::Nothing(tried)) => {
            let lines = tried.iter().map(|tried| format!("{}: {}", tried.place, tried.why)).collect();
            prepare::page::prepare_without_env(host, lines).await?;
            let text = format!(
                "put an env.yml in place, then run: systemctl start appliance\n{}",
                source::render_tried(&tried)
            );
            Err(Halt::standby("No env.yml was found", text).into())
        }
        Err(broken) => match source::read(host, source::ACTIVE) {
            Ok(Some(active)) => {
                tracing::error!("the newest env is broken, so the active one goes on:\n{broken}");
                board.describe(|status| status.warnings.push(format!("the newest env is broken: {broken}")));
                Ok(Box::new(active))
            }
            _ => {
                prepare::page::prepare(host).await?;
                Err(broken)
            }
        },
    }
}

/// Between two looks for a daemon that is away; it is not at rest then.
const BETWEEN: Duration = Duration::from_secs(1);

/// Waits until Docker answers, however long that takes.
pub async fn wait_for_docker(host: &Host, board: &Board) -> Result<()> {
    let mut told = false;
    loop {
        match host.docker().ping().await {
            Ok(()) => return Ok(()),
            Err(error) if is_away(&error) => {
                if !told {
                    tracing::warn!("{error:#}");
                    board.event(Event::StartBegins("waiting for Docker".to_owned()));
                    told = true;
                }
                tokio::time::sleep(BETWEEN).await;
                crate::host::notify::watchdog();
            }
            Err(error) => return Err(error),
        }
    }
}

async fn bring_up(found: &Found, host: &Host, board: &Board, lock: &Lock) -> Result<(Stack, Release)> {
    let env = &found.env;
    let wanted = Wanted { env, text: &found.bytes };
    let mut ledger = Ledger::read(host)?;
    let known = match &ledger.current {
        Some(release) => Some((stack::load(env, host)?, release.clone())),
        None => None,
    };
    // A supervisor that was replaced finds its app running: visitors must not notice.
    let up_already = match &known {
        Some((stack, release)) => runs_as_wanted(stack, release, host).await,
        None => false,
    };
    if !up_already {
        board.show_page();
    }
    let prepared = prepare(wanted, host, None, &mut |step| board.step(step)).await;
    board.steps_ended(prepared.is_ok());
    prepared.map_err(|error| with_halt(error, "The host could not be prepared"))?;

    let progress = |what: &str| board.event(Event::StartBegins(what.to_owned()));
    let first = known.is_none();
    let (stack, release) = match known {
        Some((stack, release)) => {
            update::restore_images(&stack, &release, host, &progress).await?;
            apply::ensure_surroundings(&stack, host).await?;
            prepare::admit_networks(env, host).await?;
            (stack, release)
        }
        None => {
            let mut built = update::build(env, &mut ledger, host, lock, &progress).await?;
            apply::ensure_surroundings(&built.stack, host).await?;
            prepare::admit_networks(env, host).await?;
            update::migrate(env, &mut built, &mut ledger, host, lock, &progress).await?;
            (built.stack, built.release)
        }
    };
    board.describe(|status| status.commit = Some(release.commit.as_str().to_owned()));
    let domain = env.appliance.domain.as_str();
    if first {
        ledger.in_flight =
            Some(InFlight { commit: Some(release.commit.clone()), stage: Stage::Start, since: host.now() });
        ledger.write(host, &env.app.name)?;
    }
    let good = async {
        apply::up(&stack, &release.images, host, &progress).await?;
        progress("waiting for the services");
        let rigour = if first { Rigour::New } else { Rigour::Known };
        wait_until_good(&stack, &release.routes, domain, rigour, host).await
    };
    if let Err(error) = good.await {
        if first && !is_away(&error) {
            ledger.remember_failed(release.commit.clone());
            ledger.in_flight = None;
            ledger.write(host, &env.app.name)?;
        }
        return Err(with_halt(error, "The app did not come up"));
    }
    if first {
        ledger.current = Some(release.clone());
        ledger.in_flight = None;
        ledger.write(host, &env.app.name)?;
    }
    // Only now are the routes known to lead somewhere.
    prepare(wanted, host, Some(Step::Nginx), &mut |_| ()).await.context("nginx could not be set up for the app")?;
    wait_for_front(domain, host).await?;
    board.event(Event::Up);
    Ok((stack, release))
}

/// How long nginx may take to serve the app after its reload.
const FRONT: Duration = Duration::from_secs(15);

/// Running means that a visitor gets the app: a reload returns before nginx's new workers serve, so they are asked.
async fn wait_for_front(domain: &str, host: &Host) -> Result<()> {
    page::clear(host)?;
    let end = tokio::time::Instant::now() + FRONT;
    loop {
        let last = match host.probe_front(domain, FRONT).await {
            Ok(status) if status < 500 => return Ok(()),
            Ok(status) => anyhow::anyhow!("https://{domain}/ answers {status}"),
            Err(error) => error,
        };
        if tokio::time::Instant::now() >= end {
            // The app itself was seen to be good; what stands before it is told, not failed.
            tracing::warn!("the app is up, but nginx does not serve it: {last:#}");
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn runs_as_wanted(stack: &Stack, release: &Release, host: &Host) -> bool {
    apply::pending(stack, &release.images, host).await.is_ok_and(|pending| pending.actions.is_empty())
}

/// An error that ends the run, unless it is one already, or Docker went away.
fn with_halt(error: anyhow::Error, title: &str) -> anyhow::Error {
    if is_away(&error) || error.downcast_ref::<Halt>().is_some() {
        return error;
    }
    Halt::failed(title, format!("{error:#}")).into()
}
