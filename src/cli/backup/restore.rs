//! `appliance backup restore`: parts of a run, or of what was shipped, on a host that lives.

use super::super::choice::AppArgument;
use super::super::update::{is_agreed, ready, watched};
use super::super::{absolute, print};
use super::progress;
use crate::backup::{self, Fetched, Manifest, Purpose, Restic, restore as parts};
use crate::env::{Env, Envs};
use crate::host::{Host, Mode};
use crate::report::sentry;
use crate::source;
use crate::state::recovering;
use crate::update::{self, ResetFrom, Wish};
use anyhow::{Result, bail};
use clap::Args;

#[derive(Debug, Args)]
pub struct RestoreArguments {
    /// The run (default: the newest complete one)
    #[arg(long, value_name = "ID")]
    run: Option<String>,
    /// The database as it was at this moment, or files as they were shipped last before it (RFC 3339: 2026-11-30T14:05:00Z)
    #[arg(long, value_name = "TIME", conflicts_with = "run")]
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

/// The run that is meant, with the repository.
async fn manifest<'a>(env: &Env, envs: &Envs, run: Option<&str>, host: &'a Host) -> Result<(Restic<'a>, Manifest)> {
    let restic = Restic::of(envs.host(), host)?;
    let manifest = backup::runs(&restic).await?.of(&env.app.name, run)?.manifest(&restic).await?;
    Ok((restic, manifest))
}

pub async fn restore(arguments: RestoreArguments) -> Result<u8> {
    let host = Host::system(Mode::Apply);
    recovering::refuse(&host)?;
    let envs = source::active(&host)?.envs;
    let env = arguments.app.one(&envs)?;
    if let Some(to) = &arguments.to {
        return restore_files(env, &envs, &absolute(to)?, &arguments, &host).await;
    }
    if let Some(at) = arguments.at {
        return restore_moment(env, &envs, at, &arguments).await;
    }
    let (restic, manifest) = manifest(env, &envs, arguments.run.as_deref(), &host).await?;
    if arguments.dump {
        let fetched = parts::fetch_dump(env, &restic, &manifest, Purpose::Keep, &host).await?;
        print(&format!("the database of the run {} is in {}\n", manifest.run, fetched.file))?;
        return Ok(0);
    }
    let what = format!("what it was on {} ({} rows)", manifest.at, manifest.rows());
    let host = agreed_to_replace(env, &what, arguments.yes).await?;
    eprintln!("fetching the database");
    let fetched = parts::fetch_dump(env, &restic, &manifest, Purpose::Use, &host).await?;
    put_in_place(env, fetched, &host).await?;
    print(&format!("the database {} is that of the run {}\n", env.app.database, manifest.run))?;
    Ok(0)
}

async fn restore_files(env: &Env, envs: &Envs, to: &str, arguments: &RestoreArguments, host: &Host) -> Result<u8> {
    let restic = Restic::of(envs.host(), host)?;
    let found = backup::runs(&restic).await?;
    let (manifest, what) = match arguments.at {
        Some(at) => {
            let shipped = backup::shipped_files(&found, &env.app.name, at, &restic).await?;
            let what = format!("as they were shipped at {}", shipped.at.strftime("%Y-%m-%d %H:%M:%S UTC"));
            (shipped, what)
        }
        None => {
            let manifest = found.of(&env.app.name, arguments.run.as_deref())?.manifest(&restic).await?;
            let what = format!("of the run {}", manifest.run);
            (manifest, what)
        }
    };
    parts::files(&restic, &manifest, to, &arguments.paths, host).await?;
    print(&format!("files {what} are in {to}\n"))?;
    Ok(0)
}

async fn restore_moment(env: &Env, envs: &Envs, at: jiff::Timestamp, arguments: &RestoreArguments) -> Result<u8> {
    let host = Host::system(Mode::Apply);
    let restic = Restic::of(envs.host(), &host)?;
    let source = backup::rewind::source_at(&backup::runs(&restic).await?, at)?;
    source.check(&host)?;
    if arguments.dump {
        let fetched = parts::rewound_dump(env, &restic, &source, Purpose::Keep, &host, &progress).await?;
        print(&format!("the database as it was on {at} is in {}\n", fetched.file))?;
        return Ok(0);
    }
    let host = agreed_to_replace(env, &format!("what it was on {at}"), arguments.yes).await?;
    let fetched = parts::rewound_dump(env, &restic, &source, Purpose::Use, &host, &progress).await?;
    put_in_place(env, fetched, &host).await?;
    print(&format!("the database {} is what it was on {at}\n", env.app.database))?;
    Ok(0)
}

/// The host, once it is ready and somebody has agreed that the database is replaced.
async fn agreed_to_replace(env: &Env, by: &str, yes: bool) -> Result<Host> {
    let host = ready().await?;
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
async fn put_in_place(env: &Env, fetched: Fetched, host: &Host) -> Result<()> {
    let restored = async {
        let archive = update::archive::open(env, &fetched.file, host).await?;
        let _reports = sentry::start(env, host);
        let wish = Wish { reset: Some(ResetFrom::Archive(archive)), ..Wish::default() };
        watched(env, host, false, async |reporter| update::update(env, wish, host, reporter).await).await
    };
    let restored = restored.await;
    host.discard(&fetched.file)?;
    restored.map(drop)
}
