//! A drill: what the newest run holds is brought back beside what runs, and compared with what was counted when it was stored. A drill of a
//! run that is damaged fails; that is what it is for. The repository is only read, so runs and shipping go on meanwhile.

use super::Progress;
use super::drilled::{Drill, How, Part};
use super::manifest::DatabasePart;
use super::recover::difference;
use super::restic::Restic;
use super::rewind;
use super::runs::{self, Found};
use super::scratch::{DRILL, LOOKING, Scratch};
use super::{restore, room, sample};
use crate::env::{Env, Envs};
use crate::host::{Cmd, File, Host, What, quote_identifier};
use crate::prepare::postgres::{self, archive as wal};
use crate::report::sentry;
use crate::state::{DrillLock, Ledger};
use crate::update::{archive, restore as databases};
use anyhow::{Context, Result, bail};
use std::time::Duration;
use tokio::time::Instant;

/// How long another drill is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// The longest list of a dump's contents, in bytes.
const MAX_LIST: usize = 64 << 20;

/// Tries out the newest run of each app, or the named one; and with `continuous`, what was shipped last.
///
/// # Errors
/// The repository cannot be read; what cannot be restored is in the result.
pub async fn drill(envs: &Envs, run: Option<&str>, host: &Host, progress: Progress<'_>) -> Result<Drill> {
    let _lock = DrillLock::take(host, "backup drill", PATIENCE).await?;
    let (at, begun) = (host.now(), Instant::now());
    let restic = Restic::of(envs.host(), host)?;
    let found = runs::runs(&restic).await?;
    let mut parts = Vec::new();
    let tried = try_all(envs, run, &restic, &found, &mut parts, host, progress).await;
    let trouble = tried.err().map(|error| format!("{error:#}"));
    let drill = Drill { at, parts, trouble, seconds: begun.elapsed().as_secs() };
    drill.write(host)?;
    if let Some(trouble) = &drill.trouble {
        sentry::critical(host, "The backup cannot be restored", trouble);
    }
    Ok(drill)
}

async fn try_all(
    envs: &Envs,
    run: Option<&str>,
    restic: &Restic<'_>,
    found: &Found,
    parts: &mut Vec<Part>,
    host: &Host,
    progress: Progress<'_>,
) -> Result<()> {
    for env in envs.iter() {
        let app = &env.app.name;
        if Ledger::read_for(host, app)?.current.is_none() {
            continue;
        }
        let tried = async {
            let begun = Instant::now();
            let manifest = found.of(app, run)?.manifest(restic).await?;
            let how = match &manifest.database {
                Some(part) => database(env, part, restic, host, progress).await?,
                None => How::None,
            };
            progress(&format!("{app}: bringing back some files"));
            let files = sample::files(restic, &manifest, host).await?;
            let seconds = begun.elapsed().as_secs();
            anyhow::Ok(Part { app: Some(app.as_str().to_owned()), run: manifest.run, how, files, seconds })
        };
        parts.push(tried.await.with_context(|| app.as_str().to_owned())?);
    }
    let (None, true, Some(newest)) = (run, wal::is_wanted(envs.host()), found.shipments.first()) else { return Ok(()) };
    let begun = Instant::now();
    let source = rewind::source(found, newest).context("what was shipped")?;
    progress("bringing back all databases from what was shipped");
    let scratch = rewind::rewind(restic, &source, DRILL, host, progress).await.context("what was shipped")?;
    let looked = async {
        for env in envs.iter() {
            scratch.contents(env).await?;
            check_indexes(&scratch, env.app.database.as_str(), host).await?;
        }
        anyhow::Ok(())
    };
    let looked = looked.await;
    scratch.end().await?;
    looked.context("what was shipped")?;
    parts.push(Part {
        app: None,
        run: newest.id.clone(),
        how: How::Restored,
        files: 0,
        seconds: begun.elapsed().as_secs(),
    });
    Ok(())
}

async fn database(
    env: &Env,
    part: &DatabasePart,
    restic: &Restic<'_>,
    host: &Host,
    progress: Progress<'_>,
) -> Result<How> {
    restore::refuse_older(part.major, host)?;
    let app = &env.app.name;
    // Once as a file, once as a database.
    if let Err(error) = room::refuse_too_little(DRILL.directory, part.bytes.saturating_mul(2), host) {
        tracing::warn!("{app}: {error:#}; its rows are counted while the dump is read");
        progress(&format!("{app}: counting the rows of the dump"));
        count_in_stream(part, restic, host).await?;
        return Ok(How::Counted);
    }
    progress(&format!("{app}: restoring the database beside the one that runs"));
    let scratch = Scratch::begin(DRILL, postgres::cluster(host)?.id.number().0, host).await?;
    let restored = restore_into(&scratch, env, part, restic, host).await;
    scratch.end().await?;
    restored.map(|()| How::Restored)
}

async fn restore_into(
    scratch: &Scratch<'_>,
    env: &Env,
    part: &DatabasePart,
    restic: &Restic<'_>,
    host: &Host,
) -> Result<()> {
    let file = scratch.path("database.pgdump");
    restic.fetch(&part.snapshot, &part.path, &file).await.context("could not fetch the database")?;
    let tool = |args: Vec<String>| {
        let cmd = Cmd::new(&scratch.program("pg_restore"), args).input_file(&host.path(&file)).deadline(LOOKING);
        scratch.as_postgres(cmd)
    };
    let list = host.ask(tool(vec!["--list".to_owned()])?.max_output(MAX_LIST)).await.context("the dump is broken")?;
    let data = scratch.data();
    let args = [
        "--username=postgres",
        "--auth=trust",
        "--encoding=UTF8",
        "--locale=C.UTF-8",
        "--no-sync",
        "--no-instructions",
        "--pgdata",
        &data,
    ];
    let make = scratch.as_postgres(Cmd::new(&scratch.program("initdb"), args))?.deadline(LOOKING);
    host.act(What::Database, "the scratch cluster", "make", make).await?;
    scratch.start(&[]).await?;
    let login = scratch.app_login(env)?;
    let (role, name) = (quote_identifier(&login.user), quote_identifier(&login.database));
    let superuser = scratch.superuser("postgres");
    for sql in [format!("CREATE ROLE {role} LOGIN"), format!("CREATE DATABASE {name} OWNER {role} TEMPLATE template0")]
    {
        host.execute(&superuser, "the scratch cluster", "fill", sql).await?;
    }
    let live = postgres::cluster(host)?.superuser(env.app.database.as_str());
    let extensions = databases::extensions_with(&live, &archive::chosen(&list.stdout, &[]).1, host).await?;
    let inside = scratch.superuser(&login.database);
    let schemas = databases::create_extensions(&inside, &extensions, &login.user, host).await?;
    let chosen = scratch.path("list");
    host.ensure_file(&chosen, &File::text(archive::chosen(&list.stdout, &schemas).0).mode(0o644))?;
    let args = ["--exit-on-error", "--no-password", "--no-owner", "--no-acl", "--use-list", &chosen, "--dbname"];
    let args = args.map(str::to_owned).into_iter().chain([databases::connection(&login.database)]);
    // Logged in as the app: restoring runs what it has put into its database.
    let fill = login.client(&scratch.program("pg_restore"), args).input_file(&host.path(&file)).deadline(LOOKING);
    let filled = host.act(What::Database, &login.database, "restore beside", scratch.as_postgres(fill)?).await;
    filled.context("the dump cannot be restored")?;
    let counted = scratch.contents(env).await?.join("\n");
    if let Some(difference) = difference(&part.contents, &counted, part.major == scratch.major()) {
        bail!("what was restored is not what was stored: {difference}");
    }
    check_indexes(scratch, &login.database, host).await
}

/// Looks whether indexes and tables fit together (pg_amcheck).
async fn check_indexes(scratch: &Scratch<'_>, database: &str, host: &Host) -> Result<()> {
    let connection = databases::connection(database);
    let args = ["--install-missing", "--no-dependent-toast", &connection];
    let check = scratch.superuser(database).client(&scratch.program("pg_amcheck"), args).deadline(LOOKING);
    host.ask(scratch.as_postgres(check)?).await.context("tables or indexes are damaged")?;
    Ok(())
}

/// Prints a line for each table of a dump that is read, as [`postgres::census::CONTENTS`] would, without a database.
const COUNT: &str = r#"set -o pipefail
"$1" --data-only --file=- | awk '
within && /^\\\.$/ { print "table " name ": " rows " rows"; within = 0; next }
within { rows++; next }
/^COPY .* FROM stdin;$/ { name = $0; sub(/^COPY /, "", name); sub(/ \(.*/, "", name); sub(/ FROM stdin;$/, "", name); rows = 0; within = 1 }'"#;

async fn count_in_stream(part: &DatabasePart, restic: &Restic<'_>, host: &Host) -> Result<()> {
    let program = postgres::cluster(host)?.program("pg_restore");
    let count = Cmd::new("bash", ["-c", COUNT, "count", &program]).env("LC_ALL", "C").max_output(MAX_LIST);
    let told = restic.pour_and_read(&part.snapshot, &part.path, count).await.context("the dump cannot be read")?;
    let mut counted: Vec<&str> = told.lines().collect();
    // A table without rows is in the dump, too; one whose rows nobody could count is not compared.
    let mut stored: Vec<&str> = part
        .contents
        .iter()
        .map(String::as_str)
        .filter(|line| line.starts_with("table ") && line.ends_with(" rows"))
        .collect();
    counted.retain(|line| {
        stored
            .iter()
            .any(|known| known.split_once(": ").map(|(name, _)| name) == line.split_once(": ").map(|(name, _)| name))
    });
    counted.sort_unstable();
    stored.sort_unstable();
    match stored.iter().zip(&counted).find(|(stored, counted)| stored != counted) {
        Some((stored, counted)) => bail!("the dump is not what was stored: - {stored}; + {counted}"),
        None if stored.len() != counted.len() => {
            bail!("the dump has {} tables, and {} were stored", counted.len(), stored.len())
        }
        None => Ok(()),
    }
}
