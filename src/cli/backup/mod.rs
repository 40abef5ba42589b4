//! `appliance backup …`: runs, what there is, and the ways back.

mod restore;
mod show;

use super::agreed::AgreedArgument;
use super::host::prepare_all;
use super::update::start_supervisor;
use super::{JsonArgument, print};
use crate::backup::{self, Record, Restic};
use crate::host::{Host, Mode, UnitState};
use crate::report::{metrics, sentry};
use crate::source::{self, Found};
use crate::state::{BackupLock, ShipLock, Status, history};
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
        after_help = "Examples:\n  appliance backup restore --database           (what is in it now is dumped first)\n  appliance backup restore --database --at 2026-11-30T14:05:00+01:00 --dump\n  appliance backup restore --files --to /root/found /data/shop-storage-vault\n  appliance backup restore --files --at 2026-11-30T14:05:00+01:00 --to /root/found /data/shop-storage-vault/a.pdf"
    )]
    Restore(restore::RestoreArguments),
    /// Bring back everything onto a host that holds nothing of it yet
    #[command(after_help = "Example:\n  apt install ./appliance.deb; nano /app/env.yml; appliance backup recover")]
    Recover(RecoverArguments),
    /// Make this host the one that writes into the repository
    #[command(after_help = "Example:\n  appliance backup adopt --yes")]
    Adopt(AdoptArguments),
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
pub struct RecoverArguments {
    /// The run (default: the newest complete one)
    #[arg(long, value_name = "ID")]
    run: Option<String>,
    #[command(flatten)]
    agreed: AgreedArgument,
}

#[derive(Debug, Args)]
pub struct AdoptArguments {
    /// Also if this host has nothing of what the repository holds: its apps begin empty
    #[arg(long)]
    begin_anew: bool,
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
        BackupCommand::Restore(arguments) => restore::restore(arguments).await,
        BackupCommand::Recover(arguments) => recover(&arguments).await,
        BackupCommand::Adopt(arguments) => adopt(&arguments).await,
        BackupCommand::Key => key().await,
    }
}

fn progress(text: &str) {
    eprintln!("{text}");
}

async fn run(arguments: &RunArguments) -> Result<u8> {
    let host = Host::system(Mode::Apply);
    let envs = source::active(&host)?.envs;
    let _reports = sentry::start(envs.host(), &host);
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
    let _reports = sentry::start(envs.host(), &host);
    let shipped = backup::ship(&envs, arguments.scheduled, &host, &progress).await;
    let told = metrics::write_backup(&backup_metrics(&host)?, &host);
    match shipped? {
        backup::Shipped::Nothing(why) => print(&format!("nothing was shipped: {why}\n"))?,
        backup::Shipped::UpTo { at, is_point } => {
            let files = if is_point { "" } else { "; files were not, since an update or a run is at work" };
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
    let _reports = sentry::start(envs.host(), &host);
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
    let _shipping = ShipLock::take(&host, "backup verify", PATIENCE).await?;
    let restic = Restic::of(envs.host(), &host)?;
    restic.unlock().await?;
    restic.check("1/1").await?;
    print("the repository is whole\n")?;
    Ok(0)
}

async fn recover(arguments: &RecoverArguments) -> Result<u8> {
    let host = Host::system(Mode::Apply);
    if super::update::is_up(&host).await? || host.unit_state(super::update::SERVICE).await? == UnitState::Active {
        bail!("the appliance is started; a recovery is for a host that is not: systemctl stop appliance");
    }
    let found = super::env::find(&host).await?;
    let _reports = sentry::start(found.envs.host(), &host);
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

async fn adopt(arguments: &AdoptArguments) -> Result<u8> {
    let host = Host::system(Mode::Apply);
    let envs = found(&host).await?.envs;
    let _lock = BackupLock::take(&host, "backup adopt", PATIENCE).await?;
    let _shipping = ShipLock::take(&host, "backup adopt", PATIENCE).await?;
    let what = "this host will write into the repository, and the one that does so now will be refused";
    let restic = Restic::of(envs.host(), &host)?;
    let newest = if arguments.begin_anew {
        arguments.agreed.ask(&format!("{what}; its apps begin empty"))?;
        backup::beginning::begin_anew(&host)?;
        match backup::runs(&restic).await {
            Ok(found) => found.generation(),
            Err(error) => {
                eprintln!("warning: {error:#}");
                print(
                    "the apps may begin empty; into the repository nothing is written before: appliance backup adopt\n",
                )?;
                return Ok(0);
            }
        }
    } else {
        let found = backup::runs(&restic).await?;
        let has_runs = envs.iter().any(|env| found.of(&env.app.name, None).is_ok());
        if has_runs && backup::beginning::is_empty(&envs, &host).await? {
            bail!(
                "this host has nothing of what the repository holds. Bring it back: appliance backup recover. Or let the apps begin empty, and \
                 keep the runs: appliance backup adopt --begin-anew"
            );
        }
        arguments.agreed.ask(what)?;
        found.generation()
    };
    let generation = backup::adopt(newest, restic.id().await?, &host)?;
    print(&format!("this host writes into the repository now (generation {generation})\n"))?;
    Ok(0)
}

/// The active env; on a host that was never started the one that a start would take.
async fn found(host: &Host) -> Result<Box<Found>> {
    match host.exists(history::ACTIVE) {
        true => Ok(Box::new(source::active(host)?)),
        false => super::env::find(host).await,
    }
}

async fn key() -> Result<u8> {
    let host = Host::system(Mode::Apply);
    let found = found(&host).await?;
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
