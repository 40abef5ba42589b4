//! From nothing to a running app: flag and env; then for each app Docker, the host's steps, the release, its containers, the gate.

use super::board::Board;
use super::find::{Chosen, find};
use super::releases::{self, Running};
use super::up::{bring_up_good, routed_run, runs_as_wanted, wait_for_front};
use super::waiting::{Again, DOCKER, wait_for_docker, wait_for_volumes};
use crate::backup;
use crate::env::{BrokenFile, Env};
use crate::error::Halt;
use crate::host::docker::is_away;
use crate::host::{Host, Own, UnitState};
use crate::prepare::{self, VolumeMissing, Wanted, prepare};
use crate::report::{page, sentry};
use crate::source::Found;
use crate::stack::actions::Occasion;
use crate::stack::manner::Beside;
use crate::stack::probe::{Gate, Rigour};
use crate::stack::{self, Stack, stopped, surroundings};
use crate::state::flags::Flag;
use crate::state::{HostLock, InFlight, Ledger, Release, StackLock, Status, Touched, moved};
use crate::update;
use crate::value::{Event, Stage, Step};
use anyhow::Result;
use std::time::Duration;
use tokio::time::Instant;

/// How long the start waits for another command that holds the lock: longer than a migration may take.
const PATIENCE: Duration = Duration::from_secs(25 * 3600);

/// After how long a start that stumbled is tried again. What is wrong for a moment (a unit that systemd was too busy to start, a disk that
/// was full, a call that Docker did not understand) is no reason to leave an app down until somebody looks.
const AGAIN_S: [u64; 4] = [1, 2, 4, 8];
/// A start that has taken so long is not tried again: what it waited for has had its time.
const LONGEST: Duration = Duration::from_secs(30 * 60);

/// Something went wrong about the host, and may go well another time.
#[derive(Debug)]
struct Stumble {
    title: &'static str,
    text: String,
}

impl std::fmt::Display for Stumble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.title, self.text)
    }
}

impl std::error::Error for Stumble {}

/// Does something again after a stumble, a while later each time. `what` is told whether it is the last try.
///
/// # Errors
/// [`Halt`], or what another try would meet as well.
async fn persistently<T>(what: impl AsyncFn(bool) -> Result<T>) -> Result<T> {
    let (begin, mut waits) = (Instant::now(), AGAIN_S.iter());
    loop {
        let wait = waits.next().filter(|_| begin.elapsed() < LONGEST);
        let error = match what(wait.is_none()).await {
            Err(error) if !is_final(&error) => error,
            ended => return ended,
        };
        let Some(seconds) = wait else {
            return Err(match error.downcast::<Stumble>() {
                Ok(Stumble { title, text }) => Halt::failed(title, text).into(),
                Err(other) => other,
            });
        };
        tracing::warn!("{error:#}; starting again in {seconds} s");
        tokio::time::sleep(Duration::from_secs(*seconds)).await;
    }
}

/// Whether an error is one that the next try would meet as well.
fn is_final(error: &anyhow::Error) -> bool {
    error.is::<Halt>() || error.is::<BrokenFile>() || error.is::<Again>()
}

/// Finds the env that the host is to run by.
///
/// # Errors
/// [`Halt`], also where the env or the failed flag says that nothing is to run; or a broken env.
pub async fn choose(host: &Host, env_yml: Option<&str>, board: &Board) -> Result<Box<Found>> {
    persistently(async |_| try_to_choose(host, env_yml, board).await).await
}

async fn try_to_choose(host: &Host, env_yml: Option<&str>, board: &Board) -> Result<Box<Found>> {
    if let Some(reason) = Flag::Host.failed(host)? {
        let text = format!("{reason}\nMend it, then run: appliance recover --start");
        return Err(Halt::failed("The appliance had failed before", text).into());
    }
    let _lock = HostLock::take(host, "run", PATIENCE).await?;
    moved::take_over(host)?;
    let Chosen { found, trouble } = find(host, env_yml).await?;
    let env = found.envs.host();
    board.keep(sentry::start(env, host));
    if let Some(trouble) = &trouble {
        tracing::error!("{trouble}");
    }
    tell_of_put_back(host)?;
    board.describe(|status| {
        if env.tenant.is_alone() {
            describe(env, status);
        }
        status.supervises = found.envs.roster();
        status.source = Some(found.origin.clone());
        status.warnings = trouble.into_iter().collect();
        status.warnings.extend(found.report.warnings().map(|warning| warning.render(&found.origin)));
    });
    if env.appliance.standby {
        prepare::page::prepare(&env.tenant, host).await?;
        return Err(Halt::standby(
            "appliance.standby is set",
            "set it to false in env.yml, then run: systemctl restart appliance",
        )
        .into());
    }
    Ok(found)
}

/// Says in a status whose it is.
pub(super) fn describe(env: &Env, status: &mut Status) {
    status.app = Some(env.app.name.as_str().to_owned());
    status.url = Some(format!("https://{}/", env.appliance.domain));
}

/// Brings one app up, and what it needs of the host.
///
/// # Errors
/// [`Halt`], a broken compose file, or [`Again`].
pub async fn start(host: &Host, found: &Found, env: &Env, board: &Board) -> Result<Running> {
    persistently(async |is_last| try_start(host, found, env, board, is_last).await).await
}

/// One try. In the last one, what already runs goes on although the host could not be prepared for it.
async fn try_start(host: &Host, found: &Found, env: &Env, board: &Board, is_last: bool) -> Result<Running> {
    let lock = StackLock::take_of(host, &env.app.name, "run", PATIENCE).await?;
    let wanted = Wanted { env, text: &found.bytes };
    loop {
        // Watched before it is looked at, so that nothing that is mounted in between is missed.
        let (mut mounts, mut devices) = (host.watch_mounts()?, host.watch("/dev", &[])?);
        let up = match before_docker(wanted, host, board).await {
            Ok(()) => {
                wait_for_docker(host, board).await?;
                BringUp { found, wanted, host, board, lock: &lock, is_last, is_prepared: true }.run().await
            }
            Err(error) => Err(error),
        };
        match up {
            // It went away in the middle: everything can be begun again once it is back.
            Err(error) if is_away(&error) => {
                tracing::warn!("{error:#}; waiting for it");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
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
            Ok(Up { stack, release, is_prepared }) => {
                return Ok(Running { env: env.clone(), stack, release, settled: None, is_prepared });
            }
        }
    }
}

/// What Docker itself needs: its volume, and that nothing is left half-moved.
async fn before_docker(wanted: Wanted<'_>, host: &Host, board: &Board) -> Result<()> {
    let env = wanted.env;
    let is_in_order = !prepare::is_moving(host) && !prepare::is_docker_homeless(host);
    if !is_in_order || prepare::missing_volumes(env, host).await?.is_some() {
        board.show_page();
        let _lock = HostLock::take(host, "run", PATIENCE).await?;
        prepare::page::prepare(&env.tenant, host).await?;
        let prepared = prepare(wanted, host, Some(Step::Storage), &mut |step| board.step(step)).await;
        board.steps_ended(prepared.is_ok());
        prepared.map_err(|error| stumble(error, "The host could not be prepared"))?;
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

/// One try to bring a release up.
struct BringUp<'a> {
    found: &'a Found,
    wanted: Wanted<'a>,
    host: &'a Host,
    board: &'a Board,
    lock: &'a StackLock,
    is_last: bool,
    /// Nothing of the host had to be left as it was.
    is_prepared: bool,
}

/// What came up.
struct Up {
    stack: Stack,
    release: Release,
    is_prepared: bool,
}

impl BringUp<'_> {
    async fn run(mut self) -> Result<Up> {
        let (env, host, board) = (self.wanted.env, self.host, self.board);
        let occasion = self.prepare().await?;
        // What a killed update left is finished or undone before anything is started.
        releases::recover(env, host, board, self.lock)
            .await
            .map_err(|error| with_halt(error, "An update could not be undone"))?;
        if occasion == Occasion::Start {
            board.show_page();
        }
        let mut ledger = Ledger::read_for(host, &env.app.name)?;
        let first = ledger.current.is_none();
        let (stack, mut release) = match ledger.current.clone() {
            Some(release) => self.known(release, &mut ledger, occasion).await?,
            None => self.first(&mut ledger).await?,
        };
        board.describe(|status| status.commit = Some(release.commit.as_str().to_owned()));
        self.try_out(&stack, &release, &mut ledger, occasion, first).await?;
        // It does not run with an env that the host could not be prepared for.
        if first || self.is_prepared && release.ran_with() != env.digest {
            release.runs_with = Some(env.digest.clone());
            ledger.current = Some(release.clone());
            ledger.in_flight.take_if(|_| first);
            ledger.write(host, &env.app.name)?;
            // The packet filter learns the ports of the routes before nginx asks there; those of a release that was known it has.
            let admitted = prepare::admit_networks(env, host).await;
            self.go_on(occasion, admitted, "The packet filter could not be set up for the app")?;
        }
        let host_lock = HostLock::take(host, "run", PATIENCE).await?;
        let served = prepare(self.wanted, host, Some(Step::Nginx), &mut |_| ()).await;
        drop(host_lock);
        // Only now are the routes known to lead somewhere; the configuration that nginx has may serve them as well.
        let may_go_on = if first { Occasion::Start } else { Occasion::Mend };
        self.go_on(may_go_on, served, "nginx could not be set up for the app")?;
        match release.routes.is_empty() {
            // Nothing is served, so there is nothing to wait for.
            true => page::clear(host, Some(&env.tenant))?,
            false => wait_for_front(env, host).await?,
        }
        board.event(Event::Up);
        update::settle_soon(env, host);
        // What is left over costs room, not the app.
        if let Err(error) = clean_up(env, host).await {
            tracing::warn!("{error:#}");
        }
        Ok(Up { stack, release, is_prepared: self.is_prepared })
    }

    /// In the last try, an app that runs already goes on although something about the host failed: it is told, and nothing is taken down.
    fn go_on(&mut self, occasion: Occasion, done: Result<()>, title: &'static str) -> Result<()> {
        match done.map_err(|error| stumble(error, title)) {
            Err(error) if occasion == Occasion::Mend && self.is_last && error.is::<Stumble>() => {
                tracing::error!("{error:#}; the app runs on");
                sentry::critical(self.host, "The host could not be prepared; the app runs on", &format!("{error:#}"));
                self.is_prepared = false;
                Ok(())
            }
            other => other,
        }
    }

    fn progress(&self, what: &str) {
        self.board.event(Event::StartBegins(what.to_owned()));
    }

    /// Prepares the host. Gives back whether everything is to be started, or the app runs already.
    async fn prepare(&mut self) -> Result<Occasion> {
        let (env, host, board) = (self.wanted.env, self.host, self.board);
        let ledger = Ledger::refuse_others(host, &env.tenant).and_then(|()| Ledger::read_for(host, &env.app.name));
        let ledger = ledger.map_err(|error| with_halt(error, "The ledger cannot be used"))?;
        // A supervisor that was replaced finds its app running: visitors must not notice.
        let up_already = match &ledger.current {
            // The files are those of a release on its way.
            Some(release) if ledger.in_flight.is_some() => routed_run(env, release, host).await,
            Some(release) => runs_as_wanted(env, release, host).await,
            None => false,
        };
        if !up_already {
            board.show_page();
            stopped::write(&Default::default(), host, &env.app.name)?;
            stopped::give_up(&Default::default(), host, &env.app.name)?;
        }
        let host_lock = HostLock::take(host, "run", PATIENCE).await?;
        let prepared = prepare(self.wanted, host, None, &mut |step| board.step(step)).await;
        drop(host_lock);
        board.steps_ended(prepared.is_ok());
        let occasion = if up_already { Occasion::Mend } else { Occasion::Start };
        self.go_on(occasion, prepared, "The host could not be prepared")?;
        Ok(occasion)
    }

    async fn known(
        &mut self,
        mut release: Release,
        ledger: &mut Ledger,
        occasion: Occasion,
    ) -> Result<(Stack, Release)> {
        const TITLE: &str = "The release cannot be brought up";
        let (env, host, board) = (self.wanted.env, self.host, self.board);
        let restored = update::restore_checkout(env, &release, host).await;
        self.go_on(occasion, restored, TITLE)?;
        let stack = stack::load(env, host).map_err(|error| stumble(error, TITLE))?;
        let is_free = update::refuse_conflicts(env, &stack, &self.found.envs, host);
        self.go_on(occasion, is_free, TITLE)?;
        let progress = |what: &str| board.event(Event::StartBegins(what.to_owned()));
        let there = update::ensure_images(&stack, &mut release, ledger, host, &progress).await;
        self.go_on(occasion, there, TITLE)?;
        let around = async {
            surroundings::ensure(&stack, host).await?;
            prepare::admit_networks(env, host).await
        };
        self.go_on(occasion, around.await, TITLE)?;
        Ok((stack, release))
    }

    async fn first(&self, ledger: &mut Ledger) -> Result<(Stack, Release)> {
        let (env, host, lock) = (self.wanted.env, self.host, self.lock);
        let progress = |what: &str| self.progress(what);
        backup::beginning::refuse(env, &self.found.envs, host).await?;
        let mut built = update::first(env, ledger, host, lock, &progress).await?;
        update::refuse_conflicts(env, &built.stack, &self.found.envs, host)
            .map_err(|error| with_halt(error, "The app is in the way of another one"))?;
        surroundings::ensure(&built.stack, host).await?;
        prepare::admit_networks(env, host).await?;
        // It has one try, too.
        let migrated = update::migrate(env, &mut built, ledger, host, lock, &progress).await;
        migrated.map_err(|error| with_halt(error, "The migration failed"))?;
        let database = ledger.in_flight.as_ref().map(|flight| flight.database).unwrap_or_default();
        ledger.in_flight =
            Some(InFlight { database, ..InFlight::at(Some(built.release.commit.clone()), Stage::Start, host) });
        ledger.write(host, &env.app.name)?;
        Ok((built.stack, built.release))
    }

    /// Starts what must run, and waits until it is good.
    async fn try_out(
        &self,
        stack: &Stack,
        release: &Release,
        ledger: &mut Ledger,
        occasion: Occasion,
        first: bool,
    ) -> Result<()> {
        let (env, host) = (self.wanted.env, self.host);
        let gate = Gate {
            stack,
            routes: &release.routes,
            domain: env.appliance.domain.as_str(),
            vital: &release.vital(&env.app.critical),
            rigour: if first { Rigour::New } else { Rigour::Known },
            stopped: &stopped::read(host, &env.app.name)?,
            beside: &Beside::default(),
        };
        let good = async {
            bring_up_good(&gate, release, occasion, host, &|what| self.progress(what)).await?;
            if first { update::probes(env, stack, &release.routes, gate.beside, host).await } else { Ok(()) }
        };
        let Err(error) = good.await else { return Ok(()) };
        if first && !is_away(&error) {
            ledger.remember_failed(release.commit.clone());
            // A database that it has migrated is put back by the next start, once the stack is stopped.
            ledger.in_flight.take_if(|flight| flight.database == Touched::No);
            ledger.write(host, &env.app.name)?;
        }
        Err(with_halt(error, "The app did not come up"))
    }
}

/// Removes images that no release needs, unless an update is under way: somebody may have begun one since the start read the ledger.
async fn clean_up(env: &Env, host: &Host) -> Result<()> {
    let ledger = Ledger::read_for(host, &env.app.name)?;
    if ledger.in_flight.is_none() { update::clean_up(&env.app.name, &ledger, host).await } else { Ok(()) }
}

/// An error that ends the run, unless it is one already, or Docker went away.
fn with_halt(error: anyhow::Error, title: &str) -> anyhow::Error {
    if is_plain(&error) { Halt::failed(title, format!("{error:#}")).into() } else { error }
}

/// An error after which the start is tried again, unless it is final, or something is waited for.
fn stumble(error: anyhow::Error, title: &'static str) -> anyhow::Error {
    if is_plain(&error) { Stumble { title, text: format!("{error:#}") }.into() } else { error }
}

/// Whether nobody goes by what kind of error it is. A broken file is the operator's to mend: what runs is left alone.
fn is_plain(error: &anyhow::Error) -> bool {
    !(error.is::<BrokenFile>() || is_away(error) || error.is::<VolumeMissing>() || error.is::<Halt>())
}
