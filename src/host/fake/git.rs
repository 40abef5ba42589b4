//! git, as far as it knows commits in a row, each with its files: a server, the repository that was fetched, and the checkout's own.
#![allow(clippy::disallowed_methods)] // It stands for a program that changes files.

use super::locked;
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;

/// A commit's files: path to text.
pub type Files = BTreeMap<String, String>;

#[derive(Clone, Default)]
struct State {
    /// Oldest first.
    commits: Vec<(String, Files)>,
    /// How many of them the repository has.
    fetched: usize,
    /// References of the checkout's repository, HEAD among them.
    references: BTreeMap<String, String>,
}

/// One branch, `main`.
#[derive(Default)]
pub struct FakeGit(Mutex<State>);

/// What a command ends with, and prints.
pub(super) type Said = (i32, String);

const DONE: Said = (0, String::new());

impl FakeGit {
    /// One more commit on the server.
    pub fn commit(&self, id: &str, files: &[(&str, &str)]) {
        let files = files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect();
        locked(&self.0).commits.push((id.to_owned(), files));
    }

    /// What the checkout is at.
    pub fn head(&self) -> Option<String> {
        locked(&self.0).references.get("HEAD").cloned()
    }

    pub(super) fn take_state_of(&self, other: &FakeGit) {
        *locked(&self.0) = locked(&other.0).clone();
    }

    /// A command; paths lie below the root.
    pub(super) fn run(&self, args: &[&str], root: &Path) -> Result<Said> {
        let state = &mut *locked(&self.0);
        let option = |name: &str| args.iter().find_map(|arg| arg.strip_prefix(name));
        let git_dir = option("--git-dir=").unwrap_or_default();
        let is_checkout = option("--work-tree=").is_some();
        let mut rest = args.iter().copied().skip_while(|arg| arg.starts_with('-'));
        let verb = rest.next().unwrap_or_default();
        let last = args.last().copied().unwrap_or_default();
        let index = |state: &State, id: &str| state.commits.iter().position(|(known, _)| known == id);
        let revision = |state: &State, text: &str| {
            let name = text.trim_end_matches("^{commit}");
            match name {
                "refs/remotes/origin/main" if !is_checkout => {
                    state.fetched.checked_sub(1).map(|at| state.commits[at].0.clone())
                }
                _ if is_checkout && state.references.contains_key(name) => state.references.get(name).cloned(),
                id => index(state, id).filter(|at| *at < state.fetched).map(|_| id.to_owned()),
            }
        };
        let code = |good: bool| (i32::from(!good), String::new());
        match verb {
            "init" => {
                std::fs::write(root.join(git_dir.trim_start_matches('/')).join("HEAD"), "ref: refs/heads/main\n")?;
                Ok(DONE)
            }
            "fetch" => {
                state.fetched = state.commits.len();
                Ok(DONE)
            }
            "rev-parse" => match revision(state, last) {
                Some(id) => Ok((0, format!("{id}\n"))),
                None => Ok(code(false)),
            },
            "show-ref" => Ok(code(last == "refs/remotes/origin/main" && state.fetched > 0)),
            "cat-file" => Ok(code(revision(state, last).is_some())),
            "rev-list" => Ok(code(args.iter().any(|arg| index(state, arg).is_some_and(|at| at < state.fetched)))),
            "grep" => Ok(code(false)),
            "checkout" => {
                let at = index(state, last).context("no such commit")?;
                let tree = option("--work-tree=").context("a checkout has a work tree")?;
                write(&root.join(tree.trim_start_matches('/')), &state.commits[at].1)?;
                state.references.insert("HEAD".to_owned(), last.to_owned());
                Ok(DONE)
            }
            "update-ref" if is_checkout => {
                let name = args[args.len() - 2];
                match name {
                    "-d" => state.references.remove(last),
                    name => state.references.insert(name.to_owned(), last.to_owned()),
                };
                Ok(DONE)
            }
            "archive" => {
                let at = index(state, last).context("no such commit")?;
                Ok((0, serde_json::to_string(&state.commits[at].1)?))
            }
            "diff" => {
                let [from, to] = [args[args.len() - 2], last].map(|id| index(state, id));
                let (from, to) = (from.context("no such commit")?, to.context("no such commit")?);
                let added = state.commits[to].1.keys().filter(|path| !state.commits[from].1.contains_key(*path));
                Ok((0, added.map(|path| format!("{path}\0")).collect()))
            }
            "merge-base" => Ok(code(index(state, args[args.len() - 2]) <= index(state, last))),
            _ => Ok(DONE),
        }
    }
}

/// Puts files in a directory; those that are there and not of the commit stay.
pub(super) fn write(directory: &Path, files: &Files) -> Result<()> {
    for (path, text) in files {
        let file = directory.join(path);
        if let Some(parent) = file.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(file, text)?;
    }
    Ok(())
}
