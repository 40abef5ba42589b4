//! Whether there is something to update to, and whether it is tried. Pure.

use crate::value::Commit;
use serde::Serialize;

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
}

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
    match (is_new, wish.force || wish.migrate) {
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
