//! The commands about releases: update, rollback, releases.

use super::choice::{AppArgument, prefix};
use super::{JsonArgument, print, render};
use crate::env::{Env, Envs};
use crate::host::{Host, Mode, UnitState};
use crate::report::sentry;
use crate::source;
use crate::state::flags::Flag;
use crate::state::{Ledger, Status, UpdateLock, ledger};
use crate::supervise::Board;
use crate::update::{self, Back, Outcome, Recovered, Reporter, UpdateEvent, Upgraded, Waiting, Wish};
use crate::value::{Commit, Stage};
use anyhow::{Context, Result, bail};
use clap::Args;
use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

#[derive(Debug, Args)]
pub struct UpdateArguments {
    /// Only say what waits (exit 0 nothing, 2 something)
    #[arg(long, conflicts_with_all = ["to", "force", "migrate"])]
    check: bool,
    /// Go to this commit instead of the one that env.yml asks for
    #[arg(long, value_name = "COMMIT")]
    to: Option<Commit>,
    /// Also if nothing is new, and also what failed before
    #[arg(long)]
    force: bool,
    /// As the timers do: apps with a calendar of their own are left out unless named, and other updates are waited for
    #[arg(long, conflicts_with_all = ["check", "to"])]
    scheduled: bool,
    /// Migrate the database, whether or not a migration was added
    #[arg(long)]
    migrate: bool,
    #[command(flatten)]
    json: JsonArgument,
    #[command(flatten)]
    app: AppArgument,
}

#[derive(Debug, Args)]
pub struct RollbackArguments {
    /// Do not ask
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    app: AppArgument,
}

/// How long an interrupted update waits for the lock before it is undone.
const PATIENCE: Duration = Duration::from_secs(600);

/// What is told on the way: stages with the time since the beginning, and what they took last time.
struct Progress {
    began: Instant,
    last: BTreeMap<Stage, u64>,
    on_terminal: bool,
    quiet: bool,
    /// Whether visitors see the status page: they come back only from there.
    with_page: AtomicBool,
}

impl Progress {
    fn new(ledger: &Ledger, quiet: bool) -> Progress {
        let last = ledger.last.as_ref().map(|last| last.took_ms.clone()).unwrap_or_default();
        Progress {
            began: Instant::now(),
            last,
            on_terminal: std::io::stderr().is_terminal(),
            quiet,
            with_page: AtomicBool::new(false),
        }
    }

    fn show(&self, event: UpdateEvent<'_>) {
        let line = match event {
            _ if self.quiet => return,
            UpdateEvent::Stage(stage) => {
                let estimate = self.last.get(&stage).map(|ms| format!(", {:.0} s last time", *ms as f64 / 1000.0));
                format!("{stage}: {}{}", stage.title(), estimate.unwrap_or_default())
            }
            UpdateEvent::Doing(what) if self.on_terminal => format!("  {what}"),
            UpdateEvent::Doing(_) => return,
            UpdateEvent::Page if self.with_page.swap(true, Ordering::Relaxed) => return,
            UpdateEvent::Page => "  visitors see the status page".to_owned(),
            UpdateEvent::Served if !self.with_page.swap(false, Ordering::Relaxed) => return,
            UpdateEvent::Served => "  visitors reach the app again".to_owned(),
        };
        let seconds = self.began.elapsed().as_secs();
        // A terminal that went away must not stop the update.
        drop(writeln!(std::io::stderr(), "[{seconds:>4} s] {line}"));
    }
}

/// What is started and stopped, and what supervises.
pub(super) const SERVICE: &str = "appliance.service";
const SUPERVISOR: &str = "appliance-supervisor.service";

/// Nothing is begun while the appliance has failed.
pub(super) fn refuse_failed(host: &Host) -> Result<()> {
    match Flag::Host.failed(host)? {
        Some(reason) => bail!("the appliance has failed ({reason}); mend it, then run: appliance recover --start"),
        None => Ok(()),
    }
}

/// Nor with an app that has.
fn refuse_failed_app(env: &Env, host: &Host) -> Result<()> {
    let name = &env.app.name;
    match Flag::from(&env.tenant).failed(host)? {
        Some(reason) => bail!("the app has failed ({reason}); mend it, then run: appliance recover --app {name}"),
        None => Ok(()),
    }
}

/// Whether the appliance is started, and supervised.
pub(super) async fn is_up(host: &Host) -> Result<bool> {
    Ok(host.unit_state(SERVICE).await? == UnitState::Active && host.unit_state(SUPERVISOR).await? == UnitState::Active)
}

/// Starts the appliance where it is stopped, else the supervisor anew, and waits until the app is up, or is known not to come up.
///
/// # Errors
/// It cannot be started; or somebody asked for an end meanwhile, which the start does not hear.
pub(super) async fn start_supervisor(host: &Host) -> Result<()> {
    let start = async {
        match host.unit_state(SERVICE).await? {
            UnitState::Active => host.restart_unit(SUPERVISOR).await,
            _ => {
                host.start_unit(SERVICE).await?;
                host.start_unit(SUPERVISOR).await
            }
        }
    };
    let mut terminate = signal(SignalKind::terminate()).context("could not listen for signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("could not listen for signals")?;
    tokio::select! {
        started = start => started,
        _ = terminate.recv() => bail!("interrupted; the start goes on: appliance status"),
        _ = interrupt.recv() => bail!("interrupted; the start goes on: appliance status"),
    }
}

/// The host, if an update can be made on it.
pub(super) async fn ready() -> Result<Host> {
    let host = Host::system(Mode::Apply);
    refuse_failed(&host)?;
    if host.unit_state(SERVICE).await? != UnitState::Active {
        bail!("the appliance is stopped; start it first: systemctl start appliance");
    }
    Ok(host)
}

pub async fn update(arguments: UpdateArguments) -> Result<u8> {
    if arguments.check {
        return check(&arguments.app, arguments.json.json).await;
    }
    let host = ready().await?;
    let envs = source::active(&host)?.envs;
    let chosen = arguments.app.some(&envs)?;
    if arguments.to.is_some() {
        // A commit is one app's.
        arguments.app.one(&envs)?;
    }
    let json = arguments.json.json;
    if envs.is_alone() && Ledger::read_for(&host, &envs.host().app.name)?.current.is_none() {
        start_supervisor(&host).await?;
        let status = Status::read(&host, None)?.context("the supervisor has written no status")?;
        print(&format!("there was no release yet; {}\n", status.phase.text()))?;
        return Ok(status.exit_code());
    }
    let _reports = sentry::start(envs.host(), &host);
    let (force, is_scheduled) = (arguments.force, arguments.scheduled);
    let wish = Wish { force, migrate: arguments.migrate, to: arguments.to, is_scheduled, ..Wish::default() };
    let mut outcomes = Vec::new();
    for env in chosen {
        if arguments.scheduled && !arguments.app.is_named() && env.app.calendar.is_some() {
            continue;
        }
        if (arguments.scheduled || !arguments.app.is_named()) && !update::is_to_run(env, &host) {
            eprintln!("warning: {}it is not to run now, and is not updated; see: appliance status", prefix(env));
            continue;
        }
        let updated = update_one(env, wish.clone(), &host, json).await;
        let is_interrupted = updated.as_ref().is_err_and(|error| error.is::<Interrupted>());
        outcomes.push((env, updated));
        if is_interrupted {
            return tell(outcomes, None, &envs, json);
        }
    }
    // An app that does not get through keeps no host from its security updates; who names an app asks for nothing else.
    let upgraded = match arguments.app.is_named() && !envs.is_alone() {
        true => Ok(None),
        false => {
            let upgraded = watched(envs.host(), &host, json, async |reporter| {
                update::upgrade_all(&envs, wish.patience(), &host, reporter).await
            });
            upgraded.await.map(Some)
        }
    };
    match upgraded {
        Ok(upgraded) => tell(outcomes, upgraded, &envs, json),
        // What became of the apps comes first.
        Err(error) => tell(outcomes, None, &envs, json).and(Err(error)),
    }
}

async fn update_one(env: &Env, wish: Wish, host: &Host, quiet: bool) -> Result<Outcome> {
    refuse_failed_app(env, host)?;
    watched(env, host, quiet, async |reporter| update::update(env, wish, host, reporter).await).await
}

/// Says what became of each app and of the host's packages. The first app that did not get through is the command's own error.
fn tell(outcomes: Vec<(&Env, Result<Outcome>)>, upgraded: Option<Upgraded>, envs: &Envs, json: bool) -> Result<u8> {
    let mut failed = Ok(0);
    let (mut lines, mut told) = (Vec::new(), Vec::new());
    for (env, outcome) in outcomes {
        let name = env.app.name.as_str();
        match outcome {
            Ok(outcome) => {
                let (word, commit, text) = words(&outcome);
                lines.push(format!("{}{text}", prefix(env)));
                told.push(serde_json::json!({ "app": name, "outcome": word, "commit": commit }));
            }
            Err(error) => {
                told.push(serde_json::json!({ "app": name, "outcome": "failed", "error": format!("{error:#}") }));
                let error = if envs.is_alone() { error } else { error.context(format!("the app {name}")) };
                match failed {
                    Ok(_) => failed = Err(error),
                    Err(_) => eprintln!("error: {error:#}"),
                }
            }
        }
    }
    if envs.is_alone() && failed.is_err() {
        return failed;
    }
    if json && envs.is_alone() {
        let mut value = told.pop().unwrap_or_default();
        value["host"] = serde_json::to_value(&upgraded)?;
        print(&format!("{value}\n"))?;
    } else if json {
        print(&format!("{}\n", serde_json::json!({ "apps": told, "host": upgraded })))?;
    } else {
        if let Some(upgraded) = upgraded {
            lines.extend(upgraded.packages.iter().map(|one| match &one.from {
                Some(from) => format!("{} {from} is {} now", one.package, one.to),
                None => format!("{} {} is new", one.package, one.to),
            }));
            lines.extend(upgraded.reboots.then(|| "the host reboots in a minute".to_owned()));
        }
        print(&lines.iter().map(|line| format!("{line}\n")).collect::<String>())?;
    }
    failed
}

/// One word for a program, the commit, and a sentence.
fn words(outcome: &Outcome) -> (&'static str, &Commit, String) {
    match outcome {
        Outcome::Nothing { commit } => ("nothing", commit, format!("nothing new: {} runs", commit.short())),
        Outcome::Refused { commit } => {
            let text =
                format!("{} failed before and is not tried again; appliance update --force does", commit.short());
            ("refused", commit, text)
        }
        Outcome::Done { commit, migrated } => {
            let how = if *migrated { ", the database was migrated" } else { "" };
            ("done", commit, format!("{} runs now{how}", commit.short()))
        }
    }
}

/// Brings the app to the newest wanted commit, and leaves the host's packages alone; gives back whether anything was done, and what came
/// of it.
pub(super) async fn to_wanted(env: &Env, host: &Host, quiet: bool) -> Result<(bool, String)> {
    let _reports = sentry::start(env, host);
    let outcome =
        watched(env, host, quiet, async |reporter| update::update(env, Wish::default(), host, reporter).await).await?;
    Ok((matches!(outcome, Outcome::Done { .. }), words(&outcome).2))
}

/// Somebody asked for an end.
#[derive(Debug)]
struct Interrupted(Recovered);

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.0 {
            Recovered::Nothing => "interrupted; nothing had been begun",
            Recovered::Done => "interrupted; what had been begun is undone, or finished where it was past undoing",
            Recovered::Waiting(_) => {
                "interrupted, and the appliance is stopped; its next start undoes what had been begun, or finishes it"
            }
        })
    }
}

impl std::error::Error for Interrupted {}

/// Tells of the work on the terminal, in the status and on the page; a signal undoes what was begun.
pub(super) async fn watched<T>(
    env: &Env,
    host: &Host,
    quiet: bool,
    work: impl AsyncFnOnce(Reporter<'_>) -> Result<T>,
) -> Result<T> {
    let progress = Progress::new(&Ledger::read_for(host, &env.app.name)?, quiet);
    let board = Board::take_over(host, &env.tenant)?;
    let show = |event: UpdateEvent<'_>| {
        progress.show(event);
        if !matches!(event, UpdateEvent::Doing(_)) {
            board.show(event);
        }
    };
    let mut terminate = signal(SignalKind::terminate()).context("could not listen for signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("could not listen for signals")?;
    let interrupted = tokio::select! {
        done = work(Reporter(&show)) => Some(done),
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
    };
    match interrupted {
        Some(done) => done,
        None => {
            let alone = UpdateLock::take(host, "update", PATIENCE).await?;
            Err(Interrupted(update::recover(env, host, &alone, Reporter(&show)).await?).into())
        }
    }
}

async fn check(app: &AppArgument, json: bool) -> Result<u8> {
    let host = Host::system(Mode::Apply);
    let envs = source::active(&host)?.envs;
    let (mut text, mut told, mut is_something) = (String::new(), Vec::new(), false);
    for env in app.some(&envs)?.into_iter().filter(|env| env.app.is_enabled) {
        let waiting = match update::check(env, &host).await {
            Ok(waiting) => waiting,
            Err(error) if envs.is_alone() => return Err(error),
            // The others are looked at all the same.
            Err(error) => {
                eprintln!("warning: {}{error:#}", prefix(env));
                continue;
            }
        };
        is_something |= waiting.is_something();
        text.extend(lines_of(&waiting).into_iter().map(|line| format!("{}{line}\n", prefix(env))));
        let mut value = serde_json::to_value(&waiting)?;
        if !envs.is_alone() {
            value["app"] = env.app.name.as_str().into();
        }
        told.push(value);
    }
    let packages =
        if app.is_named() && !envs.is_alone() { Vec::new() } else { update::waiting_packages(&host).await? };
    if json {
        let mut value = match envs.is_alone() {
            true => told.pop().unwrap_or_default(),
            false => serde_json::json!({ "apps": told }),
        };
        value["packages"] = serde_json::to_value(&packages)?;
        print(&format!("{value:#}\n"))?;
    } else {
        for one in &packages {
            let from = one.from.as_deref().unwrap_or("(new)");
            text.push_str(&format!("host: {} {from} to {}\n", one.package, one.to));
        }
        print(if text.is_empty() { "nothing waits\n" } else { &text })?;
    }
    Ok(if is_something || !packages.is_empty() { 2 } else { 0 })
}

fn lines_of(waiting: &Waiting) -> Vec<String> {
    let mut lines = Vec::new();
    if waiting.new_commit {
        let with = if waiting.migration { ", with a migration" } else { "" };
        lines.push(format!("app: {} to {}{with}", waiting.current.short(), waiting.target.short()));
    }
    if waiting.new_env {
        lines.push("env: the active env is another than the release was made with".to_owned());
    }
    if waiting.failed_before {
        lines.push(format!("{} failed before; only --force tries it again", waiting.target.short()));
    }
    for (service, why) in waiting.gaps.iter().filter(|_| waiting.is_something()) {
        lines.push(format!("replaced in its place if it changed: {service}, since {why}"));
    }
    lines
}

pub async fn rollback(arguments: RollbackArguments) -> Result<u8> {
    let host = ready().await?;
    let env = arguments.app.active(&host)?;
    refuse_failed_app(&env, &host)?;
    let back = Back::look(&Ledger::read_for(&host, &env.app.name)?)?;
    if let Some(since) = back.database_of {
        let text = format!(
            "going back from {} to {} takes the database back too, to {}: what was written since then is lost",
            back.from.short(),
            back.to.short(),
            since.strftime("%Y-%m-%d %H:%M:%S UTC")
        );
        if !arguments.yes && !is_agreed(&text)? {
            bail!("{text}; nothing was done. With --yes it is");
        }
    }
    let _reports = sentry::start(&env, &host);
    watched(&env, &host, false, async |reporter| update::rollback(&env, &back, &host, reporter).await).await?;
    print(&format!("{} runs now; {} comes back with: appliance rollback\n", back.to.short(), back.from.short()))?;
    Ok(0)
}

/// Asks on a terminal; without one the answer is no.
pub(super) fn is_agreed(text: &str) -> Result<bool> {
    if !std::io::stdin().is_terminal() {
        return Ok(false);
    }
    eprint!("{text}. Go on? [y/N] ");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).context("could not read the answer")?;
    Ok(["y", "yes"].contains(&answer.trim().to_ascii_lowercase().as_str()))
}

pub fn releases(app: &AppArgument, json: bool) -> Result<u8> {
    let host = Host::system(Mode::Check);
    let mut all = Vec::new();
    // What is there can be looked at before anything was started, and where the env is broken.
    let names = match source::active(&host) {
        Ok(found) => app.some(&found.envs)?.into_iter().map(|env| env.app.name.clone()).collect(),
        Err(_) => ledger::apps(&host)?,
    };
    for name in names {
        let ledger = Ledger::read_for(&host, &name)?;
        all.push((name, ledger));
    }
    if json {
        let whole = match &all[..] {
            [] => serde_json::to_value(Ledger::default())?,
            [(_, ledger)] => serde_json::to_value(ledger)?,
            several => serde_json::to_value(several.iter().map(|(_, ledger)| ledger).collect::<Vec<_>>())?,
        };
        print(&format!("{whole:#}\n"))?;
        return Ok(0);
    }
    let mut text = String::new();
    for (name, ledger) in &all {
        if all.len() > 1 {
            text.push_str(&format!("{}{name}\n", if text.is_empty() { "" } else { "\n" }));
        }
        text.push_str(&releases_of(ledger));
    }
    print(if all.is_empty() { "there is no release yet\n" } else { &text })?;
    Ok(0)
}

fn releases_of(ledger: &Ledger) -> String {
    let time = |at: jiff::Timestamp| at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string();
    let mut rows = Vec::new();
    for (which, release) in [("current", &ledger.current), ("previous", &ledger.previous)] {
        if let Some(release) = release {
            let migrated = if release.migrated { "migrated" } else { "" };
            rows.push(vec![
                which.to_owned(),
                release.commit.short().to_owned(),
                time(release.since),
                migrated.to_owned(),
            ]);
        }
    }
    if let Some(flight) = &ledger.in_flight {
        let commit = flight.commit.as_ref().map_or("?", |commit| commit.short());
        rows.push(vec!["in flight".to_owned(), commit.to_owned(), time(flight.since), flight.stage.to_string()]);
    }
    let failed = ledger.failed.iter().rev().take(10);
    rows.extend(
        failed.map(|commit| vec!["failed".to_owned(), commit.short().to_owned(), String::new(), String::new()]),
    );
    let mut text = if rows.is_empty() {
        "there is no release yet\n".to_owned()
    } else {
        render::table(&["WHICH", "COMMIT", "SINCE", "REMARK"], rows)
    };
    if let Some(last) = &ledger.last {
        text.push_str(&format!("\nlast update: {} at {}: {}\n", last.commit.short(), time(last.at), last.outcome));
    }
    text
}
