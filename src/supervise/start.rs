//! From nothing to a running app: flag, env, Docker, the host's steps, the release, its containers, the gate.

use super::board::Board;
use super::find::{Chosen, find};
use super::releases::{self, Running};
use crate::env::Env;
use crate::error::Halt;
use crate::host::docker::{Look, is_away};
use crate::host::watch::{Mounts, Watch};
use crate::host::{Host, Own, UnitState};
use crate::prepare::{self, VolumeMissing, Wanted, prepare};
use crate::report::{page, sentry};
use crate::source::Found;
use crate::stack::actions::{Action, Occasion};
use crate::stack::manner::Beside;
use crate::stack::probe::{Gate, Rigour, wait_until_good};
use crate::stack::{self, Stack, apply, stopped, surroundings};
use crate::state::{InFlight, Ledger, Lock, Release, Touched, flags, moved};
use crate::update;
use crate::value::{Event, Stage, Step};
use anyhow::{Context, Result};
use std::time::Duration;
use tokio::time::Instant;

/// How long the start waits for another command that holds the lock: longer than a migration may take.
const PATIENCE: Duration = Duration::from_secs(25 * 3600);

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
    moved::take_over(host)?;
    let Chosen { found, trouble } = find(host, env_yml).await?;
    board.keep(sentry::start(&found.env));
    if let Some(trouble) = &trouble {
        tracing::error!("{trouble}");
    }
    tell_of_put_back(host)?;
    let env = &found.env;
    board.describe(|status| {
        status.app = Some(env.app.name.as_str().to_owned());
        status.url = Some(format!("https://{}/", env.appliance.domain));
        status.source = Some(found.origin.clone());
        status.warnings.extend(trouble);
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
        // Watched before it is looked at, so that nothing that is mounted in between is missed.
        let (mut mounts, mut devices) = (host.watch_mounts()?, host.watch("/dev", &[])?);
        let up = match before_docker(&found, host, board).await {
            Ok(()) => {
                wait_for_docker(host, board).await?;
                bring_up(&found, host, board, &lock).await
            }
            Err(error) => Err(error),
        };
        match up {
            // It went away in the middle: everything can be begun again once it is back.
            Err(error) if is_away(&error) => tracing::warn!("{error:#}; waiting for it"),
            Err(error) if error.is::<VolumeMissing>() => {
                let missing = error.downcast::<VolumeMissing>()?;
                tracing::warn!("{missing}; waiting for it");
                board.show_page();
                board.event(Event::StartBegins(format!("waiting for a volume: {missing}")));
                // However long that takes; whoever mends it may need other commands for that.
                drop(lock);
                wait_for_volumes(&mut mounts, &mut devices, env, host).await?;
                return Err(Again.into());
            }
            Err(error) => return Err(error),
            Ok((stack, release)) => return Ok(Running { env: found.env, stack, release, settled: None }),
        }
    }
}

/// What Docker itself needs: its volume, and that nothing is left half-moved.
async fn before_docker(found: &Found, host: &Host, board: &Board) -> Result<()> {
    let env = &found.env;
    let is_in_order = !prepare::is_moving(host) && !prepare::is_docker_homeless(host);
    if !is_in_order || prepare::missing_volumes(env, host).await?.is_some() {
        board.show_page();
        prepare::page::prepare(host).await?;
        let wanted = Wanted { env, text: &found.bytes };
        let prepared = prepare(wanted, host, Some(Step::Storage), &mut |step| board.step(step)).await;
        board.steps_ended(prepared.is_ok());
        prepared.map_err(|error| with_halt(error, "The host could not be prepared"))?;
    }
    // It was refused its start while its volume was missing.
    if host.docker().ping().await.is_err_and(|error| is_away(&error))
        && matches!(host.unit_state(DOCKER).await?, UnitState::Inactive | UnitState::Failed)
        && let Err(error) = host.start_unit(DOCKER).await
    {
        tracing::warn!("{error:#}");
    }
    Ok(())
}

const DOCKER: &str = "docker.service";

/// Reports once that a new version of the appliance did not come up, and says at every start that it is not the one that runs.
fn tell_of_put_back(host: &Host) -> Result<()> {
    if host.own()? != Own::PutBack {
        return host.put_back_told();
    }
    let running = concat!("version ", env!("CARGO_PKG_VERSION"), " runs in its place");
    match host.put_back_news()? {
        Some(news) => {
            tracing::error!("a new version of the appliance is not used: {news}; {running}");
            host.put_back_told()
        }
        None => {
            tracing::warn!("the installed version of the appliance did not come up and is not used: {running}");
            host.put_back_told()
        }
    }
}

/// Between two looks for a daemon that is away; it is not at rest then.
const BETWEEN: Duration = Duration::from_secs(1);
/// Between two starts of a daemon that systemd gave up.
const BETWEEN_STARTS: Duration = Duration::from_secs(30);

/// Waits until Docker answers, however long that takes. One that somebody stopped stays stopped; one that systemd gave up, since it
/// died too often, is started again.
pub async fn wait_for_docker(host: &Host, board: &Board) -> Result<()> {
    let mut told = false;
    let mut started: Option<Instant> = None;
    loop {
        match host.docker().ping().await {
            Ok(()) => return Ok(()),
            Err(error) if is_away(&error) => {
                if !told {
                    tracing::warn!("{error:#}");
                    board.event(Event::StartBegins("waiting for Docker".to_owned()));
                    told = true;
                }
                // While its directory moves, it must not run.
                if started.is_none_or(|at| at.elapsed() >= BETWEEN_STARTS)
                    && !prepare::is_moving(host)
                    && host.unit_state(DOCKER).await.is_ok_and(|state| state == UnitState::Failed)
                {
                    started = Some(Instant::now());
                    if let Err(error) = host.start_unit(DOCKER).await {
                        tracing::warn!("{error:#}");
                    }
                }
                tokio::time::sleep(BETWEEN).await;
                crate::host::notify::watchdog();
            }
            Err(error) => return Err(error),
        }
    }
}

/// Ends this process in order to be started anew: once it has told systemd that it waits, a start would stand under the watchdog.
#[derive(Debug)]
pub struct Again;

impl std::fmt::Display for Again {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the volumes are there; starting anew")
    }
}

impl std::error::Error for Again {}

/// Waits until every volume is mounted. The host's boot is done meanwhile.
async fn wait_for_volumes(mounts: &mut Mounts, devices: &mut Watch, env: &Env, host: &Host) -> Result<()> {
    crate::host::notify::ready();
    let between = crate::host::notify::watchdog_interval().map_or(BETWEEN_BEATS, |interval| interval / 2);
    let mut beats = tokio::time::interval(between);
    loop {
        tokio::select! {
            changed = mounts.changed() => changed?,
            changed = devices.changed() => changed?,
            _ = beats.tick() => {
                crate::host::notify::watchdog();
                continue;
            }
        }
        if prepare::missing_volumes(env, host).await?.is_none() || prepare::can_be_mounted(env, host).await {
            return Ok(());
        }
    }
}

/// Where there is no watchdog, nobody listens.
const BETWEEN_BEATS: Duration = Duration::from_secs(3600);

async fn bring_up(found: &Found, host: &Host, board: &Board, lock: &Lock) -> Result<(Stack, Release)> {
    let env = &found.env;
    let wanted = Wanted { env, text: &found.bytes };
    let mut ledger =
        Ledger::read_for(host, &env.app.name).map_err(|error| with_halt(error, "The ledger cannot be used"))?;
    let known = ledger.current.clone();
    // A supervisor that was replaced finds its app running: visitors must not notice.
    let up_already = match &known {
        // The files are those of a release on its way.
        Some(release) if ledger.in_flight.is_some() => routed_run(env, release, host).await,
        Some(release) => runs_as_wanted(env, release, host).await,
        None => false,
    };
    let occasion = if up_already { Occasion::Mend } else { Occasion::Start };
    if !up_already {
        board.show_page();
        stopped::write(&Default::default(), host)?;
        stopped::give_up(&Default::default(), host)?;
    }
    let prepared = prepare(wanted, host, None, &mut |step| board.step(step)).await;
    board.steps_ended(prepared.is_ok());
    prepared.map_err(|error| with_halt(error, "The host could not be prepared"))?;

    // What a killed update left is finished or undone before anything is started.
    releases::recover(env, host, board, lock)
        .await
        .map_err(|error| with_halt(error, "An update could not be undone"))?;
    if !up_already {
        board.show_page();
    }
    ledger = Ledger::read_for(host, &env.app.name)?;
    let known = ledger.current.clone();
    let progress = |what: &str| board.event(Event::StartBegins(what.to_owned()));
    let first = known.is_none();
    let (stack, mut release) = match known {
        Some(mut release) => {
            let restored = update::restore_checkout(env, &release, host).await.and_then(|()| stack::load(env, host));
            let stack = restored.map_err(|error| with_halt(error, "The release cannot be brought up"))?;
            update::ensure_images(&stack, &mut release, &mut ledger, host, &progress)
                .await
                .map_err(|error| with_halt(error, "The release cannot be brought up"))?;
            surroundings::ensure(&stack, host).await?;
            prepare::admit_networks(env, host).await?;
            (stack, release)
        }
        None => {
            let mut built = update::first(env, &mut ledger, host, lock, &progress).await?;
            surroundings::ensure(&built.stack, host).await?;
            prepare::admit_networks(env, host).await?;
            update::migrate(env, &mut built, &mut ledger, host, lock, &progress).await?;
            (built.stack, built.release)
        }
    };
    board.describe(|status| status.commit = Some(release.commit.as_str().to_owned()));
    let domain = env.appliance.domain.as_str();
    if first {
        let database = ledger.in_flight.as_ref().map(|flight| flight.database).unwrap_or_default();
        ledger.in_flight =
            Some(InFlight { database, ..InFlight::at(Some(release.commit.clone()), Stage::Start, host) });
        ledger.write(host, &env.app.name)?;
    }
    let rigour = if first { Rigour::New } else { Rigour::Known };
    let routed = release.clone();
    let vital = routed.vital(&env.app.critical);
    let by_hand = stopped::read(host)?;
    let beside = Beside::default();
    let gate = Gate {
        stack: &stack,
        routes: &routed.routes,
        domain,
        vital: &vital,
        rigour,
        stopped: &by_hand,
        beside: &beside,
    };
    let good = async {
        bring_up_good(&gate, &release, occasion, host, &progress).await?;
        if first { update::probes(env, &stack, &release.routes, &beside, host).await } else { Ok(()) }
    };
    if let Err(error) = good.await {
        if first && !is_away(&error) {
            ledger.remember_failed(release.commit.clone());
            // A database that it has migrated is put back by the next start, once the stack is stopped.
            ledger.in_flight.take_if(|flight| flight.database == Touched::No);
            ledger.write(host, &env.app.name)?;
        }
        return Err(with_halt(error, "The app did not come up"));
    }
    if first || release.ran_with() != env.digest {
        release.runs_with = Some(env.digest.clone());
        ledger.current = Some(release.clone());
        ledger.in_flight.take_if(|_| first);
        ledger.write(host, &env.app.name)?;
        // The packet filter learns the ports of the routes before nginx asks there; those of a release that was known it has.
        prepare::admit_networks(env, host).await.context("the packet filter could not be set up for the app")?;
    }
    // Only now are the routes known to lead somewhere.
    prepare(wanted, host, Some(Step::Nginx), &mut |_| ()).await.context("nginx could not be set up for the app")?;
    match release.routes.is_empty() {
        // Nothing is served, so there is nothing to wait for.
        true => page::clear(host)?,
        false => wait_for_front(domain, host).await?,
    }
    board.event(Event::Up);
    update::settle_soon(env, host);
    // What is left over costs room, not the app.
    if let Err(error) = clean_up(env, host).await {
        tracing::warn!("{error:#}");
    }
    Ok((stack, release))
}

/// Removes images that no release needs, unless an update is under way: somebody may have begun one since the start read the ledger.
async fn clean_up(env: &Env, host: &Host) -> Result<()> {
    let ledger = Ledger::read_for(host, &env.app.name)?;
    if ledger.in_flight.is_none() { update::clean_up(&env.app.name, &ledger, host).await } else { Ok(()) }
}

/// How often a known release's start is tried again, and after how long: a vital service may die once before the database
/// or a neighbour is there.
const AGAIN_S: [u64; 4] = [1, 2, 4, 8];

/// Starts what must run and waits until it is good. A new release has one try: its gate is there to refuse it.
async fn bring_up_good(
    gate: &Gate<'_>,
    release: &Release,
    occasion: Occasion,
    host: &Host,
    progress: &(dyn Fn(&str) + Sync),
) -> Result<()> {
    let mut waits = AGAIN_S.iter().filter(|_| gate.rigour == Rigour::Known);
    loop {
        let tried = async {
            apply::up(gate.stack, &release.images, host, occasion, progress).await?;
            progress("waiting for the services");
            wait_until_good(gate, host).await
        };
        match (tried.await, waits.next()) {
            (Ok(()), _) => return Ok(()),
            (Err(error), Some(seconds)) if !is_away(&error) => {
                tracing::warn!("{error:#}; trying again in {seconds} s");
                tokio::time::sleep(Duration::from_secs(*seconds)).await;
            }
            (Err(error), _) => return Err(error),
        }
    }
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

/// Whether every routed service of the release runs as it is wanted.
async fn runs_as_wanted(env: &Env, release: &Release, host: &Host) -> bool {
    let stack = match stack::load(env, host) {
        Ok(stack) => stack,
        // A file that was broken meanwhile does not take down what runs.
        Err(_) => return routed_run(env, release, host).await,
    };
    let Ok(images) = update::references(&stack, release) else { return false };
    let Ok(pending) = apply::pending(&stack, &images, host, Occasion::Mend).await else { return false };
    // A service without a route may be down without a visitor noticing; the loop sees to it.
    let is_routed = |action: &Action| release.routes.iter().any(|route| action.service() == Some(&route.service));
    !pending.actions.iter().any(is_routed)
}

async fn routed_run(env: &Env, release: &Release, host: &Host) -> bool {
    let Ok(containers) = host.docker().containers(env.app.name.as_str(), Look::Quick).await else { return false };
    let runs =
        |service: &str| containers.iter().any(|container| container.service() == service && container.is_running());
    release.routes.iter().all(|route| runs(&route.service))
}

/// An error that ends the run, unless it is one already, or Docker went away.
fn with_halt(error: anyhow::Error, title: &str) -> anyhow::Error {
    // A broken file is the operator's to mend: what runs is left alone.
    let is_broken = error.downcast_ref::<crate::env::BrokenFile>().is_some();
    if is_broken || is_away(&error) || error.is::<VolumeMissing>() || error.downcast_ref::<Halt>().is_some() {
        return error;
    }
    Halt::failed(title, format!("{error:#}")).into()
}
