//! An update: its stages in their order, each in the ledger before it begins. Up to the stage switch it is undone when something
//! fails; from there on it is finished.

use super::decide::{Decision, Facts, Waiting, Wish, asks_for_migration, decide};
use super::git::{self, Fetched};
use super::release::{self, Built};
use super::{News, Told, dump, image, switch, undo};
use crate::env::Env;
use crate::error::Halt;
use crate::host::Host;
use crate::prepare::nginx;
use crate::report::sentry;
use crate::stack::actions::Occasion;
use crate::stack::beside::{self, Beside};
use crate::stack::probe::{Gate, Rigour, wait_until_good};
use crate::stack::{self, Stack, apply};
use crate::state::{Attempt, InFlight, Ledger, Lock, Release, Touched};
use crate::value::{Commit, Stage};
use anyhow::{Context, Result, bail};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

/// How long an update waits for another command.
const PATIENCE: Duration = Duration::from_secs(600);
/// What stays free on a file system whatever an update needs, in bytes.
const RESERVE: u64 = 200 << 20;

/// How an update ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Nothing { commit: Commit },
    Refused { commit: Commit },
    Done { commit: Commit, migrated: bool },
}

/// The stage that is going on, and how long the ones before took.
struct Clock {
    stage: Stage,
    since: Instant,
    took_ms: BTreeMap<Stage, u64>,
}

/// One update on its way.
struct Run<'a> {
    env: &'a Env,
    host: &'a Host,
    news: News<'a>,
    ledger: Ledger,
    clock: Clock,
    /// See [`Wish`].
    back: bool,
}

impl Run<'_> {
    /// In the ledger first, then told.
    fn begin(&mut self, stage: Stage, commit: Option<&Commit>, database: Touched) -> Result<()> {
        self.ledger.in_flight = Some(InFlight { database, ..InFlight::at(commit.cloned(), stage, self.host) });
        self.write()?;
        self.told(stage);
        Ok(())
    }

    fn told(&mut self, stage: Stage) {
        let took = u64::try_from(self.clock.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        *self.clock.took_ms.entry(self.clock.stage).or_default() += took;
        (self.clock.stage, self.clock.since) = (stage, Instant::now());
        self.news.stage(stage);
    }

    fn write(&self) -> Result<()> {
        self.ledger.write(self.host, &self.env.app.name)
    }

    fn attempt(&mut self, commit: &Commit, outcome: &str) {
        let took = u64::try_from(self.clock.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        *self.clock.took_ms.entry(self.clock.stage).or_default() += took;
        self.ledger.last = Some(Attempt {
            commit: commit.clone(),
            at: self.host.now(),
            outcome: outcome.to_owned(),
            took_ms: self.clock.took_ms.clone(),
        });
    }

    /// Nothing was put in place: the checkout goes back to what runs.
    async fn give_up(&mut self, commit: &Commit, why: &anyhow::Error, remember: bool) -> Result<()> {
        if let Some(current) = self.ledger.current.clone() {
            release::restore_checkout(self.env, &current, self.host).await?;
        }
        if remember {
            self.ledger.remember_failed(commit.clone());
        }
        self.attempt(commit, &format!("{why:#}"));
        self.ledger.in_flight = None;
        self.write()?;
        clean_up(self).await;
        Ok(())
    }
}

/// The flag by which an operator or a script asks for an update whether or not something is new.
fn flag(env: &Env) -> String {
    format!("/app/etc/flags/force.update.{}", env.app.name)
}

/// Brings the app to the newest wanted state.
///
/// # Errors
/// Something failed; by then the old release runs as before, or the ledger says what is still to be undone.
pub async fn update(env: &Env, mut wish: Wish, host: &Host, news: News<'_>) -> Result<Outcome> {
    let alone = Lock::take_update(host, "update", PATIENCE).await?;
    undo::recover(env, host, &alone, news).await?;
    let ledger = Ledger::read_for(host, &env.app.name)?;
    let current =
        ledger.current.clone().context("there is no release yet: systemctl start appliance makes the first")?;
    wish.force |= host.exists(&flag(env));
    let clock = Clock { stage: Stage::Fetch, since: Instant::now(), took_ms: BTreeMap::new() };
    let mut run = Run { env, host, news, ledger, clock, back: wish.back };
    host.put("/app/etc/tags/update_last_call", format!("{}\n", host.now().as_second()).as_bytes(), 0o644)?;

    run.begin(Stage::Fetch, None, Touched::No)?;
    let directory = stack::checkout(env);
    let fetched = match git::fetch(&env.app, &directory, wish.to.as_ref(), host).await {
        Ok(fetched) => fetched,
        Err(error) => {
            run.ledger.in_flight = None;
            run.write()?;
            return Err(error);
        }
    };
    let target = fetched.target.clone();
    let facts = Facts {
        target: &target,
        is_other: fetched.is_other_than(&current.commit).await?,
        env_changed: env.digest != current.env_digest,
        failed: &run.ledger.failed,
    };
    match decide(&facts, &wish) {
        Decision::Go => {}
        other => {
            run.ledger.in_flight = None;
            run.write()?;
            return Ok(match other {
                Decision::Refused => Outcome::Refused { commit: target },
                _ => Outcome::Nothing { commit: target },
            });
        }
    }
    run.begin(Stage::Build, Some(&target), Touched::No)?;
    let progress = |what: &str| news.doing(what);
    let made = async {
        let needs_migration = needs_migration(env, &fetched, &current, &wish).await?;
        let built = release::build(env, &fetched, host, &progress).await?;
        anyhow::Ok((built, needs_migration))
    };
    let (built, migrates) = match made.await {
        Ok(made) => made,
        Err(error) => {
            let error =
                error.context(format!("the release {} could not be built; the old one runs on", target.short()));
            let remember = !crate::host::docker::is_away(&error);
            run.give_up(&target, &error, remember).await?;
            sentry::critical(host, "An update failed", &format!("{error:#}"));
            return Err(error);
        }
    };
    if let Err(error) = check_room(env, migrates, host).await {
        run.give_up(&target, &error, false).await?;
        sentry::critical(host, "An update was refused", &format!("{error:#}"));
        return Err(error);
    }
    let _lock = Lock::take(host, "update", PATIENCE).await?;
    // Somebody who held the lock in between may have put the old files back.
    release::restore_checkout(env, &built.release, host).await?;
    let placed = if migrates { with_gap(&mut run, &built).await } else { without_gap(&mut run, &built).await };
    let release = match placed {
        Ok(release) => release,
        Err(error) => return Err(fail(&mut run, &built.release.commit, error).await),
    };
    switch::forward(env, &built.stack, &release, host, news).await.with_context(|| {
        format!("the release {} is in place, but not all of it came up; the supervisor goes on with it", target.short())
    })?;
    finish(&mut run, &release).await?;
    Ok(Outcome::Done { commit: release.commit, migrated: release.migrated })
}

async fn needs_migration(env: &Env, fetched: &Fetched<'_>, current: &Release, wish: &Wish) -> Result<bool> {
    let Some(migrate) = env.app.migrate.as_ref().filter(|migrate| migrate.auto || wish.migrate) else {
        return Ok(false);
    };
    // Where it cannot be told what was added, one migration too many is better than one too few.
    if wish.migrate || !fetched.knows(&current.commit).await? {
        return Ok(true);
    }
    asks_for_migration(&migrate.when, &fetched.added_since(&current.commit).await?)
}

/// Says what an update would do; fetches, and changes nothing else.
pub async fn check(env: &Env, host: &Host) -> Result<Waiting> {
    let _alone = Lock::take_update(host, "update --check", PATIENCE).await?;
    let ledger = Ledger::read_for(host, &env.app.name)?;
    let current =
        ledger.current.clone().context("there is no release yet: systemctl start appliance makes the first")?;
    let directory = stack::checkout(env);
    let fetched = git::fetch(&env.app, &directory, None, host).await?;
    let new_commit = fetched.is_other_than(&current.commit).await?;
    let migration = new_commit && needs_migration(env, &fetched, &current, &Wish::default()).await?;
    let gaps = apply::gaps(&stack::load(env, host)?);
    Ok(Waiting {
        failed_before: ledger.failed.contains(&fetched.target),
        target: fetched.target.clone(),
        new_commit,
        new_env: env.digest != current.env_digest,
        migration,
        gaps,
        current: current.commit,
    })
}

/// Whether a dump and a restored database would fit.
async fn check_room(env: &Env, migrates: bool, host: &Host) -> Result<()> {
    let mut needs = vec![("/app/etc".to_owned(), 0), ("/var/lib/docker".to_owned(), 0)];
    if migrates {
        let size = dump::size(env, host).await?;
        needs.push((dump::directory(&env.app.name), size));
        needs.push(("/var/lib/postgresql".to_owned(), size));
    }
    // What lies on one file system is counted together.
    let mut by_device: BTreeMap<u64, (String, u64, u64)> = BTreeMap::new();
    for (path, bytes) in needs {
        let Some(room) = host.room(&path)? else { continue };
        let entry = by_device.entry(room.device).or_insert((path, 0, room.free));
        entry.1 += bytes;
    }
    for (path, needed, free) in by_device.into_values() {
        let megabytes = |bytes: u64| bytes.div_ceil(1 << 20);
        if needed + RESERVE > free {
            bail!(
                "too little room for the update: {path} has {} MB free, {} MB are needed; free some, then run: appliance update",
                megabytes(free),
                megabytes(needed + RESERVE)
            );
        }
    }
    Ok(())
}

/// The new containers beside the old ones; no request is lost.
async fn without_gap(run: &mut Run<'_>, built: &Built) -> Result<Release> {
    let (env, host, news) = (run.env, run.host, run.news);
    let commit = built.release.commit.clone();
    run.begin(Stage::Start, Some(&commit), Touched::No)?;
    switch::admit(env, &built.stack, host).await?;
    let progress = |what: &str| news.doing(what);
    let beside = beside::start(&built.stack, &built.release.images, host, &progress).await?;
    run.begin(Stage::Gate, Some(&commit), Touched::No)?;
    gate(run, &built.stack, &built.release, &beside).await?;
    commit_to(run, &built.release, false)
}

/// With a migration: the status page while the database is dumped and migrated.
async fn with_gap(run: &mut Run<'_>, built: &Built) -> Result<Release> {
    let (env, host, news) = (run.env, run.host, run.news);
    let commit = built.release.commit.clone();
    run.begin(Stage::Dump, Some(&commit), Touched::No)?;
    dump::forget_failed(env, host).await?;
    (news.0)(Told::Page);
    switch::stop_writers(env, &built.stack, host).await?;
    dump::dump(env, &dump::pending(&env.app.name), host).await?;
    run.begin(Stage::Migrate, Some(&commit), Touched::Migrated)?;
    switch::admit(env, &built.stack, host).await?;
    if let Some(migrate) = &env.app.migrate {
        release::run_migration(migrate, &built.stack, &built.release, host).await?;
    }
    run.begin(Stage::Start, Some(&commit), Touched::Migrated)?;
    let progress = |what: &str| news.doing(what);
    apply::up(&built.stack, &built.release.images, host, Occasion::Start, &progress).await?;
    run.begin(Stage::Gate, Some(&commit), Touched::Migrated)?;
    gate(run, &built.stack, &built.release, &Beside::default()).await?;
    let release = commit_to(run, &built.release, true)?;
    nginx::ensure_site(env, host).await?;
    (news.0)(Told::Served);
    Ok(release)
}

async fn gate(run: &Run<'_>, stack: &Stack, release: &Release, beside: &Beside) -> Result<()> {
    let none = BTreeSet::new();
    let gate = Gate {
        stack,
        routes: &release.routes,
        domain: run.env.appliance.domain.as_str(),
        vital: &[],
        rigour: Rigour::New,
        stopped: &none,
        beside,
    };
    wait_until_good(&gate, run.host).await
}

/// The commit point: from this one write on the new release is the current one.
fn commit_to(run: &mut Run<'_>, release: &Release, migrated: bool) -> Result<Release> {
    let release = Release { since: run.host.now(), migrated, ..release.clone() };
    let old = run.ledger.current.replace(release.clone());
    // Another env alone makes no other version to go back to.
    if old.as_ref().is_some_and(|old| old.commit != release.commit) || run.ledger.previous.is_none() {
        run.ledger.previous = old;
    }
    run.ledger.rolled_back = run.back;
    run.ledger.failed.retain(|failed| failed != &release.commit);
    if let Some(left) = run.ledger.previous.as_ref().map(|left| left.commit.clone()).filter(|_| run.back) {
        run.ledger.remember_failed(left);
    }
    run.begin(Stage::Switch, Some(&release.commit), Touched::No)?;
    Ok(release)
}

async fn finish(run: &mut Run<'_>, release: &Release) -> Result<()> {
    run.attempt(&release.commit, "done");
    run.ledger.in_flight = None;
    run.write()?;
    run.host.discard(&flag(run.env))?;
    let now = format!("{}\n", run.host.now().as_second());
    run.host.put(&format!("/app/etc/tags/{}_last_update", run.env.app.name), now.as_bytes(), 0o644)?;
    if let Err(error) = dump::forget_failed(run.env, run.host).await {
        tracing::warn!("{error:#}");
    }
    clean_up(run).await;
    Ok(())
}

/// What is left over costs room, not the app.
async fn clean_up(run: &Run<'_>) {
    if let Err(error) = image::clean_up(&run.env.app.name, &run.ledger, run.host).await {
        tracing::warn!("{error:#}");
    }
}

/// Something failed after the running stack was touched: back to the old release, and everybody is told.
async fn fail(run: &mut Run<'_>, commit: &Commit, error: anyhow::Error) -> anyhow::Error {
    let why = match error.downcast_ref::<Halt>() {
        Some(halt) => halt.to_string(),
        None => format!("{error:#}"),
    };
    tracing::error!("the update to {} failed, going back: {why}", commit.short());
    run.told(Stage::Undo);
    let undone = undo::undo(run.env, &mut run.ledger, run.host, run.news, Some(why.clone())).await;
    run.attempt(commit, &why);
    let text = match undone.and_then(|()| run.write()) {
        Ok(()) => {
            clean_up(run).await;
            format!("the update to {} failed, and the old release runs again: {why}", commit.short())
        }
        Err(worse) => format!(
            "the update to {} failed ({why}), and going back failed too: {worse:#}; the supervisor tries again",
            commit.short()
        ),
    };
    sentry::critical(run.host, "An update failed", &text);
    anyhow::anyhow!("{text}")
}
