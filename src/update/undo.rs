//! Going back to the release that the ledger calls the current one, and finishing what a killed update left: undone up to the stage
//! switch, finished from there on.

use super::{News, Told, dump, image, packages, release, switch};
use crate::env::Env;
use crate::host::{Host, UnitState};
use crate::prepare::{self, nginx};
use crate::stack::actions::Occasion;
use crate::stack::beside;
use crate::stack::manner::Beside;
use crate::stack::probe::{Gate, Rigour, wait_until_good};
use crate::stack::{self, apply, stop};
use crate::state::{InFlight, Ledger, Lock, Touched};
use crate::value::Stage;
use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::Instant;

/// How long the old release may take to be good, and after how long it is looked at again for what has ended meanwhile.
const COMES_UP: Duration = Duration::from_secs(600);
const LOOK_AGAIN: Duration = Duration::from_secs(15);
/// How long going back waits for another command.
const PATIENCE: Duration = Duration::from_secs(600);

/// Finishes or undoes what a killed update left; gives back whether there was something. The first release is not one: the next
/// start begins it anew.
pub async fn recover(env: &Env, host: &Host, _alone: &Lock, news: News<'_>) -> Result<bool> {
    let pending = |ledger: &Ledger| ledger.in_flight.is_some() && ledger.current.is_some();
    if !pending(&Ledger::read_for(host, &env.app.name)?) {
        return Ok(false);
    }
    if !is_wanted(host).await {
        return Ok(false);
    }
    let lock = Lock::take(host, "recover", PATIENCE).await?;
    recover_locked(env, host, &lock, news).await
}

/// Whether the app is to run at all: stopped by hand, nothing of it is brought up; the next start goes on with it.
pub async fn is_wanted(host: &Host) -> bool {
    // Where systemd does not answer, nobody can have asked it to stop the app.
    host.unit_state("appliance.service").await.is_ok_and(|state| state == UnitState::Active)
}

/// [`recover`], by whoever holds the lock already and knows that no update lives.
pub async fn recover_locked(env: &Env, host: &Host, _lock: &Lock, news: News<'_>) -> Result<bool> {
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
            news.stage(Stage::Switch);
            release::restore_checkout(env, &current, host).await?;
            let stack = stack::load(env, host)?;
            switch::admit(env, &stack, host).await?;
            switch::forward(env, &stack, &current, flight.database, host, news).await?;
            (news.0)(Told::Served);
            ledger.in_flight = None;
            ledger.write(host, &env.app.name)?;
            if let Err(error) = dump::forget_failed(env, host).await {
                tracing::warn!("{error:#}");
            }
        }
        Stage::Packages => packages::go_on(env, &mut ledger, host, news).await?,
        Stage::Dump | Stage::Migrate | Stage::Start | Stage::Gate | Stage::Undo => {
            let why = flight.why.clone();
            undo(env, &mut ledger, host, news, why).await?;
        }
    }
    if let Err(error) = image::clean_up(&env.app.name, &ledger, host).await {
        tracing::warn!("{error:#}");
    }
    Ok(true)
}

/// Stops the app for something about the host, with the status page meanwhile; in the ledger first. [`come_up`] ends it.
pub async fn stop_app(env: &Env, host: &Host, news: News<'_>) -> Result<Ledger> {
    let mut ledger = Ledger::read_for(host, &env.app.name)?;
    let commit = ledger.current.as_ref().map(|current| current.commit.clone());
    ledger.in_flight = Some(InFlight::at(commit, Stage::Packages, host));
    ledger.write(host, &env.app.name)?;
    news.stage(Stage::Packages);
    (news.0)(Told::Page);
    let stack = stack::load(env, host)?;
    stop::stop(Some(&stack), env.app.name.as_str(), host).await?;
    Ok(ledger)
}

/// The app runs again after it was stopped for something about the host; its database is as the host has it now.
pub async fn come_up(env: &Env, ledger: &mut Ledger, host: &Host, news: News<'_>) -> Result<()> {
    prepare::database_again(env, host).await?;
    undo(env, ledger, host, news, None).await
}

/// Brings back the current release of the ledger, database included if it was touched. Run again, it goes on. With a reason, the
/// commit that it goes back from is remembered as one that failed.
pub async fn undo(env: &Env, ledger: &mut Ledger, host: &Host, news: News<'_>, why: Option<String>) -> Result<()> {
    let current = ledger.current.clone().context("there is no release to go back to")?;
    let flight = ledger.in_flight.clone().unwrap_or_else(|| InFlight::at(None, Stage::Undo, host));
    let database = flight.database;
    // What comes up again after the host's packages was not gone back to.
    let stage = if flight.stage == Stage::Packages { Stage::Packages } else { Stage::Undo };
    ledger.in_flight = Some(InFlight { stage, why: why.clone(), ..flight.clone() });
    ledger.write(host, &env.app.name)?;
    news.stage(stage);
    let progress = |what: &str| news.doing(what);

    switch::to_own(host)?;
    release::restore_checkout(env, &current, host).await?;
    let stack = stack::load(env, host)?;
    beside::drop_all(&stack, host).await?;
    let dump = match database {
        Touched::No => None,
        Touched::Migrated => Some(dump::pending(&env.app.name)),
        Touched::Left => Some(dump::path(&env.app.name)),
    };
    if let Some(dump) = dump {
        (news.0)(Told::Page);
        switch::stop_writers(env, &stack, host).await?;
        news.doing("putting the database back");
        dump::restore(env, &dump, host).await?;
    }
    // Names that went over to the new images come back.
    image::make(&stack, &current.commit, image::Purpose::Known, host, &progress).await?;
    switch::admit(env, &stack, host).await?;
    apply::up(&stack, &current.images, host, Occasion::Start, &progress).await?;
    let none = BTreeSet::new();
    let vital: Vec<&str> = current.routes.iter().map(|route| route.service.as_str()).collect();
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
    (news.0)(Told::Served);
    if let Some(commit) = flight.commit.filter(|_| why.is_some()) {
        ledger.remember_failed(commit);
    }
    ledger.in_flight = None;
    ledger.write(host, &env.app.name)?;
    dump::forget_pending(&env.app.name, host)
}
