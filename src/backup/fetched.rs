//! Dumps that come out of the repository, in the directory of the app's dumps. One that somebody asked for stays there. One that is put in
//! place at once goes with that; where whoever fetched it was killed, the next backup command takes it away.

use crate::env::Envs;
use crate::host::Host;
use crate::state::BackupLock;
use crate::update::dump;
use crate::value::{AppName, Owner};
use anyhow::{Context, Result};

/// What a dump is fetched for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Somebody asked for it.
    Keep,
    /// To be put in place.
    Use,
}

/// A fetched dump. Until this is dropped nobody else takes it away.
#[derive(Debug)]
pub struct Fetched {
    pub file: String,
    pub(super) _lock: BackupLock,
}

const KEPT: &str = "backup";
const USED: &str = "fetched";

/// Where a dump comes to lie.
pub(super) fn target(app: &AppName, id: &str, purpose: Purpose) -> String {
    let word = match purpose {
        Purpose::Keep => KEPT,
        Purpose::Use => USED,
    };
    format!("{}/{app}-{word}-{id}.pgdump", dump::directory(app))
}

/// What it is called until it is complete.
pub(super) fn beside(target: &str) -> String {
    format!("{target}.part")
}

/// Gives a dump that was written beside its target to the app's user, as whom pg_restore reads it, and puts it there; one that was not
/// written goes.
pub(super) fn settle<T>(written: Result<T>, target: &str, host: &Host) -> Result<()> {
    let beside = beside(target);
    let done = written.and_then(|_| {
        let owner: Owner = "app".parse().context("a user name is an owner")?;
        host.ensure_owned(&beside, 0o600, &owner)?;
        host.settle_file(&beside, target)
    });
    if done.is_err() {
        host.discard(&beside)?;
    }
    done
}

/// Takes away what killed commands have left of them.
pub(super) fn sweep(envs: &Envs, _lock: &BackupLock, host: &Host) -> Result<()> {
    for app in envs.iter().map(|env| &env.app.name) {
        let directory = dump::directory(app);
        for name in host.names(&directory)?.into_iter().filter(|name| is_left_over(app, name)) {
            // The app's user may write there, also what is no file.
            if let Err(error) = host.discard(&format!("{directory}/{name}")) {
                tracing::warn!("{error:#}");
            }
        }
    }
    Ok(())
}

fn is_left_over(app: &AppName, name: &str) -> bool {
    let is = |word: &str| name.strip_prefix(app.as_str()).is_some_and(|rest| rest.starts_with(&format!("-{word}-")));
    is(USED) || is(KEPT) && name.ends_with(".part")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_nobody_asked_for_is_left_over() {
        let app: AppName = "shop".parse().expect("it is a name");
        let name = |path: String| path.rsplit_once('/').expect("it lies in a directory").1.to_owned();
        let [kept, used] = [Purpose::Keep, Purpose::Use].map(|purpose| name(target(&app, "1", purpose)));
        assert!(!is_left_over(&app, &kept) && is_left_over(&app, &used));
        assert!(is_left_over(&app, &beside(&kept)) && is_left_over(&app, &beside(&used)));
        for other in ["shop-20261130-010203.pgdump", "shop-reset-20261130-010203.pgdump", "shop-migrate.pgdump.part"] {
            assert!(!is_left_over(&app, other), "{other}");
        }
    }
}
