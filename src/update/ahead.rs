//! What an update would do, for `plan`: told without fetching, so without what only the new commit can say.

use super::decide::{Decision, Facts, Wish, decide};
use super::git::{self, NotFetched};
use crate::env::Env;
use crate::host::Host;
use crate::stack;
use crate::state::Ledger;
use crate::value::Commit;
use anyhow::Result;

/// Notes what an update would do, and gives back why that cannot be told, if the server cannot be asked.
///
/// # Errors
/// The ledger cannot be read, or the repository has no such branch.
pub async fn plan(env: &Env, host: &Host) -> Result<Option<anyhow::Error>> {
    let ledger = Ledger::read_for(host, &env.app.name)?;
    let directory = stack::checkout(env);
    let (target, unknown) = match git::wanted(&env.app, &directory, host).await {
        Ok(target) => (Some(target), None),
        Err(error) if error.is::<NotFetched>() => (None, Some(error)),
        Err(error) => return Err(error),
    };
    let (target, current) = (target.as_ref(), ledger.current.as_ref().map(|current| &current.commit));
    let target = match (target, current) {
        (Some(target), Some(current)) if git::is_merged(&env.app, &directory, target, current, host).await? => {
            Some(current)
        }
        _ => target,
    };
    if let Some(how) = words(&ledger, target, &env.digest) {
        host.note_release(env.app.name.as_str(), &how);
    }
    Ok(unknown)
}

/// Whether the current release runs with another env than this one.
pub fn runs_with_another(ledger: &Ledger, env: &Env) -> bool {
    ledger.current.as_ref().is_some_and(|current| current.ran_with() != env.digest)
}

/// What an update would do, if anything. Pure.
fn words(ledger: &Ledger, target: Option<&Commit>, env_digest: &str) -> Option<String> {
    let Some(current) = &ledger.current else {
        return Some(
            target.map_or("make the first".to_owned(), |target| format!("make the first: {}", target.short())),
        );
    };
    let target = target.unwrap_or(&current.commit);
    // A restart has brought the env to the containers too.
    let (is_other, env_changed) = (*target != current.commit, current.ran_with() != env_digest);
    let facts = Facts { target, is_other, env_changed, failed: &ledger.failed };
    let new_env = if env_changed { ", with this env.yml" } else { "" };
    match decide(&facts, &Wish::default()) {
        Decision::Go if is_other => Some(format!("update: {} -> {}{new_env}", current.commit.short(), target.short())),
        // What failed before is gone to once more only if somebody says so.
        _ if env_changed => Some(format!("restart {} with this env.yml", current.commit.short())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Release;
    use std::collections::BTreeMap;

    #[test]
    fn what_is_told_is_what_an_update_would_do() {
        let commit = |c: char| c.to_string().repeat(40).parse::<Commit>().expect("it is a commit");
        let release = Release {
            commit: commit('a'),
            images: BTreeMap::new(),
            env_digest: "of its update".to_owned(),
            runs_with: Some("one".to_owned()),
            routes: Vec::new(),
            since: jiff::Timestamp::UNIX_EPOCH,
            migrated: false,
        };
        let ledger = Ledger { current: Some(release), failed: vec![commit('f')], ..Ledger::default() };
        let (a, b, f) = (commit('a'), commit('b'), commit('f'));
        for (target, env, expected) in [
            (Some(&a), "one", None),
            (Some(&b), "one", Some("update: aaaaaaaaaaaa -> bbbbbbbbbbbb")),
            (Some(&b), "two", Some("update: aaaaaaaaaaaa -> bbbbbbbbbbbb, with this env.yml")),
            (Some(&a), "two", Some("restart aaaaaaaaaaaa with this env.yml")),
            // It failed before.
            (Some(&f), "one", None),
            (Some(&f), "two", Some("restart aaaaaaaaaaaa with this env.yml")),
            // The server does not answer.
            (None, "one", None),
            (None, "two", Some("restart aaaaaaaaaaaa with this env.yml")),
        ] {
            assert_eq!(words(&ledger, target, env).as_deref(), expected, "{target:?} {env}");
        }
        assert_eq!(words(&Ledger::default(), Some(&b), "one").as_deref(), Some("make the first: bbbbbbbbbbbb"));
        assert_eq!(words(&Ledger::default(), None, "one").as_deref(), Some("make the first"));
    }
}
