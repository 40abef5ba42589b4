//! The copy from before a migration that a killed run has left: it becomes a file beside the running app.

use super::databases::{Databases, Role};
use super::dump;
use crate::env::Env;
use crate::host::Host;
use crate::state::{Ledger, UpdateLock};

/// Begins with it if there is one, unless an update is under way, which does it itself. What fails is tried again at the next start or
/// migration.
pub fn settle_soon(env: &Env, host: &Host) {
    let (env, host) = (env.clone(), host.clone());
    tokio::spawn(async move {
        let settled = async {
            // Looked at before the lock is taken: giving that up wakes whoever waits for it.
            if !Databases::of(&env, &host)?.has(Role::Before).await? {
                return Ok(());
            }
            let Some(_alone) = UpdateLock::try_take(&host, "dump the copy from before the migration")? else {
                return Ok(());
            };
            match Ledger::read_for(&host, &env.app.name)?.in_flight {
                Some(_) => Ok(()),
                None => dump::settle_copy(&env, &host).await,
            }
        };
        if let Err(error) = settled.await {
            tracing::warn!("{error:#}; the copy from before the migration stays, and takes room");
        }
    });
}
