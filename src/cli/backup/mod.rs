//! `appliance backup …`: runs, what there is, and the ways back.

mod show;

use super::agreed::AgreedArgument;
use super::choice::AppArgument;
use super::host::prepare_all;
use super::update::{is_agreed, start_supervisor, watched};
use super::{JsonArgument, absolute, print};
use crate::backup::{self, Manifest, Record, Restic, restore};
use crate::env::{Env, Envs};
use crate::host::{Host, Mode, UnitState};
use crate::report::{metrics, sentry};
use crate::source;
use crate::state::{BackupLock, Status, history, recovering};
use crate::update::{self, ResetFrom, Wish};
use crate::value::Step;
use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use std::time::Duration;

#[derive(Debug, Subcommand)]
pub enum BackupCommand {
    /// Make a run now: database, files, and what is the host's
    #[command(after_help = "Example:\n  appliance backup run")]
    Run(RunArguments),
    /// Ship what was written since the last run or shipment
    #[command(after_help = "Example:\n  appliance backup ship")]
    Ship(ShipArguments),
    /// List the complete runs of the repository
    #[command(after_help = "Example:\n  appliance backup list --json | jq -r '.[0].run'")]
    List(JsonArgument),
    /// Show when the last run was, what it holds, and what is wrong (exit 0 fine, 1 none for 26 hours or trouble)
    #[command(after_help = "Example:\n  appliance backup status")]
    Status(JsonArgument),
    /// Read all of the repository's data and check it
    #[command(after_help = "Example:\n  appliance backup verify")]
    Verify,
    /// Test that the newest run can be restored; what runs is not touched (exit 0 it can, 1 it cannot)
    #[command(after_help = "Example:\n  appliance backup drill")]
    Drill(DrillArguments),
    /// Replace the app's database with that of a run or a moment, or restore files into a new directory
    #[command(
        after_help = "Examples:\n  appliance backup restore --database           (what is in it now is dumped first)\n  appliance backup restore --database --at 2026-11-30T14:05:00+01:00 --dump\n  appliance backup restore --files --to /root/found /data/shop-storage-vault"
    )]
    Restore(RestoreArguments),
    /// Bring back everything onto a host that holds nothing of it yet
    #[command(after_help = "Example:\n  apt install ./appliance.deb; nano /app/env.yml; appliance backup recover")]
    Recover(RecoverArguments),
    /// Make this host the one that writes into the repository
    #[command(after_help = "Example:\n  appliance backup adopt --yes")]
    Adopt(AgreedArgument),
    /// Show what restic needs to use the repository without the appliance: secrets
    #[command(after_help = "Example:\n  eval \"$(appliance backup key)\"; restic snapshots")]
    Key,
}

#[derive(Debug, Args)]
pub struct RunArguments {
    /// Also if the storage vault has lost more than half of its files since the last run
    #[arg(long)]
    accept_loss: bool,
    /// Also if the repository of the last run is gone, or another one is in its place
    #[arg(long)]
    new_repository: bool,
    #[command(flatten)]
    json: JsonArgument,
}

#[derive(Debug, Args)]
pub struct ShipArguments {
    /// As the timer calls it: does nothing soon after a shipment that took long or failed
    #[arg(long)]
    scheduled: bool,
}

#[derive(Debug, Args)]
pub struct DrillArguments {
    /// The run (default: the newest complete one of each app, and what was shipped after it)
    #[arg(long, value_name = "ID")]
    run: Option<String>,
    #[command(flatten)]
    json: JsonArgument,
}

#[derive(Debug, Args)]
pub struct RestoreArguments {
    /// The run (default: the newest complete one)
    #[arg(long, value_name = "ID")]
    run: Option<String>,
    /// Restore the database as it was at this moment (RFC 3339: 2026-11-30T14:05:00Z)
    #[arg(long, value_name = "TIME", requires = "database", conflicts_with = "run")]
    at: Option<jiff::Timestamp>,
    /// Put its database in the place of the app's
    #[arg(long, required_unless_present = "files", conflicts_with = "files")]
    database: bool,
    /// Only write it as a dump; the app's database is not changed
    #[arg(long, requires = "database", conflicts_with = "yes")]
    dump: bool,
    /// Restore its files below a new directory
    #[arg(long, requires = "to")]
    files: bool,
    /// The new directory
    #[arg(long, value_name = "DIRECTORY", requires = "files")]
    to: Option<String>,
    /// Only these paths
    #[arg(requires = "files")]
    paths: Vec<String>,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    app: AppArgument,
}

#[derive(Debug, Args)]
pub struct RecoverArguments {
    /// The run (default: the newest complete one)
    #[arg(long, value_name = "ID")]
    run: Option<String>,
    #[command(flatten)]
    agreed: AgreedArgument,
}

/// How long another backup command is waited for.
const PATIENCE: Duration = Duration::from_secs(600);

pub async fn backup(command: BackupCommand) -> Result<u8> {
    match command {
        BackupCommand::Run(arguments) => run(&arguments).await,
        BackupCommand::Ship(arguments) => ship(&arguments).await,
        BackupCommand::List(json) => show::list(json.json).await,
        BackupCommand::Status(json) => show::status(json.json),
        BackupCommand::Drill(arguments) => drill(&arguments).await,
        BackupCommand::Verify => verify().await,
        BackupCommand::Restore(arguments) => restore_part(arguments).await,
        BackupCommand::Recover(arguments) => recover(&arguments).await,
        BackupCommand::Adopt(agreed) => adopt(&agreed).await,
        BackupCommand::Key => key().await,
    }
}

fn progress(text: &str) {
    eprintln!("{text}");
}

async fn run(arguments: &RunArguments) -> Result<u8> {
    let host = Host::system(Mode::Apply);
    let envs = source::active(&host)?.envs;
    let _reports = sentry::start(envs.host());
    let quiet = |_: &str| ();
    let tell: backup::Progress<'_> = if arguments.json.json { &quiet } else { &progress };
    let accept = backup::Accept { loss: arguments.accept_loss, new_repository: arguments.new_repository };
    let made = backup::run(&envs, accept, &host, tell).await;
    let told = metrics::write_backup(&backup_metrics(&host)?, &host);
    let outcome = made?;
    told?;
    if arguments.json.json {
        print(&format!("{}\n", serde_json::to_string(&outcome.manifests)?))?;
    } else {
        let lines = outcome.manifests.iter().map(|one| format!("{}\n", show::line(one)));
        print(&lines.collect::<String>())?;
    }
    for (app, why) in &outcome.failed {
        eprintln!("error: {app}: {why}");
    }
    if let Some(trouble) = outcome.trouble.as_ref().filter(|_| outcome.failed.is_empty()) {
        eprintln!("error: {trouble}");
    }
    Ok(if outcome.trouble.is_some() { 1 } else { 0 })
}

async fn ship(arguments: &ShipArguments) -> Result<u8> {
    let host = Host::system(Mode::Apply);
    let envs = source::active(&host)?.envs;
    let _reports = sentry::start(envs.host());
    let shipped = backup::ship(&envs, arguments.scheduled, &host, &progress).await;
    let told = metrics::write_backup(&backup_metrics(&host)?, &host);
    match shipped? {
        backup::Shipped::Nothing(why) => print(&format!("nothing was shipped: {why}\n"))?,
        backup::Shipped::UpTo { at, is_point } => {
            let files = if is_point { "" } else { "; files were not, since an update is at work" };
            print(&format!("shipped what was written until {at}{files}\n"))?;
        }
    }
    told?;
    Ok(0)
}

fn backup_metrics(host: &Host) -> Result<metrics::BackupMetrics> {
    let (record, shipping) = (Record::read(host)?, backup::Shipping::read(host)?);
    let seconds = |time: Option<jiff::Timestamp>| time.map(jiff::Timestamp::as_second);
    Ok(metrics::BackupMetrics {
        last_start: seconds(record.last_start),
        last_success: seconds(record.last_success),
        seconds: record.last_seconds,
        bytes: record.last_bytes,
        data_bytes: record.last_database_bytes,
        last_shipped: seconds(shipping.last_success),
        last_drill: seconds(backup::Drill::read(host)?.and_then(|drill| drill.last_passed)),
    })
}

async fn drill(arguments: &DrillArguments) -> Result<u8> {
    let host = Host::system(Mode::Apply);
    let envs = source::active(&host)?.envs;
    let _reports = sentry::start(envs.host());
    let quiet = |_: &str| ();
    let tell: backup::Progress<'_> = if arguments.json.json { &quiet } else { &progress };
    let drill = backup::drill(&envs, arguments.run.as_deref(), &host, tell).await?;
    metrics::write_backup(&backup_metrics(&host)?, &host)?;
    match arguments.json.json {
        true => print(&format!("{}\n", serde_json::to_string(&drill)?))?,
        false => print(&show::drill(&drill))?,
    }
    Ok(u8::from(drill.trouble.is_some()))
}

async fn verify() -> Result<u8> {
    let host = Host::system(Mode::Apply);
    let envs = source::active(&host)?.envs;
    let _lock = BackupLock::take(&host, "backup verify", PATIENCE).await?;
    let restic = Restic::of(envs.host(), &host)?;
    restic.unlock().await?;
    restic.check("1/1").await?;
    print("the repository is whole\n")?;
    Ok(0)
}

/// The run that is meant, with the repository.
async fn manifest<'a>(env: &Env, envs: &Envs, run: Option<&str>, host: &'a Host) -> Result<(Restic<'a>, Manifest)> {
    let restic = Restic::of(envs.host(), host)?;
    let manifest = backup::runs(&restic).await?.of(&env.app.name, run)?.manifest(&restic).await?;
    Ok((restic, manifest))
}

async fn restore_part(arguments: RestoreArguments) -> Result<u8> {
    let host = Host::system(Mode::Apply);
    recovering::refuse(&host)?;
    let envs = source::active(&host)?.envs;
    let env = arguments.app.one(&envs)?;
    if let Some(at) = arguments.at {
        return restore_moment(env, &envs, at, &arguments).await;
    }
    let (restic, manifest) = manifest(env, &envs, arguments.run.as_deref(), &host).await?;
    if let Some(to) = &arguments.to {
        let to = absolute(to)?;
        restore::files(&restic, &manifest, &to, &arguments.paths, &host).await?;
        print(&format!("files of the run {} are in {to}\n", manifest.run))?;
        return Ok(0);
    }
    if arguments.dump {
        let file = restore::fetch_dump(env, &restic, &manifest, &host).await?;
        print(&format!("the database of the run {} is in {file}\n", manifest.run))?;
        return Ok(0);
    }
    let what = format!("what it was on {} ({} rows)", manifest.at, manifest.rows());
    let host = agreed_to_replace(env, &what, arguments.yes).await?;
    eprintln!("fetching the database");
    let file = restore::fetch_dump(env, &restic, &manifest, &host).await?;
    put_in_place(env, &file, &host).await?;
    print(&format!("the database {} is that of the run {}\n", env.app.database, manifest.run))?;
    Ok(0)
}

async fn restore_moment(env: &Env, envs: &Envs, at: jiff::Timestamp, arguments: &RestoreArguments) -> Result<u8> {
    let host = Host::system(Mode::Apply);
    let restic = Restic::of(envs.host(), &host)?;
    let source = backup::rewind::source_at(&backup::runs(&restic).await?, at)?;
    source.check(&host)?;
    if arguments.dump {
        let file = restore::rewound_dump(env, &restic, &source, &host, &progress).await?;
        print(&format!("the database as it was on {at} is in {file}\n"))?;
        return Ok(0);
    }
    let host = agreed_to_replace(env, &format!("what it was on {at}"), arguments.yes).await?;
    let file = restore::rewound_dump(env, &restic, &source, &host, &progress).await?;
    put_in_place(env, &file, &host).await?;
    print(&format!("the database {} is what it was on {at}\n", env.app.database))?;
    Ok(0)
}

/// The host, once it is ready and somebody has agreed that the database is replaced.
async fn agreed_to_replace(env: &Env, by: &str, yes: bool) -> Result<Host> {
    let host = super::update::ready().await?;
    let text = format!(
        "the database {} becomes {by}, and is migrated to the release that runs; what is in it now is dumped to {} first, and visitors see the \
         status page meanwhile",
        env.app.database,
        update::dump::directory(&env.app.name)
    );
    if !yes && !is_agreed(&text)? {
        bail!("{text}; nothing was done. With --yes it is");
    }
    Ok(host)
}

/// Puts a fetched dump in the place of the app's database; the file goes.
async fn put_in_place(env: &Env, file: &str, host: &Host) -> Result<()> {
    let restored = async {
        let archive = update::archive::open(env, file, host).await?;
        let _reports = sentry::start(env);
        let wish = Wish { reset: Some(ResetFrom::Archive(archive)), ..Wish::default() };
        watched(env, host, false, async |reporter| update::update(env, wish, host, reporter).await).await
    };
    let restored = restored.await;
    host.discard(file)?;
    restored.map(drop)
}

async fn recover(arguments: &RecoverArguments) -> Result<u8> {
    let host = Host::system(Mode::Apply);
    if super::update::is_up(&host).await? || host.unit_state(super::update::SERVICE).await? == UnitState::Active {
        bail!("the appliance is started; a recovery is for a host that is not: systemctl stop appliance");
    }
    let found = super::env::find(&host).await?;
    let _reports = sentry::start(found.envs.host());
    let plan = backup::recover::plan(&found.envs, arguments.run.as_deref(), &host).await?;
    plan.manifests.iter().for_each(|one| eprintln!("{}", show::line(one)));
    if let Some(chosen) = &plan.point {
        eprintln!("as it was shipped at {}", chosen.point.at.strftime("%Y-%m-%d %H:%M:%S UTC"));
        for app in chosen.point.apps.iter().filter(|app| !app.unlogged.is_empty()) {
            eprintln!(
                "warning: {}: these tables will be empty, since they are UNLOGGED: {}",
                app.app,
                app.unlogged.join(", ")
            );
        }
    }
    plan.note.iter().for_each(|note| eprintln!("warning: {note}"));
    plan.without.iter().for_each(|app| eprintln!("warning: {app}: there is no run of it; it begins empty"));
    arguments
        .agreed
        .ask("this host becomes what it was in these runs, and the one that writes into the repository from then on")?;
    // Where files are to lie comes first; their owners and the databases after them.
    prepare_all(&found, &host, Some(Step::Storage), "backup recover").await?;
    plan.place_files(&found.envs, &host, &progress).await?;
    progress("preparing the host");
    prepare_all(&found, &host, None, "backup recover").await?;
    plan.fill_databases(&found.envs, &host, &progress).await?;
    plan.end(&host).await?;
    drop(plan);
    progress("starting the appliance");
    start_supervisor(&host).await?;
    let status = Status::read(&host, None)?.context("the supervisor has written no status")?;
    print(&format!("everything is back; {}\n", status.phase.text()))?;
    Ok(status.exit_code())
}

async fn adopt(agreed: &AgreedArgument) -> Result<u8> {
    let host = Host::system(Mode::Apply);
    let envs = source::active(&host)?.envs;
    let _lock = BackupLock::take(&host, "backup adopt", PATIENCE).await?;
    let restic = Restic::of(envs.host(), &host)?;
    let found = backup::runs(&restic).await?;
    let newest = found.generation();
    agreed.ask("this host will write into the repository, and the one that does so now will be refused")?;
    let generation = backup::adopt(newest, restic.id().await?, &host)?;
    print(&format!("this host writes into the repository now (generation {generation})\n"))?;
    Ok(0)
}

async fn key() -> Result<u8> {
    let host = Host::system(Mode::Apply);
    // On a host that was never started it is the env that a start would take.
    let found = match host.exists(history::ACTIVE) {
        true => Box::new(source::active(&host)?),
        false => super::env::find(&host).await?,
    };
    let envs = &found.envs;
    let restic = Restic::of(envs.host(), &host)?;
    let quoted = |text: &str| format!("'{}'", text.replace('\'', "'\\''"));
    let lines = restic.variables().into_iter().map(|(name, value)| format!("export {name}={}\n", quoted(value)));
    let mut text: String = lines.collect();
    restic
        .options()
        .iter()
        .for_each(|option| text.push_str(&format!("# beside: restic --option {}\n", quoted(option))));
    print(&text)?;
    Ok(0)
}
