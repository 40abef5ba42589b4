//! Programs: those that change what later ones look at do so below the temporary root; every other one succeeds and prints nothing.
#![allow(clippy::disallowed_methods)] // It stands for programs that change files.

use super::git::{self, Said};
use super::{FakeGit, FakeSql, Fault, Faults};
use crate::host::{Cmd, Exec, Output, Pending};
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a program ends with that could not do its work; git's own, whose 1 is an answer.
const FAILED: i32 = 128;

pub struct FakePrograms {
    root: PathBuf,
    git: Arc<FakeGit>,
    sql: Arc<FakeSql>,
    faults: Arc<Faults>,
}

impl FakePrograms {
    pub(super) fn new(root: PathBuf, git: Arc<FakeGit>, sql: Arc<FakeSql>, faults: Arc<Faults>) -> FakePrograms {
        FakePrograms { root, git, sql, faults }
    }

    /// An absolute path, of this machine if it is below the root already.
    fn path(&self, path: &str) -> PathBuf {
        match path.starts_with("/run/appliance-private-") || Path::new(path).starts_with(&self.root) {
            true => PathBuf::from(path),
            false => self.root.join(path.trim_start_matches('/')),
        }
    }

    fn run_now(&self, cmd: &Cmd) -> Result<Output> {
        let mut words: Vec<&str> =
            std::iter::once(cmd.program.as_str()).chain(cmd.args.iter().map(String::as_str)).collect();
        if words[0] == "setpriv" {
            words.drain(..3);
            if words[0] == "setsid" {
                words.drain(..2);
            }
        }
        let name = words[0].rsplit('/').next().unwrap_or_default();
        let args = &words[1..];
        let (code, said) = self.act(name, args, cmd).with_context(|| format!("fake of {}", words.join(" ")))?;
        let stdout = match &cmd.output_file {
            Some(path) => {
                fs::write(path, said)?;
                String::new()
            }
            None => said,
        };
        Ok(Output { code: Some(code), stdout, ..Output::default() })
    }

    fn act(&self, name: &str, args: &[&str], cmd: &Cmd) -> Result<Said> {
        let last = args.last().copied().unwrap_or_default();
        let input = || -> Result<String> {
            match &cmd.input_file {
                Some(path) => Ok(fs::read_to_string(path)?),
                None => Ok(cmd.input.expose().to_owned()),
            }
        };
        let database =
            || cmd.env.iter().find(|(name, _)| name == "PGDATABASE").map(|(_, name)| name.expose().to_owned());
        match name {
            "git" => return self.git.run(args, &self.root),
            "mkdir" => fs::create_dir_all(self.path(last))?,
            "rm" if args.contains(&"--recursive") => fs::remove_dir_all(self.path(last))?,
            "rm" => {
                args.iter().filter(|arg| arg.starts_with('/')).for_each(|path| drop(fs::remove_file(self.path(path))))
            }
            "tee" => {
                let file = self.path(last);
                fs::create_dir_all(file.parent().context("a file has a directory")?)?;
                fs::write(file, input()?)?;
            }
            "tar" => {
                let packed = fs::read_to_string(self.path(last))?;
                let into = args.iter().skip_while(|arg| **arg != "--directory").nth(1).context("a directory")?;
                git::write(&self.path(into), &serde_json::from_str(&packed)?)?;
            }
            // The kernel has what was loaded last.
            "nft" => {
                return Ok((0, fs::read_to_string(self.path("/var/lib/appliance/filter.nft")).unwrap_or_default()));
            }
            "pg_dump" => {
                let database = database().context("a database")?;
                self.sql.enter(&database)?;
                return Ok((0, self.sql.content(&database).unwrap_or_default()));
            }
            "pg_restore" if args.contains(&"--list") => return Ok((0, format!(";\n1; {}\n", input()?))),
            "pg_restore" => {
                let database = database().context("a database")?;
                self.sql.enter(&database)?;
                self.sql.put(&database, &input()?);
            }
            _ => {}
        }
        Ok((0, String::new()))
    }
}

impl Exec for FakePrograms {
    fn feed<'a>(&'a self, from: &'a Cmd, into: &'a Cmd) -> Pending<'a, Result<(Output, Output)>> {
        Box::pin(async move {
            let first = self.run(from).await?;
            if first.code != Some(0) {
                return Ok((first, Output::default()));
            }
            let second = self.run(&into.clone().input(first.stdout.clone())).await?;
            Ok((first, second))
        })
    }

    fn run<'a>(&'a self, cmd: &'a Cmd) -> Pending<'a, Result<Output>> {
        Box::pin(async move {
            let shown = format!("{} {}", cmd.program, cmd.args.join(" "));
            match self.faults.strike_program(&shown).await {
                None => self.run_now(cmd),
                // It ran, and was not content.
                Some(Fault::Refused) => {
                    Ok(Output { code: Some(FAILED), stderr: format!("fault: {shown}"), ..Output::default() })
                }
                Some(_) => Err(anyhow::anyhow!("could not run {}: fault", cmd.program)),
            }
        })
    }
}

/// Copies files, directories and links; those that lead below the root lead below the other one then.
pub(super) fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    copy_directory(from, to, (from, to))
}

fn copy_directory(from: &Path, to: &Path, roots: (&Path, &Path)) -> Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (kind, target) = (entry.file_type()?, to.join(entry.file_name()));
        if kind.is_dir() {
            fs::create_dir_all(&target)?;
            copy_directory(&entry.path(), &target, roots)?;
            fs::set_permissions(&target, entry.metadata()?.permissions())?;
        } else if kind.is_symlink() {
            let leads_to = fs::read_link(entry.path())?;
            let leads_to = leads_to.strip_prefix(roots.0).map_or(leads_to.clone(), |below| roots.1.join(below));
            std::os::unix::fs::symlink(leads_to, &target)?;
        } else {
            fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}

pub(super) fn remove_tree(path: &Path) -> Result<()> {
    if path.exists() { Ok(fs::remove_dir_all(path)?) } else { Ok(()) }
}
