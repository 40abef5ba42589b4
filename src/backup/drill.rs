//! A drill: what the newest run holds is brought back beside what runs, and compared with what was counted when it was stored. A drill of a
//! run that is damaged fails; that is what it is for. The repository is only read, so runs and shipping go on meanwhile.

use super::Progress;
use super::base::first;
use super::drilled::{Drill, How, Part};
use super::manifest::DatabasePart;
use super::point::Point;
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
use crate::state::{DrillLock, Ledger, Process};
use crate::update::{archive, restore as databases};
use anyhow::{Context, Result, bail};
use std::time::Duration;
use tokio::time::Instant;

/// How long another drill is waited for, and a run that gives room back.
const PATIENCE: Duration = Duration::from_secs(6 * 3600);
/// The longest list of a dump's contents, in bytes.
const MAX_LIST: usize = 64 << 20;

/// Tries out the newest run of each app, or the named one; and with `continuous`, what was shipped last.
///
/// # Errors
/// The repository cannot be read; what cannot be restored is in the result.
pub async fn drill(envs: &Envs, run: Option<&str>, host: &Host, progress: Progress<'_>) -> Result<Drill> {
    let _lock = DrillLock::take(host, "backup drill", PATIENCE).await?;
    let (at, begun) = (host.now(), Instant::now());
    let before = Drill::read(host)?;
    let last_passed = before.as_ref().and_then(|before| before.last_passed);
    let passed = before.map(|before| before.passed).unwrap_or_default();
    let trouble = Some("it was cut off before it came to an end".to_owned());
    let process = Some(Process::current(host));
    let mut drill = Drill { at, parts: Vec::new(), trouble, passed, last_passed, seconds: 0, process };
    // Before anything is tried: one that is killed is not taken for the one before, which has passed.
    drill.write(host)?;
    let failed = match try_all(envs, run, &mut drill, host, progress).await {
        Ok(failed) => failed,
        Err(error) => vec![format!("{error:#}")],
    };
    drill.trouble = (!failed.is_empty()).then(|| failed.join("; "));
    if drill.trouble.is_none() {
        drill.last_passed = Some(at);
    }
    (drill.seconds, drill.process) = (begun.elapsed().as_secs(), None);
    drill.write(host)?;
    if let Some(trouble) = &drill.trouble {
        sentry::critical(host, "The backup cannot be restored", trouble);
    }
    Ok(drill)
}

/// Gives back why some of it failed: each part is tried, whatever became of the others.
async fn try_all(
    envs: &Envs,
    run: Option<&str>,
    drill: &mut Drill,
    host: &Host,
    progress: Progress<'_>,
) -> Result<Vec<String>> {
    let restic = Restic::of(envs.host(), host)?;
    let found = runs::runs(&restic).await?;
    let mut failed = Vec::new();
    for env in envs.iter() {
        let app = &env.app.name;
        if Ledger::read_for(host, app)?.current.is_none() {
            continue;
        }
        match try_app(env, run, &restic, &found, host, progress).await {
            Ok(part) => {
                drill.passed.insert(app.as_str().to_owned(), part.run.clone());
                drill.parts.push(part);
            }
            Err(error) => failed.push(format!("{app}: {error:#}")),
        }
    }
    if run.is_none() && wal::is_wanted(envs.host()) {
        match try_shipped(envs, &restic, &found, host, progress).await {
            Ok(part) => drill.parts.extend(part),
            Err(error) => failed.push(format!("what was shipped: {error:#}")),
        }
    }
    if drill.parts.is_empty() && failed.is_empty() {
        failed.push("no app has a release, so there was nothing to try".to_owned());
    }
    Ok(failed)
}

async fn try_app(
    env: &Env,
    run: Option<&str>,
    restic: &Restic<'_>,
    found: &Found,
    host: &Host,
    progress: Progress<'_>,
) -> Result<Part> {
    let (app, begun) = (&env.app.name, Instant::now());
    let manifest = found.of(app, run)?.manifest(restic).await?;
    let how = match &manifest.database {
        Some(part) => database(env, part, restic, host, progress).await?,
        None => How::None,
    };
    progress(&format!("{app}: bringing back some files"));
    let files = sample::files(restic, &manifest.files.snapshot, manifest.files.count, host).await?;
    let seconds = begun.elapsed().as_secs();
    Ok(Part { app: Some(app.as_str().to_owned()), run: manifest.run, how, files, seconds })
}

/// All databases as they were shipped last, and some of the files beside them.
async fn try_shipped(
    envs: &Envs,
    restic: &Restic<'_>,
    found: &Found,
    host: &Host,
    progress: Progress<'_>,
) -> Result<Option<Part>> {
    let Some(newest) = found.shipments.first() else { return Ok(None) };
    let (source, begun) = (rewind::source(found, newest)?, Instant::now());
    let mut files = 0;
    if let Some(point) = found.shipments.iter().find(|one| one.is_point) {
        Point::read(restic, point).await?;
        files = sample::files(restic, &point.stretch.snapshot, 0, host).await?;
    }
    let part = |how| Part { app: None, run: newest.id.clone(), how, files, seconds: begun.elapsed().as_secs() };
    if let Err(error) = room::refuse_too_little(DRILL.directory, source.bytes(restic).await?, host) {
        tracing::warn!("what was shipped: {error:#}");
        return Ok(Some(part(How::NoRoom)));
    }
    progress("bringing back all databases from what was shipped");
    let scratch = rewind::rewind(restic, &source, DRILL, host, progress).await?;
    let looked = async {
        for env in envs.iter() {
            scratch.contents(env).await?;
            check_indexes(&scratch, env.app.database.as_str(), host).await?;
        }
        anyhow::Ok(())
    };
    let looked = looked.await;
    scratch.end().await?;
    looked.map(|()| Some(part(How::Restored)))
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
    let cluster = postgres::cluster(host)?;
    let preloaded = first(host, &cluster.superuser("postgres"), "SHOW shared_preload_libraries").await;
    scratch.start(&[format!("shared_preload_libraries={}", preloaded.unwrap_or_default())]).await?;
    let login = scratch.app_login(env)?;
    let (role, name) = (quote_identifier(&login.user), quote_identifier(&login.database));
    let superuser = scratch.superuser("postgres");
    let live = cluster.superuser(env.app.database.as_str());
    // With the app's own order of letters; where its database is gone, with that of the scratch cluster.
    let like = first(host, &live, LIKE).await.unwrap_or_default();
    let create = format!("CREATE DATABASE {name} OWNER {role} TEMPLATE template0 {like}");
    for sql in [format!("CREATE ROLE {role} LOGIN"), create] {
        host.execute(&superuser, "the scratch cluster", "fill", sql).await?;
    }
    // Those of the dump alone; where they were, the live database says, if it is there.
    let named = archive::chosen(&list.stdout, &[]).1;
    let mut extensions = match databases::extensions_with(&live, &named, host).await {
        Ok(extensions) => extensions,
        Err(_) => named.iter().map(|name| databases::Extension::in_public(name)).collect(),
    };
    extensions.retain(|extension| named.contains(&extension.name));
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

/// How a database is made like the one that is asked.
const LIKE: &str = "SELECT format('ENCODING %L LC_COLLATE %L LC_CTYPE %L', pg_encoding_to_char(encoding), datcollate, datctype) \
                    || CASE WHEN to_jsonb(d) ->> 'datlocprovider' = 'i' THEN format(' LOCALE_PROVIDER icu ICU_LOCALE %L', \
                       coalesce(to_jsonb(d) ->> 'daticulocale', to_jsonb(d) ->> 'datlocale')) ELSE '' END \
                    FROM pg_database d WHERE datname = current_database()";

/// Looks whether indexes and tables fit together (pg_amcheck).
async fn check_indexes(scratch: &Scratch<'_>, database: &str, host: &Host) -> Result<()> {
    // As the superuser: nothing that it calls may be the app's, as it could be in a schema in which the app may make something.
    let own = "DROP EXTENSION IF EXISTS amcheck CASCADE; CREATE EXTENSION amcheck SCHEMA pg_catalog".to_owned();
    host.execute(&scratch.superuser(database), database, "make ready for a check", own).await?;
    let connection = databases::connection(database);
    let args = ["--no-dependent-toast", &connection];
    let check = scratch.superuser(database).client(&scratch.program("pg_amcheck"), args).deadline(LOOKING);
    // What is set for the database or a role would end it.
    let check =
        check.env("PGOPTIONS", "-c search_path=pg_catalog -c statement_timeout=0 -c default_transaction_read_only=off");
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
