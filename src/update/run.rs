//! An update: its stages in their order, each in the ledger before it begins. Up to the stage switch it is undone when something
//! fails; from there on it is finished.

use super::archive::ResetFrom;
use super::blame::OfCommit;
use super::claims::refuse_new_conflicts;
use super::databases::Databases;
use super::decide::{Decision, Facts, Waiting, Wish, asks_for_migration, committed, decide};
use super::git::{self, Fetched};
use super::image::Purpose;
use super::release::{self, Built};
use super::{Reporter, UpdateEvent, dump, gate, leftover, restore, room, switch, undo};
use crate::env::{Env, GitLocal, MAX_BYTES};
use crate::host::Host;
use crate::report::{metrics, sentry};
use crate::stack::actions::Occasion;
use crate::stack::beside;
use crate::stack::manner::Beside;
use crate::stack::{self, apply};
use crate::state::{Attempt, InFlight, Ledger, Release, StackLock, Touched, UpdateLock, history};
use crate::value::{Commit, Stage};
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// What systemd keeps while a shutdown is scheduled (systemd-logind.service(8)).
const REBOOTS: &str = "/run/systemd/shutdown/scheduled";
/// A shutdown that is nearer than this would cut an update off, in seconds.
const SOON_S: i64 = 600;
/// How long an update waits for another command.
const PATIENCE: Duration = Duration::from_secs(600);
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
    reporter: Reporter<'a>,
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

    /// Metrics that cannot be written keep no update from its way.
    fn measure(&self) {
        if let Err(error) = metrics::write(&self.env.tenant, &self.ledger, self.host) {
            tracing::warn!("{error:#}");
        }
    }

    fn told(&mut self, stage: Stage) {
        self.clock_in(stage);
        self.reporter.stage(stage);
    }

    fn clock_in(&mut self, stage: Stage) {
        let took = u64::try_from(self.clock.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        *self.clock.took_ms.entry(self.clock.stage).or_default() += took;
        (self.clock.stage, self.clock.since) = (stage, Instant::now());
    }

    fn write(&self) -> Result<()> {
        self.ledger.write(self.host, &self.env.app.name)
    }

    /// Nothing is under way any more.
    fn leave(&mut self) -> Result<()> {
        self.ledger.in_flight = None;
        self.write()
    }

    /// The release that was fetched; one that is gone back to by the images that it had.
    async fn release(&self, fetched: &Fetched<'_>, wish: &Wish, migrates: bool) -> Result<Built> {
        let previous = self.ledger.previous.as_ref();
        let back_to = previous.filter(|previous| wish.back && previous.commit == fetched.target);
        let purpose = back_to.map_or(Purpose::Release, |known| Purpose::Known(&known.images));
        let built = release::build(self.env, fetched, purpose, self.host, &|what| self.reporter.doing(what)).await?;
        // Known before anything is stopped for it.
        if let Some(migrate) = self.env.app.migrate.as_ref().filter(|_| migrates) {
            release::migration_service(migrate, &built.stack)?;
        }
        Ok(built)
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
pub async fn update(env: &Env, wish: Wish, host: &Host, reporter: Reporter<'_>) -> Result<Outcome> {
    let alone = UpdateLock::take(host, "update", wish.patience()).await?;
    refuse_outdated(env, host)?;
    undo::recover_first(env, host, &alone, reporter).await?;
    let failed = Ledger::read_for(host, &env.app.name)?.failed;
    let ended = update_alone(env, wish.clone(), host, &alone, reporter).await;
    if ended.is_err() && host.has_restarted_docker().await {
        // It went away in the middle, for a port that it held for nobody. Where all is as before, nothing speaks against the version.
        let left = Ledger::read_for(host, &env.app.name)?;
        if left.in_flight.is_none() && left.failed == failed {
            tracing::warn!("Docker was restarted during the update; trying once more");
            return update_alone(env, wish, host, &alone, reporter).await;
        }
    }
    ended
}

/// Whoever waited for hours knows what was true then.
///
/// # Errors
/// env.yml says something else to the app by now, or nothing; or the host is about to reboot.
fn refuse_outdated(env: &Env, host: &Host) -> Result<()> {
    let active = host.read_start(history::ACTIVE, MAX_BYTES + 1)?.and_then(|bytes| Env::parse(&bytes).envs);
    if let Some(active) = active
        && active.of(&env.app.name).is_none_or(|now| now.digest != env.digest)
    {
        bail!("env.yml was changed while this waited for another command; nothing was done. Run it again");
    }
    let scheduled = host.read_text(REBOOTS, 4096)?.unwrap_or_default();
    let at = scheduled.lines().find_map(|line| line.strip_prefix("USEC=")?.parse::<i64>().ok());
    if at.is_some_and(|at| at / 1_000_000 - host.now().as_second() < SOON_S) {
        bail!("the host is about to reboot; nothing was done");
    }
    Ok(())
}

/// [`update`], by whoever holds the lock of updates.
pub async fn update_alone(
    env: &Env,
    mut wish: Wish,
    host: &Host,
    _alone: &UpdateLock,
    reporter: Reporter<'_>,
) -> Result<Outcome> {
    let ledger = Ledger::read_for(host, &env.app.name)?;
    let current =
        ledger.current.clone().context("there is no release yet: systemctl start appliance makes the first")?;
    wish.force |= host.exists(&flag(env));
    if wish.reset.is_some() {
        // Whatever was the current one when somebody asked for it.
        wish.to = Some(current.commit.clone());
    }
    let clock = Clock { stage: Stage::Fetch, since: Instant::now(), took_ms: BTreeMap::new() };
    let mut run = Run { env, host, reporter, ledger, clock, back: wish.back };
    host.put("/app/etc/tags/update_last_call", format!("{}\n", host.now().as_second()).as_bytes(), 0o644)?;
    run.measure();

    let fetched = match fetch(&mut run, &current, &wish).await? {
        Fetch::Go(fetched) => fetched,
        Fetch::Ended(outcome) => return Ok(outcome),
    };
    let target = fetched.target.clone();
    // Asked for once: what fails is not tried again and again for it.
    host.discard(&flag(env))?;
    let (mut built, migrates) = build(&mut run, &fetched, &current, &wish).await?;
    let lock = StackLock::take_of(host, &env.app.name, "update", PATIENCE).await?;
    // Somebody who held the lock in between may have put the old files back, under the builder's hands.
    if !git::is_at(&env.app, &stack::checkout(env), &built.release.commit, host).await? {
        leftover::discard(&env.app.name, &built.release.commit, host).await?;
        built = run.release(&fetched, &wish, migrates).await?;
    }
    let placed = if migrates {
        with_gap(&mut run, &built, &target, wish.reset.as_ref()).await
    } else {
        without_gap(&mut run, &built, &target).await
    };
    if let Err(error) = placed {
        // What counts is what is on the disk: the ledger may have been written although that was reported as failed.
        let on_disk = Ledger::read_for(host, &env.app.name)?;
        let is_past_it = on_disk.in_flight.as_ref().is_some_and(|flight| flight.stage == Stage::Switch);
        run.ledger = on_disk;
        if !is_past_it {
            return Err(fail(&mut run, &target, error).await);
        }
        tracing::error!("{error:#}; the new release is the current one all the same");
    }
    let release = run.ledger.current.clone().context("the ledger has lost the current release")?;
    let database = run.ledger.in_flight.as_ref().map_or(Touched::No, |flight| flight.database);
    switch::forward(env, &built.stack, &release, database, host, reporter).await.with_context(|| {
        format!("the release {} is in place, but not all of it came up; the supervisor goes on with it", target.short())
    })?;
    if migrates {
        (reporter.0)(UpdateEvent::Served);
    }
    finish(&mut run, &release).await?;
    // The supervisor need not wait for the copy to become a file.
    drop(lock);
    settle_copy(env, host, reporter).await;
    Ok(Outcome::Done { commit: release.commit, migrated: migrates })
}

/// What follows from what the repository has.
enum Fetch<'a> {
    Go(Fetched<'a>),
    Ended(Outcome),
}

/// Fetches, and decides whether there is anything to do.
async fn fetch<'a>(run: &mut Run<'a>, current: &Release, wish: &Wish) -> Result<Fetch<'a>> {
    let (env, host) = (run.env, run.host);
    run.begin(Stage::Fetch, None, Touched::No)?;
    let fetched = match git::fetch(&env.app, &stack::checkout(env), wish.to.as_ref(), host).await {
        Ok(fetched) => fetched,
        Err(error) => {
            run.leave()?;
            sentry::critical(host, "An update failed", &format!("{error:#}"));
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
    match decide(&facts, wish) {
        Decision::Go => {}
        other => {
            if let Some(last) =
                run.ledger.last.as_mut().filter(|last| other == Decision::Nothing && last.outcome != Ledger::DONE)
            {
                last.outcome = Ledger::WITHDRAWN.to_owned();
            }
            run.leave()?;
            return Ok(Fetch::Ended(match other {
                Decision::Refused => Outcome::Refused { commit: target },
                _ => Outcome::Nothing { commit: target },
            }));
        }
    }
    // What an operator goes to by name has run before.
    let is_known =
        [Some(current), run.ledger.previous.as_ref()].into_iter().flatten().any(|known| known.commit == target);
    if !(wish.to.is_some() && is_known)
        && let Err(error) = trusted(env, &fetched, current, wish).await
    {
        run.leave()?;
        sentry::critical(host, "An update was refused", &format!("{error:#}"));
        return Err(error);
    }
    Ok(Fetch::Go(fetched))
}

/// Builds the release beside what runs. Gives back whether it migrates.
async fn build(run: &mut Run<'_>, fetched: &Fetched<'_>, current: &Release, wish: &Wish) -> Result<(Built, bool)> {
    let (env, host, target) = (run.env, run.host, &fetched.target);
    run.begin(Stage::Build, Some(target), Touched::No)?;
    let migrates = match prepare_for(env, fetched, current, wish, host).await {
        Ok(migrates) => migrates,
        Err(error) => {
            run.give_up(target, &error, false).await?;
            sentry::critical(host, "An update was refused", &format!("{error:#}"));
            return Err(error);
        }
    };
    let built = match run.release(fetched, wish, migrates).await {
        Ok(built) => refuse_new_conflicts(env, &built.stack, host).map(|()| built),
        Err(error) => {
            Err(error.context(format!("the release {} could not be built; the old one runs on", target.short())))
        }
    };
    match built {
        Ok(built) => Ok((built, migrates)),
        Err(error) => {
            // Somebody who started meanwhile has put the old files back, under the builder's hands.
            let is_whole = env.app.git.local == GitLocal::Merge
                || git::is_at(&env.app, &stack::checkout(env), target, host).await?;
            let remember = error.is::<OfCommit>() && *target != current.commit && is_whole;
            run.give_up(target, &error, remember).await?;
            sentry::critical(host, "An update failed", &format!("{error:#}"));
            Err(error)
        }
    }
}

/// # Errors
/// The env asks for signatures, and the target has none of its keys'. Or it does not come after the release that runs: somebody who can
/// write the repository, or stands in its server's place, would bring back an old version, or another project's, that was signed once.
async fn trusted(env: &Env, fetched: &Fetched<'_>, current: &Release, wish: &Wish) -> Result<()> {
    fetched.verify().await?;
    if !env.app.git.verify.is_empty() && wish.to.is_none() && !fetched.descends_from(&current.commit).await? {
        bail!(
            "the commit {} is signed, but does not come after {}, which runs; it is taken if it is asked for by name: appliance update --to {}",
            fetched.target.short(),
            current.commit.short(),
            fetched.target
        );
    }
    Ok(())
}

/// Whether a migration is needed, if there is room for the update.
async fn prepare_for(env: &Env, fetched: &Fetched<'_>, current: &Release, wish: &Wish, host: &Host) -> Result<bool> {
    let migrates = wish.reset.is_some() || needs_migration(env, fetched, current, wish).await?;
    if migrates {
        Databases::of(env, host)?.refuse_strangers().await?;
        // The name is needed; a copy from before is still one while the app is served.
        dump::settle_copy(env, host).await?;
    }
    let builds = (fetched.target != current.commit).then_some((current, &fetched.target));
    room::check(env, builds, u64::from(migrates) + u64::from(wish.reset.is_some()), host).await?;
    Ok(migrates)
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
    let _alone = UpdateLock::take(host, "update --check", PATIENCE).await?;
    let ledger = Ledger::read_for(host, &env.app.name)?;
    let current =
        ledger.current.clone().context("there is no release yet: systemctl start appliance makes the first")?;
    let directory = stack::checkout(env);
    let fetched = git::fetch(&env.app, &directory, None, host).await?;
    let new_commit = fetched.is_other_than(&current.commit).await?;
    if new_commit {
        fetched.verify().await?;
    }
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

/// The new containers beside the old ones; no request is lost.
async fn without_gap(run: &mut Run<'_>, built: &Built, target: &Commit) -> Result<()> {
    let (env, host, reporter) = (run.env, run.host, run.reporter);
    undo::ensure_wanted(env, host).await?;
    run.begin(Stage::Start, Some(target), Touched::No)?;
    switch::admit(env, &built.stack, host).await?;
    let progress = |what: &str| reporter.doing(what);
    let beside = beside::start(&built.stack, &built.release.images, host, &progress).await?;
    run.begin(Stage::Gate, Some(target), Touched::No)?;
    gate::pass(env, &built.stack, &built.release.routes, &beside, host).await.map_err(OfCommit::from_gate)?;
    undo::ensure_wanted(env, host).await?;
    commit_to(run, &built.release, target, false)
}

/// With a migration: the status page while the database is dumped and migrated. Where it is to be made anew, that is done in between.
async fn with_gap(run: &mut Run<'_>, built: &Built, target: &Commit, reset: Option<&ResetFrom>) -> Result<()> {
    let (env, host, reporter) = (run.env, run.host, run.reporter);
    run.begin(Stage::Dump, Some(target), Touched::Copying)?;
    dump::forget_failed(env, host).await?;
    (reporter.0)(UpdateEvent::Page);
    switch::stop_writers(env, &built.stack, host).await?;
    if reset.is_some() {
        dump::dump(env, &dump::before_reset(&env.app.name, host), host).await?;
    }
    Databases::of(env, host)?.copy().await?;
    run.begin(Stage::Migrate, Some(target), Touched::Migrated)?;
    if let Some(from) = reset {
        restore::reset(env, from, host).await?;
    }
    switch::admit(env, &built.stack, host).await?;
    if let Some(migrate) = &env.app.migrate {
        release::run_migration(migrate, &built.stack, &built.release, host).await.map_err(OfCommit::from_migration)?;
    }
    undo::ensure_wanted(env, host).await?;
    run.begin(Stage::Start, Some(target), Touched::Migrated)?;
    let progress = |what: &str| reporter.doing(what);
    apply::up(&built.stack, &built.release.images, host, Occasion::Start, &progress).await?;
    run.begin(Stage::Gate, Some(target), Touched::Migrated)?;
    gate::pass(env, &built.stack, &built.release.routes, &Beside::default(), host)
        .await
        .map_err(OfCommit::from_gate)?;
    undo::ensure_wanted(env, host).await?;
    commit_to(run, &built.release, target, true)
}

/// The commit point: from this one write on the new release is the current one.
fn commit_to(run: &mut Run<'_>, release: &Release, target: &Commit, migrates: bool) -> Result<()> {
    let (next, database) = committed(&run.ledger, release, migrates, run.back, run.host.now());
    let flight = InFlight { database, ..InFlight::at(Some(target.clone()), Stage::Switch, run.host) };
    let next = Ledger { in_flight: Some(flight), ..next };
    next.write(run.host, &run.env.app.name)?;
    run.ledger = next;
    run.told(Stage::Switch);
    Ok(())
}

/// The copy from before the migration becomes a file. One that cannot is still the way back, and tried again later.
async fn settle_copy(env: &Env, host: &Host, reporter: Reporter<'_>) {
    reporter.doing("the database from before the migration is dumped");
    if let Err(error) = dump::settle_copy(env, host).await {
        tracing::warn!("{error:#}; the copy stays, and takes room");
    }
}

async fn finish(run: &mut Run<'_>, release: &Release) -> Result<()> {
    run.attempt(&release.commit, Ledger::DONE);
    run.ledger.in_flight = None;
    run.write()?;
    let now = format!("{}\n", run.host.now().as_second());
    run.host.put(&format!("/app/etc/tags/{}_last_update", run.env.app.name), now.as_bytes(), 0o644)?;
    run.measure();
    if let Err(error) = dump::forget_failed(run.env, run.host).await {
        tracing::warn!("{error:#}");
    }
    clean_up(run).await;
    Ok(())
}

/// What is left over costs room, not the app.
async fn clean_up(run: &Run<'_>) {
    if let Err(error) = leftover::clean_up(&run.env.app.name, &run.ledger, run.host).await {
        tracing::warn!("{error:#}");
    }
}

/// Something failed after the running stack was touched: back to the old release, and everybody is told.
async fn fail(run: &mut Run<'_>, target: &Commit, error: anyhow::Error) -> anyhow::Error {
    let why = format!("{error:#}");
    let is_stopped = !undo::is_wanted(run.env, run.host).await;
    let is_its_fault = !is_stopped
        && error.is::<OfCommit>()
        && run.ledger.current.as_ref().is_some_and(|current| &current.commit != target);
    if is_stopped {
        // The next start undoes it.
        return anyhow::anyhow!("the appliance was stopped during the update to {}: {why}", target.short());
    }
    tracing::error!("the update to {} failed, going back: {why}", target.short());
    run.clock_in(Stage::Undo);
    let undone =
        undo::undo(run.env, &mut run.ledger, run.host, run.reporter, Some(why.clone()).filter(|_| is_its_fault)).await;
    run.attempt(target, &why);
    let text = match undone.and_then(|()| run.write()) {
        Ok(()) => {
            clean_up(run).await;
            format!("the update to {} failed, and the old release runs again: {why}", target.short())
        }
        Err(worse) => format!(
            "the update to {} failed ({why}), and going back failed too: {worse:#}; the supervisor tries again",
            target.short()
        ),
    };
    sentry::critical(run.host, "An update failed", &text);
    anyhow::anyhow!("{text}")
}
