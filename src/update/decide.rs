//! Whether there is something to update to, whether it is tried, and what the ledger says once it is in place. Pure.

use super::archive::ResetFrom;
use crate::state::{Ledger, Release, Touched};
use crate::value::Commit;
use serde::Serialize;
use std::time::Duration;

/// What somebody asks for.
#[derive(Debug, Clone, Default)]
pub struct Wish {
    /// Also if nothing is new, and also what failed before.
    pub force: bool,
    /// Migrate, whatever was added.
    pub migrate: bool,
    /// Another commit than the env asks for.
    pub to: Option<Commit>,
    /// It goes back: what is left is not tried again by itself.
    pub back: bool,
    /// The database is replaced by another one.
    pub reset: Option<ResetFrom>,
    /// It is a timer's wish: nobody waits for the outcome.
    pub is_scheduled: bool,
}

impl Wish {
    /// How long another command is waited for.
    pub fn patience(&self) -> Duration {
        if self.is_scheduled { Duration::from_secs(6 * 3600) } else { PATIENCE }
    }
}

/// How long somebody at a terminal waits for another command.
const PATIENCE: Duration = Duration::from_secs(600);

/// What stands against what.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    pub target: &'a Commit,
    /// The target is another version than the current release.
    pub is_other: bool,
    pub env_changed: bool,
    pub failed: &'a [Commit],
}

/// What follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    Nothing,
    /// It failed before, or was gone back from.
    Refused,
    Go,
}

pub fn decide(facts: &Facts, wish: &Wish) -> Decision {
    let is_new = facts.is_other || facts.env_changed;
    match (is_new, wish.force || wish.migrate || wish.reset.is_some()) {
        (_, true) => Decision::Go,
        (false, false) => Decision::Nothing,
        (true, false) if facts.failed.contains(facts.target) => Decision::Refused,
        (true, false) => Decision::Go,
    }
}

/// What waits for an update, for `update --check`.
#[derive(Debug, Clone, Serialize)]
pub struct Waiting {
    pub current: Commit,
    pub target: Commit,
    pub new_commit: bool,
    pub new_env: bool,
    /// It failed before: only `--force` tries it again.
    pub failed_before: bool,
    pub migration: bool,
    /// Services that are replaced with a gap, and why.
    pub gaps: Vec<(String, String)>,
}

impl Waiting {
    /// Whether an update would do something.
    pub fn is_something(&self) -> bool {
        (self.new_commit || self.new_env) && !self.failed_before
    }
}

/// Whether one of the added paths says that a migration is needed.
///
/// # Errors
/// The glob is broken; it was checked when the env was read.
pub fn asks_for_migration(when: &str, added: &[String]) -> anyhow::Result<bool> {
    let glob = globset::Glob::new(when)?.compile_matcher();
    Ok(added.iter().any(|path| glob.is_match(path)))
}

/// The ledger with a new current release, and what becomes of the copy that was just made. Pure.
pub fn committed(
    ledger: &Ledger,
    new: &Release,
    migrates: bool,
    back: bool,
    now: jiff::Timestamp,
) -> (Ledger, Touched) {
    let mut next = ledger.clone();
    let old = next.current.take();
    next.failed.retain(|failed| failed != &new.commit);
    match old {
        // The same version once more, with another env or migrated again: the way back is the one that there was.
        Some(old) if old.commit == new.commit => {
            let settles = migrates && !old.migrated;
            let since = if settles { now } else { old.since };
            next.current = Some(Release { since, migrated: old.migrated || migrates, ..new.clone() });
            let database = match (settles, migrates) {
                (true, _) => Touched::Migrated,
                (false, true) => Touched::Again,
                (false, false) => Touched::No,
            };
            (next, database)
        }
        old => {
            if let Some(left) = old.as_ref().filter(|_| back) {
                next.remember_failed(left.commit.clone());
            }
            next.previous = old;
            next.rolled_back = back;
            next.current = Some(Release { since: now, migrated: migrates, ..new.clone() });
            (next, if migrates { Touched::Migrated } else { Touched::No })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn what_failed_is_tried_again_only_by_force_and_nothing_new_is_nothing() {
        let commit: Commit = "a".repeat(40).parse().expect("40 digits are a commit");
        let failed = [commit.clone()];
        let wish = |force, migrate| Wish { force, migrate, ..Wish::default() };
        for (is_other, env_changed, known_bad, asked, expected) in [
            (false, false, false, wish(false, false), Decision::Nothing),
            (true, false, false, wish(false, false), Decision::Go),
            (false, true, false, wish(false, false), Decision::Go),
            (true, false, true, wish(false, false), Decision::Refused),
            (true, false, true, wish(true, false), Decision::Go),
            (false, false, false, wish(true, false), Decision::Go),
            (false, false, false, wish(false, true), Decision::Go),
        ] {
            let failed: &[Commit] = if known_bad { &failed } else { &[] };
            let facts = Facts { target: &commit, is_other, env_changed, failed };
            assert_eq!(decide(&facts, &asked), expected, "{facts:?} {asked:?}");
        }
    }

    #[test]
    fn only_added_paths_that_the_glob_means_ask_for_a_migration() {
        let added = ["notes/migrations/0002_x.py".to_owned()];
        assert!(asks_for_migration("**/migrations/*", &added).expect("a glob"));
        assert!(!asks_for_migration("**/migrations/*.sql", &added).expect("a glob"));
        assert!(!asks_for_migration("**/migrations/*", &[]).expect("a glob"));
    }

    fn release(letter: char, migrated: bool) -> Release {
        let commit = letter.to_string().repeat(40).parse().expect("40 digits are a commit");
        let since = jiff::Timestamp::from_second(i64::from(u32::from(letter))).expect("a time");
        Release {
            commit,
            images: BTreeMap::new(),
            env_digest: String::new(),
            runs_with: None,
            routes: Vec::new(),
            since,
            migrated,
        }
    }

    /// Current and previous by their letters, whether current was migrated and gone back to, and what becomes of the copy.
    fn after(ledger: &Ledger, new: char, migrates: bool, back: bool) -> (Ledger, String) {
        let now = jiff::Timestamp::from_second(1_000_000).expect("a time");
        let (next, database) = committed(ledger, &release(new, false), migrates, back, now);
        let letter =
            |release: &Option<Release>| release.as_ref().map_or("-".to_owned(), |r| r.commit.as_str()[..1].to_owned());
        let current = next.current.as_ref().expect("there is one");
        let text = format!(
            "{}{} {}{}{}",
            letter(&next.current),
            letter(&next.previous),
            if current.migrated { "m" } else { "" },
            if next.rolled_back { "r" } else { "" },
            match database {
                Touched::Migrated => "c",
                Touched::Again => "-",
                _ => "",
            }
        );
        (next, text)
    }

    #[test]
    fn the_way_back_survives_the_same_version_once_more() {
        let start = Ledger { current: Some(release('a', false)), ..Ledger::default() };
        let (migrated, text) = after(&start, 'b', true, false);
        assert_eq!(text, "ba mc");
        let since = migrated.current.as_ref().map(|current| current.since);
        // Another env, or migrated again: still by the first copy, to the time before it.
        for (migrates, expected) in [(false, "ba m"), (true, "ba m-")] {
            let (again, text) = after(&migrated, 'b', migrates, false);
            assert_eq!(text, expected);
            assert_eq!(again.current.map(|current| current.since), since);
        }
        // Migrated only the second time: that copy it is.
        let (plain, _) = after(&start, 'b', false, false);
        assert_eq!(after(&plain, 'b', true, false).1, "ba mc");
        // Gone back, then another env: what is newer stays newer.
        let (back, text) = after(&plain, 'a', false, true);
        assert_eq!(text, "ab r");
        assert!(back.failed.contains(&release('b', false).commit));
        let (again, text) = after(&back, 'a', false, false);
        assert_eq!(text, "ab r");
        assert_eq!(after(&again, 'b', false, false).1, "ba ");
    }
}
