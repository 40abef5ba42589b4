//! The commands about releases: update, rollback, releases.

use super::{JsonArgument, print, render};
use crate::env::Env;
use crate::host::{Host, Mode, UnitState};
use crate::report::sentry;
use crate::source;
use crate::state::{Ledger, Status, UpdateLock, flags};
use crate::supervise::Board;
use crate::update::{self, Back, Outcome, Recovered, Reporter, UpdateEvent, Wish};
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
    /// Migrate the database, whether or not a migration was added
    #[arg(long)]
    migrate: bool,
    #[command(flatten)]
    json: JsonArgument,
}

#[derive(Debug, Args)]
pub struct RollbackArguments {
    /// Do not ask
    #[arg(long)]
    yes: bool,
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
    match flags::failed(host)? {
        Some(reason) => bail!("the appliance has failed ({reason}); mend it, then run: appliance recover --start"),
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
        return check(arguments.json.json).await;
    }
    let host = ready().await?;
    let env = source::active(&host)?.env;
    let ledger = Ledger::read_for(&host, &env.app.name)?;
    if ledger.current.is_none() {
        start_supervisor(&host).await?;
        let status = Status::read(&host)?.context("the supervisor has written no status")?;
        print(&format!("there was no release yet; {}\n", status.phase.text()))?;
        return Ok(status.exit_code());
    }
    let _reports = sentry::start(&env);
    let wish = Wish { force: arguments.force, migrate: arguments.migrate, to: arguments.to, ..Wish::default() };
    let updated =
        watched(&host, arguments.json.json, async |reporter| update::update(&env, wish, &host, reporter).await).await;
    // An app that does not get through keeps no host from its security updates.
    let upgraded = match updated.as_ref().is_err_and(|error| error.is::<Interrupted>()) {
        true => Ok(None),
        false => {
            let upgraded =
                watched(&host, arguments.json.json, async |reporter| update::upgrade_all(&env, &host, reporter).await);
            upgraded.await.map(Some)
        }
    };
    let outcome = updated?;
    let upgraded = upgraded?;
    let (word, commit, text) = words(&outcome);
    if arguments.json.json {
        let value = serde_json::json!({ "outcome": word, "commit": commit, "host": upgraded });
        print(&format!("{value}\n"))?;
        return Ok(0);
    }
    let mut lines = vec![text];
    if let Some(upgraded) = upgraded {
        lines.extend(upgraded.packages.iter().map(|one| match &one.from {
            Some(from) => format!("{} {from} is {} now", one.package, one.to),
            None => format!("{} {} is new", one.package, one.to),
        }));
        lines.extend(upgraded.reboots.then(|| "the host reboots in a minute".to_owned()));
    }
    print(&format!("{}\n", lines.join("\n")))?;
    Ok(0)
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
    let _reports = sentry::start(env);
    let outcome =
        watched(host, quiet, async |reporter| update::update(env, Wish::default(), host, reporter).await).await?;
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
    host: &Host,
    quiet: bool,
    work: impl AsyncFnOnce(Reporter<'_>) -> Result<T>,
) -> Result<T> {
    let env = source::active(host)?.env;
    let progress = Progress::new(&Ledger::read_for(host, &env.app.name)?, quiet);
    let board = Board::take_over(host)?;
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
            Err(Interrupted(update::recover(&env, host, &alone, Reporter(&show)).await?).into())
        }
    }
}

async fn check(json: bool) -> Result<u8> {
    let host = Host::system(Mode::Apply);
    let env = source::active(&host)?.env;
    let waiting = update::check(&env, &host).await?;
    let packages = update::waiting_packages(&host).await?;
    if json {
        let mut value = serde_json::to_value(&waiting)?;
        value["packages"] = serde_json::to_value(&packages)?;
        print(&format!("{value:#}\n"))?;
    } else {
        let mut text = String::new();
        if waiting.new_commit {
            text.push_str(&format!("app: {} to {}", waiting.current.short(), waiting.target.short()));
            text.push_str(if waiting.migration { ", with a migration\n" } else { "\n" });
        }
        if waiting.new_env {
            text.push_str("env: the active env is another than the release was made with\n");
        }
        if waiting.failed_before {
            text.push_str(&format!("{} failed before; only --force tries it again\n", waiting.target.short()));
        }
        for (service, why) in waiting.gaps.iter().filter(|_| waiting.is_something()) {
            text.push_str(&format!("replaced in its place if it changed: {service}, since {why}\n"));
        }
        for one in &packages {
            let from = one.from.as_deref().unwrap_or("(new)");
            text.push_str(&format!("host: {} {from} to {}\n", one.package, one.to));
        }
        print(if text.is_empty() { "nothing waits\n" } else { &text })?;
    }
    Ok(if waiting.is_something() || !packages.is_empty() { 2 } else { 0 })
}

pub async fn rollback(arguments: RollbackArguments) -> Result<u8> {
    let host = ready().await?;
    let env = source::active(&host)?.env;
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
    let _reports = sentry::start(&env);
    watched(&host, false, async |reporter| update::rollback(&env, &back, &host, reporter).await).await?;
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

pub fn releases(json: bool) -> Result<u8> {
    let host = Host::system(Mode::Check);
    let ledger = Ledger::read(&host)?;
    if json {
        print(&format!("{}\n", serde_json::to_string_pretty(&ledger)?))?;
        return Ok(0);
    }
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
    print(&text)?;
    Ok(0)
}
