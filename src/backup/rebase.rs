//! Base backups, and whether the log that was shipped until now goes on: of the same cluster, without a hole, into the same repository. If it
//! does not, it is given up, and a new one begins with a base backup of its own.

use super::base::{self, Position};
use super::fetched;
use super::restic::Restic;
use super::runs::{Found, Writer};
use super::scratch;
use super::shipping::{self, Base, Shipping};
use super::wal::Segment;
use crate::env::Envs;
use crate::host::Host;
use crate::prepare::postgres::{self, archive};
use crate::report::sentry;
use crate::state::{BackupLock, ShipLock};
use anyhow::Result;

/// Whether what was shipped until now is continued; if not, it is given up.
pub(super) async fn continued(
    shipping: &mut Shipping,
    found: &Found,
    writer: &Writer,
    repository: &str,
    host: &Host,
) -> Result<bool> {
    let cluster = postgres::cluster(host)?;
    let position = base::position(&cluster, host).await?;
    let Some(base) = shipping.base.clone() else { return Ok(false) };
    match why_not_continued(shipping, &base, &position, found, writer, repository, host)? {
        None => Ok(true),
        Some(why) => {
            shipping.give_up(&why, &base.spool, host)?;
            Ok(false)
        }
    }
}

/// Stores a base backup, by which the log is continued where there is one.
pub(super) async fn rebase(
    shipping: &mut Shipping,
    _lock: &ShipLock,
    found: Option<&Found>,
    restic: &Restic<'_>,
    writer: &Writer,
    repository: &str,
    host: &Host,
) -> Result<Base> {
    let is_continued = match found {
        Some(found) => continued(shipping, found, writer, repository, host).await?,
        None => false,
    };
    let chain = shipping.base.as_ref().filter(|_| is_continued).map(|base| base.chain.clone());
    let spool = archive::spool(&postgres::cluster(host)?.id);
    if chain.is_none() {
        // What another cluster may have left there would keep this one from archiving.
        shipping::clear(&spool, None, host)?;
    }
    let base = base::make(restic, writer, chain.as_deref(), repository, host).await?;
    shipping.base = Some(base.clone());
    // A position from before the base is none that it can be brought to.
    shipping.closed = None;
    shipping.write(host)?;
    Ok(base)
}

fn why_not_continued(
    shipping: &Shipping,
    base: &Base,
    position: &Position,
    found: &Found,
    writer: &Writer,
    repository: &str,
    host: &Host,
) -> Result<Option<String>> {
    let first: Segment = base.first.parse()?;
    let is_other = base.system != position.system || base.segment_bytes != position.segment_bytes;
    let newest = found.shipments.iter().filter(|one| one.chain == base.chain).map(|one| one.stretch.last).max();
    let known = |text: &Option<String>| text.as_ref().and_then(|name| name.parse::<Segment>().ok());
    let ours = known(&shipping.begun).max(known(&shipping.shipped));
    let why = match () {
        () if is_other || base.spool != archive::spool(&postgres::cluster(host)?.id) => {
            "the cluster is another one now"
        }
        () if first.timeline != position.segment.timeline => "PostgreSQL has begun another timeline",
        () if base.repository != repository => "the repository is another one now",
        () if base.generation != writer.generation => "the repository was adopted since",
        () if !found.bases.iter().any(|known| known.id == base.id) => {
            "the base backup is not in the repository any more"
        }
        // As after a virtual machine was set back: its log has the same names, and something else in it.
        () if newest > ours => "the repository has more of the log than this host has shipped",
        () if newest < known(&shipping.shipped) => {
            let why = "what was shipped last is not in the repository any more: somebody has put an older state of it back, or has removed some";
            sentry::critical(host, "The backup's repository is not as it was", why);
            why
        }
        () => return Ok(shipping.waiting(base, host)?.err()),
    };
    Ok(Some(why.to_owned()))
}

/// Takes away what clusters have left that are not in use any more, and what a killed command has left of a scratch cluster.
pub(super) async fn sweep(envs: &Envs, lock: &BackupLock, host: &Host) -> Result<()> {
    let own = archive::spool(&postgres::cluster(host)?.id);
    for name in host.names(archive::SPOOLS)? {
        let path = format!("{}/{name}", archive::SPOOLS);
        if path != own {
            host.remove_tree(&path).await?;
        } else if !archive::is_wanted(envs.host()) {
            shipping::clear(&own, None, host)?;
        }
    }
    fetched::sweep(envs, lock, host)?;
    scratch::sweep(lock, host).await
}
