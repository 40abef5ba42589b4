//! Shipping between runs: what PostgreSQL has written since, and the files of the apps, in one snapshot. Where no update is at work it is a
//! point to which the host can be brought back. What it builds on is a base backup, which each run makes anew.

use super::Progress;
use super::base;
use super::content;
use super::open;
use super::point::{self, Point, PointApp};
use super::rebase::{continued, rebase, sweep};
use super::record::{Record, is_clock_synchronised, machine};
use super::restic::Restic;
use super::runs::{self, Found, LOG, POINT, Writer};
use super::shipping::{self, Base, Closed, Shipping};
use super::told::Stored;
use super::wal::{self, Segment};
use crate::env::{Env, Envs, hex};
use crate::host::{Host, What};
use crate::prepare::postgres::{self, archive};
use crate::report::sentry;
use crate::state::{BackupLock, Ledger, ShipLock, Touched, UpdateLock, recovering};
use anyhow::{Context, Result, anyhow, bail};
use jiff::Timestamp;
use std::time::Duration;
use tokio::time::Instant;

/// Shipping takes no more than this part of the time.
const SHARE: u64 = 20;
/// And no pause for it is longer than this, in seconds.
pub const PAUSE: u64 = 3600;
/// How soon a base backup that has failed is tried again, in seconds.
const RETRY: u64 = 1200;
/// How long PostgreSQL may take to put a segment into the spool; it tries again after 60 s (PGARCH_RESTART_INTERVAL).
const ARCHIVING: Duration = Duration::from_secs(150);
const LOOK: Duration = Duration::from_millis(100);
/// How often the spool is looked at while something is shipped.
const BOUND: Duration = Duration::from_secs(30);
/// How long a segment is unless the cluster was made otherwise, in bytes.
const USUAL_SEGMENT: u64 = 16 << 20;

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shipped {
    /// Nothing was to be done; why.
    Nothing(String),
    /// Up to this moment; and whether files are with it.
    UpTo { at: Timestamp, is_point: bool },
}

/// Ships what was written since the last time; by the timer not so often that it would take much of the time.
///
/// # Errors
/// It could not be; what waits in the spool stays there as long as there is room.
pub async fn ship(envs: &Envs, scheduled: bool, host: &Host, progress: Progress<'_>) -> Result<Shipped> {
    if !archive::is_wanted(envs.host()) {
        return Ok(Shipped::Nothing("appliance.backup.continuous is no, or there is no target".to_owned()));
    }
    let spool = archive::spool(&postgres::cluster(host)?.id);
    let before = Shipping::read(host)?;
    let segment_bytes = before.base.as_ref().map_or(USUAL_SEGMENT, |base| base.segment_bytes);
    // Before all else: whoever has the lock may be busy for hours, and the spool must not fill up meanwhile.
    shipping::bound(&before, &spool, segment_bytes, host)?;
    recovering::refuse(host)?;
    let impossible = base::why_impossible(host).await?;
    let Some(lock) = ShipLock::try_take(host, "backup ship")? else {
        return Ok(Shipped::Nothing(
            "another backup command is at work, and needs the repository for itself".to_owned(),
        ));
    };
    recovering::refuse(host)?;
    let record = Record::read(host)?;
    if record.repository.is_none() {
        return Ok(Shipped::Nothing("the first run is still to come: appliance backup run".to_owned()));
    }
    let mut shipping = Shipping::read(host)?;
    shipping.notice_given_up(&spool, host)?;
    shipping.impossible = impossible;
    if let Some(why) = shipping.impossible.clone() {
        // PostgreSQL may archive all the same, until it is told otherwise.
        shipping.give_up(&why, &spool, host)?;
        return Ok(Shipped::Nothing(why));
    }
    if scheduled && is_too_soon(&shipping, host.now()) {
        return Ok(Shipped::Nothing("the last shipment took long or failed; the next attempt comes later".to_owned()));
    }
    shipping.last_start = Some(host.now());
    shipping.write(host)?;
    // A scratch cluster is left over only if nobody is at work with it.
    if let Some(lock) = BackupLock::try_take(host, "backup ship")?
        && let Err(error) = sweep(envs, &lock, host).await
    {
        tracing::warn!("what was left of earlier commands cannot be taken away: {error:#}");
    }
    let is_news = shipping.trouble.is_none();
    let made =
        bounded(&spool, segment_bytes, host, Making::make(envs, &record, &mut shipping, &lock, host, progress)).await;
    shipping.trouble = made.as_ref().err().map(|error| format!("{error:#}"));
    if made.is_ok() {
        shipping.last_success = Some(host.now());
    }
    shipping.write(host)?;
    if let Some(trouble) = shipping.trouble.as_ref().filter(|_| is_news) {
        sentry::critical(host, "Changes could not be shipped to the backup", trouble);
    }
    made
}

/// Tables that PostgreSQL keeps out of its log: what is in them cannot be shipped.
async fn unlogged(env: &Env, host: &Host) -> Result<Vec<String>> {
    let login = postgres::cluster(host)?.superuser(env.app.database.as_str());
    let sql = "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
               WHERE c.relpersistence = 'u' AND c.relkind = 'r' ORDER BY 1 LIMIT 100";
    Ok(host.query(&login, sql, &[]).await?.into_iter().flatten().flatten().collect())
}

/// Whether the last time took much, or a base backup has failed, not long ago.
fn is_too_soon(shipping: &Shipping, now: Timestamp) -> bool {
    let since = |last: Option<Timestamp>| last.map_or(u64::MAX, |last| now.as_second().abs_diff(last.as_second()));
    let has_failed = shipping.base.is_none() && shipping.trouble.is_some();
    since(shipping.last_success) < shipping.last_seconds.saturating_mul(SHARE).min(PAUSE)
        || has_failed && since(shipping.last_start) < RETRY
}

/// Does something for as long as the spool does not hold too much.
async fn bounded<T>(spool: &str, segment_bytes: u64, host: &Host, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return done,
            () = tokio::time::sleep(BOUND) => {
                // What is being shipped now counts as lost, too: it cannot be told how much of it has arrived.
                if let Some(why) = shipping::bound(&Shipping::read(host)?, spool, segment_bytes, host)? {
                    bail!("{why}");
                }
            }
        }
    }
}

struct Making<'a> {
    envs: &'a Envs,
    lock: &'a ShipLock,
    host: &'a Host,
    restic: Restic<'a>,
    writer: Writer,
}

impl<'a> Making<'a> {
    async fn make(
        envs: &'a Envs,
        record: &Record,
        shipping: &mut Shipping,
        lock: &'a ShipLock,
        host: &'a Host,
        progress: Progress<'_>,
    ) -> Result<Shipped> {
        let restic = Restic::of(envs.host(), host)?;
        if shipping.trouble.is_some() {
            // What a command that was killed has left.
            restic.unlock().await?;
        }
        shipping.forget(&restic, host).await?;
        let (repository, mut found) = Self::open(&restic, record).await?;
        found.shipments.retain(|one| !shipping.to_forget.iter().any(|id| one.stretch.snapshot.starts_with(id)));
        let writer = Writer { machine: machine(host)?, generation: record.generation, serial: found.next_serial() };
        found.refuse_foreign(&writer.machine, writer.generation)?;
        let making = Making { envs, lock, host, restic, writer };
        // A hole may show only behind the segment that is closed now.
        for _ in 0..2 {
            let base = match continued(shipping, &found, &making.writer, &repository, host).await? {
                true => shipping.base.clone(),
                false => None,
            };
            let base = match base {
                Some(base) => base,
                None => {
                    progress("storing a base backup of the databases");
                    rebase(shipping, making.lock, None, &making.restic, &making.writer, &repository, host).await?
                }
            };
            if let Some(shipped) = making.rest(&base, shipping, progress).await? {
                return Ok(shipped);
            }
        }
        bail!("PostgreSQL's log has holes, also behind a new base backup; see: journalctl -u 'postgresql@*'")
    }

    /// The repository's id, and what it holds.
    async fn open(restic: &Restic<'_>, record: &Record) -> Result<(String, Found)> {
        if let Some(known) = open::known(restic, record).await {
            return Ok(known);
        }
        let id = restic.id().await?;
        if record.repository.as_ref() != Some(&id) {
            bail!(
                "the repository is another one than that of the last run; is its file system mounted? Nothing was shipped"
            );
        }
        Ok((id, runs::runs(restic).await?))
    }

    /// `None`: there was a hole, and what was shipped is given up.
    async fn rest(&self, base: &Base, shipping: &mut Shipping, progress: Progress<'_>) -> Result<Option<Shipped>> {
        let host = self.host;
        // No update begins while the files are read; one that is at work is not waited for: the log is shipped without a point.
        let update = UpdateLock::try_take(host, "backup ship")?;
        let at = host.now();
        let lsn = self.close_segment(base, shipping).await?;
        let segments = match shipping.waiting(base, host)? {
            Ok(segments) => segments,
            Err(why) => {
                shipping.give_up(&why, &base.spool, host)?;
                return Ok(None);
            }
        };
        let (Some(first), Some(last)) = (segments.first().copied(), segments.last().copied()) else {
            bail!("{} holds nothing to ship", base.spool);
        };
        let id = format!("{}-{}", at.strftime("%Y%m%dT%H%M%SZ"), hex(&host.random::<2>()?));
        let point = match update {
            Some(_) => self.point(&id, at, base, &lsn, shipping).await.map(Some),
            None => Ok(None),
        };
        let mut paths = vec![base.spool.clone()];
        if let Ok(Some(point)) = &point {
            host.put(&point::file(), serde_json::to_string(point)?.as_bytes(), 0o600)?;
            paths.extend(content::of_host(host));
            paths.extend(point.apps.iter().flat_map(|app| app.paths.iter().cloned()));
        }
        progress("shipping what was written since the last time");
        let begun = Instant::now();
        // Before it is stored: what is in the repository is never ahead of this.
        shipping.begun = Some(last.to_string());
        shipping.write(host)?;
        let is_point = paths.len() > 1;
        let tags = self.writer.tags(&[
            ("shipment", &id),
            ("part", if is_point { POINT } else { LOG }),
            ("at", &at.to_string()),
            ("base", &base.id),
            ("chain", &base.chain),
            ("first", &first.to_string()),
            ("last", &last.to_string()),
            ("lsn", &lsn),
        ]);
        let left_out = content::left_out(self.envs.iter().map(|env| &env.app));
        let stored = self.restic.store(&paths, &left_out, &tags).await.context("could not ship changes")?;
        if let Some(missing) = self.missing(base, &stored, first, last).await? {
            // While a run stores something, nothing can be forgotten.
            shipping.to_forget.push(stored.snapshot.clone());
            shipping.write(host)?;
            shipping.forget(&self.restic, host).await?;
            bail!(
                "a segment of PostgreSQL's log went away or could not be read while it was shipped ({missing}); it is tried again"
            );
        }
        shipping.shipped = Some(last.to_string());
        shipping.last_seconds = begun.elapsed().as_secs();
        if let Ok(Some(point)) = &point {
            point.apps.iter().for_each(|app| shipping.holds(app.app.as_str(), app.in_vault, &app.excluded));
        }
        shipping.write(host)?;
        shipping.trim(base, host)?;
        if let Some(unread) = &stored.unread {
            bail!("what was written was shipped, but not all files could be read, {unread} for one");
        }
        point.context("PostgreSQL's log was shipped, but no files")?;
        Ok(Some(Shipped::UpTo { at, is_point }))
    }

    /// A segment that a snapshot's tags name, and that it has not: it would be taken for one that has it.
    async fn missing(&self, base: &Base, stored: &Stored, first: Segment, last: Segment) -> Result<Option<String>> {
        // Segments only ever go: one that is there now was there all the time.
        let left = wal::segments(&self.host.names(&base.spool)?);
        let gone = wal::hole(&left, first, last, base.segment_bytes).map(|gone| gone.to_string());
        let unread = match stored.passed_over.is_empty() {
            true => None,
            // Files of apps may well go away meanwhile: what the snapshot has of the log is asked for.
            false => {
                let held = self.restic.list(&stored.snapshot, Some(&base.spool)).await?;
                let names = held.iter().filter_map(|file| file.path.rsplit_once('/')).map(|(_, name)| name.to_owned());
                let held = wal::segments(&names.collect::<Vec<_>>());
                wal::hole(&held, first, last, base.segment_bytes).map(|missing| missing.to_string())
            }
        };
        Ok(gone.or(unread))
    }

    /// Makes PostgreSQL close the segment that it writes into, and waits for it. Gives back the position up to which all is in the spool.
    async fn close_segment(&self, base: &Base, shipping: &mut Shipping) -> Result<String> {
        let (host, cluster) = (self.host, postgres::cluster(self.host)?);
        let position = base::position(&cluster, host).await?;
        let last = wal::segments(&host.names(&base.spool)?).last().map(Segment::to_string);
        // No transaction has ended since: what PostgreSQL notes for itself at rest need not be shipped.
        let is_same =
            |closed: &&Closed| closed.snapshot == position.snapshot && last.is_some() && last == shipping.shipped;
        if let Some(closed) = shipping.closed.as_ref().filter(is_same) {
            return Ok(closed.lsn.clone());
        }
        // A record behind the position, in the segment that is closed: where reading the log ends.
        let sql = "SELECT pg_catalog.pg_create_restore_point('appliance')".to_owned();
        host.execute(&cluster.superuser("postgres"), "PostgreSQL's log", "write into", sql).await?;
        host.note_act(What::Database, "PostgreSQL's log", "close a segment of");
        let closed =
            base::first(host, &cluster.superuser("postgres"), "SELECT pg_walfile_name(pg_switch_wal())::text").await?;
        if let Err(error) = self.wait_for(closed.parse()?, &base.spool).await {
            // Something is in PostgreSQL's way there: it must not fill up its own directory with what it cannot archive.
            shipping.give_up(&format!("{error:#}"), &base.spool, host)?;
            return Err(error);
        }
        shipping.closed = Some(Closed { lsn: position.lsn.clone(), snapshot: position.snapshot });
        Ok(position.lsn)
    }

    async fn wait_for(&self, segment: Segment, spool: &str) -> Result<()> {
        let (path, mut since, mut count) = (format!("{spool}/{segment}"), Instant::now(), 0);
        while !self.host.exists(&path) {
            // While others arrive before it, it is on its way.
            let now = self.host.names(spool)?.len();
            if now != count {
                (since, count) = (Instant::now(), now);
            }
            if since.elapsed() > ARCHIVING {
                bail!(
                    "PostgreSQL has not put {segment} into {spool} within {} s; see: journalctl -u 'postgresql@*' and the log in /var/log/postgresql",
                    ARCHIVING.as_secs()
                );
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    async fn point(&self, id: &str, at: Timestamp, base: &Base, lsn: &str, shipping: &Shipping) -> Result<Point> {
        let (host, of_host) = (self.host, self.envs.host());
        let mut apps = Vec::new();
        for env in self.envs.iter() {
            let app = &env.app.name;
            let ledger = Ledger::read_for(host, app)?;
            let Some(release) = ledger.current else { continue };
            if let Some(flight) = ledger.in_flight.filter(|flight| flight.database != Touched::No) {
                bail!(
                    "an update of {app} was cut off in its stage {}; see: appliance status --app {app}",
                    flight.stage
                );
            }
            let content = content::of_app(env, host).await?;
            let before = shipping.held(app.as_str(), &content.excluded);
            content::refuse_loss(before, content.in_vault, app.as_str())?;
            apps.push(PointApp {
                app: app.clone(),
                release: Some(release.commit),
                paths: content.paths,
                volumes: content.volumes,
                in_vault: content.in_vault,
                excluded: content.excluded,
                unlogged: unlogged(env, host).await?,
            });
        }
        if apps.is_empty() {
            return Err(anyhow!("no app has a release yet"));
        }
        Ok(Point {
            version: Point::VERSION,
            id: id.to_owned(),
            at,
            appliance: env!("CARGO_PKG_VERSION").to_owned(),
            host: of_host.host_domain.as_str().to_owned(),
            machine: self.writer.machine.clone(),
            generation: self.writer.generation,
            serial: self.writer.serial,
            is_clock_synchronised: is_clock_synchronised(host).await,
            env_digest: of_host.file_digest.clone(),
            base: base.clone(),
            lsn: lsn.to_owned(),
            of_host: content::of_host(host),
            apps,
        })
    }
}
