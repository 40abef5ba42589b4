//! Going back to the release that the ledger calls the current one, and finishing what a killed update left: undone up to the stage
//! switch, finished from there on.

use super::databases::Databases;
use super::{Reporter, UpdateEvent, dump, image, leftover, release, restore, switch};
use crate::env::Env;
use crate::host::{Host, UnitState};
use crate::prepare::postgres::change;
use crate::prepare::{self, nginx};
use crate::stack::actions::Occasion;
use crate::stack::beside;
use crate::stack::manner::Beside;
use crate::stack::probe::{Gate, Rigour, wait_until_good};
use crate::stack::{self, apply, stop};
use crate::state::flags::Flag;
use crate::state::{InFlight, Ledger, Release, StackLock, Touched, UpdateLock, halted, history};
use crate::value::Stage;
use anyhow::{Context, Result, bail};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::Instant;

/// How long the old release may take to be good, and after how long it is looked at again for what has ended meanwhile.
const COMES_UP: Duration = Duration::from_secs(600);
const LOOK_AGAIN: Duration = Duration::from_secs(15);
/// How long Docker may take to come back.
const DOCKER: Duration = Duration::from_secs(120);
/// How long going back waits for another command.
const PATIENCE: Duration = Duration::from_secs(600);

/// What became of an update that was cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recovered {
    /// There was none.
    Nothing,
    /// It is finished or undone.
    Done,
    /// It is still to be finished or undone: the appliance is stopped, and its next start does it. Nothing else may begin before.
    Waiting(Stage),
}

/// Finishes or undoes what a killed update left. The first release is not one: the next start begins it again.
pub async fn recover(env: &Env, host: &Host, _alone: &UpdateLock, reporter: Reporter<'_>) -> Result<Recovered> {
    let ledger = Ledger::read_for(host, &env.app.name)?;
    let (Some(flight), Some(_)) = (ledger.in_flight, ledger.current) else { return Ok(Recovered::Nothing) };
    if !is_wanted(env, host).await {
        return Ok(Recovered::Waiting(flight.stage));
    }
    let lock = StackLock::take_of(host, &env.app.name, "recover", PATIENCE).await?;
    recover_locked(env, host, &lock, reporter).await?;
    Ok(Recovered::Done)
}

/// [`recover`], for those who begin something of their own then.
///
/// # Errors
/// What was cut off waits for the next start.
pub async fn recover_first(env: &Env, host: &Host, alone: &UpdateLock, reporter: Reporter<'_>) -> Result<()> {
    match recover(env, host, alone, reporter).await? {
        Recovered::Nothing | Recovered::Done => Ok(()),
        Recovered::Waiting(stage) => bail!(
            "an update was cut off in its stage {stage}, and the appliance is stopped; its next start finishes or undoes that: systemctl \
             start appliance"
        ),
    }
}

/// Whether the app is to run at all: stopped by hand, nothing of it is brought up; the next start goes on with it. Where systemd does
/// not answer, nobody can have asked it to stop the app.
pub async fn is_wanted(env: &Env, host: &Host) -> bool {
    is_to_run(env, host) && host.unit_state("appliance.service").await.map_or(true, |state| state == UnitState::Active)
}

/// Whether one of several apps is to run: enabled, neither stopped nor failed. One that has the host to itself is asked of systemd.
pub fn is_to_run(env: &Env, host: &Host) -> bool {
    let has_failed = || Flag::from(&env.tenant).failed(host).is_ok_and(|reason| reason.is_some());
    env.tenant.is_alone() || env.app.is_enabled && !halted::is_halted(host, &env.app.name) && !has_failed()
}

/// # Errors
/// Somebody has stopped the appliance, or this app: nothing of the app may come up.
pub async fn ensure_wanted(env: &Env, host: &Host) -> Result<()> {
    match is_wanted(env, host).await {
        true => Ok(()),
        false => bail!("the appliance, or the app, was stopped"),
    }
}

/// [`recover`], by whoever holds the lock already and knows that no update lives.
pub async fn recover_locked(env: &Env, host: &Host, _lock: &StackLock, reporter: Reporter<'_>) -> Result<bool> {
    let mut ledger = Ledger::read_for(host, &env.app.name)?;
    let (Some(flight), Some(current)) = (ledger.in_flight.clone(), ledger.current.clone()) else { return Ok(false) };
    tracing::warn!("an update was cut off in its stage {}", flight.stage);
    match flight.stage {
        Stage::Fetch | Stage::Build => {
            release::restore_checkout(env, &current, host).await?;
            ledger.in_flight = None;
            ledger.write(host, &env.app.name)?;
        }
        Stage::Switch => {
            reporter.stage(Stage::Switch);
            release::restore_checkout(env, &current, host).await?;
            let stack = stack::load(env, host)?;
            switch::admit(env, &stack, host).await?;
            switch::forward(env, &stack, &current, flight.database, host, reporter).await?;
            (reporter.0)(UpdateEvent::Served);
            ledger.in_flight = None;
            ledger.write(host, &env.app.name)?;
            if let Err(error) = dump::forget_failed(env, host).await {
                tracing::warn!("{error:#}");
            }
        }
        Stage::Packages => go_on(env, &mut ledger, host, reporter).await?,
        Stage::Dump | Stage::Migrate | Stage::Start | Stage::Gate | Stage::Undo => {
            let why = flight.why.clone();
            undo(env, &mut ledger, host, reporter, why).await?;
        }
    }
    if let Err(error) = leftover::clean_up(&env.app.name, &ledger, host).await {
        tracing::warn!("{error:#}");
    }
    Ok(true)
}

/// Stops the app for something about the host, with the status page meanwhile; in the ledger first. [`come_up`] ends it.
pub async fn stop_app(env: &Env, host: &Host, reporter: Reporter<'_>) -> Result<Ledger> {
    let mut ledger = Ledger::read_for(host, &env.app.name)?;
    if let Some(flight) = &ledger.in_flight {
        bail!("an update is still in its stage {}; nothing else is begun over it", flight.stage);
    }
    stop_for_packages(env, &mut ledger, host, reporter).await?;
    Ok(ledger)
}

/// [`stop_app`], where it may be stopped for something about the host already.
pub async fn stop_app_again(env: &Env, host: &Host, reporter: Reporter<'_>) -> Result<Ledger> {
    let mut ledger = Ledger::read_for(host, &env.app.name)?;
    if let Some(flight) = ledger.in_flight.as_ref().filter(|flight| flight.stage != Stage::Packages) {
        bail!("an update is still in its stage {}; nothing else is begun over it", flight.stage);
    }
    stop_for_packages(env, &mut ledger, host, reporter).await?;
    Ok(ledger)
}

async fn stop_for_packages(env: &Env, ledger: &mut Ledger, host: &Host, reporter: Reporter<'_>) -> Result<()> {
    let commit = ledger.current.as_ref().map(|current| current.commit.clone());
    ledger.in_flight = Some(InFlight::at(commit, Stage::Packages, host));
    ledger.write(host, &env.app.name)?;
    reporter.stage(Stage::Packages);
    (reporter.0)(UpdateEvent::Page);
    let stack = stack::load(env, host)?;
    stop::stop(Some(&stack), env.app.name.as_str(), host).await
}

/// The app runs again after it was stopped for something about the host; its database is as the host has it now.
pub async fn come_up(env: &Env, ledger: &mut Ledger, host: &Host, reporter: Reporter<'_>) -> Result<()> {
    prepare::database_again(env, host).await?;
    ensure_wanted(env, host).await.context("the app stays down, and the next start brings it up")?;
    undo(env, ledger, host, reporter, None).await
}

/// What was stopped for an upgrade comes up again; of a killed one, what dpkg had begun is ended first.
async fn go_on(env: &Env, ledger: &mut Ledger, host: &Host, reporter: Reporter<'_>) -> Result<()> {
    if let Err(error) = host.heal_packages().await {
        tracing::error!("{error:#}; see: dpkg --configure -a");
    }
    come_up_after_packages(env, ledger, host, reporter).await
}

/// [`come_up`], once Docker is back.
pub async fn come_up_after_packages(env: &Env, ledger: &mut Ledger, host: &Host, reporter: Reporter<'_>) -> Result<()> {
    let end = Instant::now() + DOCKER;
    while let Err(error) = host.docker().ping().await {
        if Instant::now() >= end {
            bail!("Docker does not come back after its upgrade: {error:#}");
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    // Of a killed upgrade of PostgreSQL there may be something to end.
    change::finish(host).await?;
    come_up(env, ledger, host, reporter).await
}

/// The env that a release runs with, if that is another one than the active env and still kept: what the operator has changed since
/// may be why it is gone back.
fn env_of(release: &Release, env: &Env, host: &Host) -> Option<Env> {
    let digest = release.ran_with();
    if digest == env.digest {
        return None;
    }
    kept_env(digest, env, host).unwrap_or_else(|error| {
        tracing::warn!("{error:#}; going back with the env that is active now");
        None
    })
}

/// The newest env of the history that says to this app what has this digest.
fn kept_env(digest: &str, env: &Env, host: &Host) -> Result<Option<Env>> {
    let seen = |text: &[u8]| Env::parse(text).envs.and_then(|envs| envs.of(&env.app.name).cloned());
    // That of an app that has, or had, the host to itself is the file's own.
    if let Some(text) = history::by_digest(host, digest)? {
        return Ok(seen(&text));
    }
    if env.tenant.is_alone() {
        return Ok(None);
    }
    for kept in history::list(host)?.iter().rev() {
        if let Some(then) = seen(&history::read(host, kept)?).filter(|then| then.digest == digest) {
            return Ok(Some(then));
        }
    }
    Ok(None)
}

/// Brings back the current release of the ledger, database included if it was touched. Run again, it goes on. With a reason, the
/// commit that it goes back from is remembered as one that failed.
pub async fn undo(
    env: &Env,
    ledger: &mut Ledger,
    host: &Host,
    reporter: Reporter<'_>,
    why: Option<String>,
) -> Result<()> {
    let mut current = ledger.current.clone().context("there is no release to go back to")?;
    let own_env = env_of(&current, env, host);
    let env_then = own_env.as_ref().unwrap_or(env);
    let flight = ledger.in_flight.clone().unwrap_or_else(|| InFlight::at(None, Stage::Undo, host));
    let database = flight.database;
    // What comes up again after the host's packages was not gone back to.
    let stage = if flight.stage == Stage::Packages { Stage::Packages } else { Stage::Undo };
    ledger.in_flight = Some(InFlight { stage, why: why.clone(), ..flight.clone() });
    ledger.write(host, &env.app.name)?;
    reporter.stage(stage);
    let progress = |what: &str| reporter.doing(what);

    switch::to_own(&env.tenant, host)?;
    release::restore_checkout(env_then, &current, host).await?;
    let stack = stack::load(env_then, host)?;
    beside::drop_all(&stack, host).await?;
    if database == Touched::Copying {
        Databases::of(env, host)?.leave_copying().await?;
    }
    let dump = match database {
        Touched::No | Touched::Copying | Touched::Again => None,
        Touched::Migrated => Some(dump::pending(&env.app.name)),
        Touched::Left => Some(dump::path(&env.app.name)),
    };
    if let Some(dump) = dump {
        (reporter.0)(UpdateEvent::Page);
        switch::stop_writers(env, &stack, host).await?;
        reporter.doing("putting the database back");
        restore::put_back(env, &dump, host).await?;
    }
    // Names that went over to the new images come back.
    let known = current.images.clone();
    current.images = image::make(&stack, &current.commit, image::Purpose::Known(&known), host, &progress).await?;
    switch::admit(env, &stack, host).await?;
    apply::up(&stack, &current.images, host, Occasion::Start, &progress).await?;
    let none = BTreeSet::new();
    let vital = current.vital(&env_then.app.critical);
    let gate = Gate {
        stack: &stack,
        routes: &current.routes,
        domain: env.appliance.domain.as_str(),
        vital: &vital,
        rigour: Rigour::Known,
        stopped: &none,
        beside: &Beside::default(),
    };
    let end = Instant::now() + COMES_UP;
    loop {
        let waited = tokio::time::timeout(LOOK_AGAIN, wait_until_good(&gate, host)).await;
        match waited {
            Ok(good) => break good.context("the old release does not come up")?,
            Err(late) if Instant::now() >= end => return Err(late).context("the old release does not come up"),
            // What a killed update had told Docker to stop still ran when it was looked at; by now it may have ended.
            Err(_) => apply::up(&stack, &current.images, host, Occasion::Mend, &progress).await?,
        }
    }
    nginx::ensure_site(env, host).await?;
    (reporter.0)(UpdateEvent::Served);
    if let Some(commit) = flight.commit.filter(|_| why.is_some()) {
        ledger.remember_failed(commit);
    }
    ledger.current = Some(current);
    ledger.in_flight = None;
    ledger.write(host, &env.app.name)?;
    match database {
        // It has another database now; one whose way back is still needed was not touched.
        Touched::Migrated => host.discard(&dump::pending(&env.app.name)),
        _ => Ok(()),
    }
}
