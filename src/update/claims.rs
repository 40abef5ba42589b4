//! Whether a release can run beside the other apps of the host: by what their compose files claim (`stack/conflicts.rs`).

use super::undo::is_to_run;
use crate::env::{Env, Envs, MAX_BYTES};
use crate::host::Host;
use crate::stack::conflicts::Conflicts;
use crate::stack::{self, Stack};
use crate::state::{Ledger, history};
use anyhow::{Result, bail};

/// # Errors
/// The stack cannot run beside that of an app that has run before it, or of two that have, or have not, stands first in the env.
pub fn refuse_conflicts(env: &Env, stack: &Stack, envs: &Envs, host: &Host) -> Result<()> {
    let has_run = |env: &Env| Ledger::read_for(host, &env.app.name).is_ok_and(|ledger| ledger.current.is_some());
    let mut is_earlier = true;
    for other in envs.iter() {
        is_earlier &= other.app.name != env.app.name;
        let comes_first = (has_run(other), is_earlier) > (has_run(env), !is_earlier);
        if other.app.name != env.app.name && is_to_run(other, host) && comes_first {
            refuse_conflict(env, stack, other, host)?;
        }
    }
    Ok(())
}

/// The same for a new release of an app that runs: what it did not claim before belongs to whoever has it.
///
/// # Errors
/// It claims what another app has that is to run.
pub fn refuse_new_conflicts(env: &Env, stack: &Stack, host: &Host) -> Result<()> {
    let active = host.read_start(history::ACTIVE, MAX_BYTES + 1)?.and_then(|bytes| Env::parse(&bytes).envs);
    let others = active.iter().flat_map(Envs::iter).filter(|other| other.app.name != env.app.name);
    others.filter(|other| is_to_run(other, host)).try_for_each(|other| refuse_conflict(env, stack, other, host))
}

fn refuse_conflict(env: &Env, stack: &Stack, other: &Env, host: &Host) -> Result<()> {
    // One that cannot be read is not started either.
    let Ok(theirs) = stack::load_to_stop(other, host) else { return Ok(()) };
    let Conflicts { errors, warnings } = Conflicts::between(stack, &theirs);
    warnings.iter().for_each(|warning| tracing::warn!("{}: {warning}", env.app.name));
    if errors.is_empty() { Ok(()) } else { bail!("{}", errors.join("; ")) }
}
