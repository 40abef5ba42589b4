//! Finding env.yml: which places are asked, in which order, and what is said when none answers. Parsing is `env/`.

use crate::env::{BrokenFile, Env, MAX_BYTES, Report};
use crate::host::Host;
use anyhow::{Context, Result};

/// The local env.yml.
pub const LOCAL: &str = "/app/env.yml";
/// The active env: what every command but `run`, `prepare` and `plan` reads.
pub const ACTIVE: &str = "/run/active-env.yml";

/// An env and where it came from.
#[derive(Debug)]
pub struct Found {
    pub env: Env,
    /// The file.
    pub origin: String,
    pub bytes: Vec<u8>,
    /// Its warnings; it has no errors.
    pub report: Report,
}

/// A place that did not answer, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tried {
    pub place: String,
    pub why: String,
}

/// What a search gave.
#[derive(Debug)]
pub enum Search {
    Found(Box<Found>),
    Nothing(Vec<Tried>),
}

/// Asks the sources in their order; the first that answers wins, even if what it says is broken.
///
/// `env_yml` is the variable `$ENV_YML`.
///
/// # Errors
/// [`BrokenFile`] if the source that answers holds errors; anything else if it cannot be read.
pub fn find(host: &Host, env_yml: Option<&str>) -> Result<Search> {
    let mut tried = Vec::new();
    match env_yml {
        None | Some("") => tried.push(Tried { place: "$ENV_YML".to_owned(), why: "not set".to_owned() }),
        Some(path) if !path.starts_with('/') => {
            anyhow::bail!("$ENV_YML is '{path}', but must be an absolute path");
        }
        // Somebody who names a file wants that file, not the next source.
        Some(path) => match host.read_start(path, MAX_BYTES + 1)? {
            Some(bytes) => return check(path, bytes).map(|found| Search::Found(Box::new(found))),
            None => anyhow::bail!("$ENV_YML names {path}, but there is no such file"),
        },
    }
    match host.read_start(LOCAL, MAX_BYTES + 1)? {
        Some(bytes) => return check(LOCAL, bytes).map(|found| Search::Found(Box::new(found))),
        None => tried.push(Tried { place: LOCAL.to_owned(), why: "there is no such file".to_owned() }),
    }
    Ok(Search::Nothing(tried))
}

/// Reads one file as an env.
pub fn read(host: &Host, path: &str) -> Result<Option<Found>> {
    match host.read_start(path, MAX_BYTES + 1)? {
        Some(bytes) => check(path, bytes).map(Some),
        None => Ok(None),
    }
}

/// The active env.
///
/// # Errors
/// There is none, or it is broken.
pub fn active(host: &Host) -> Result<Found> {
    read(host, ACTIVE)?.context("there is no active env; run: systemctl start appliance, or appliance env activate")
}

fn check(path: &str, bytes: Vec<u8>) -> Result<Found> {
    match Env::parse(&bytes) {
        (Some(env), report) => Ok(Found { env, origin: path.to_owned(), bytes, report }),
        (None, report) => Err(BrokenFile { file: path.to_owned(), report }.into()),
    }
}

/// The sources that were tried, one line each.
pub fn render_tried(tried: &[Tried]) -> String {
    tried.iter().map(|tried| format!("{}: {}", tried.place, tried.why)).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::TestHost;

    const GOOD: &[u8] = b"appliance: {domain: a.de}\napp: {name: x, git: {source: /srv/x}}\n";

    #[test]
    fn the_first_source_that_answers_wins_even_broken() {
        let test = TestHost::new();
        let Search::Nothing(tried) = find(&test.host, None).expect("searching works") else {
            panic!("nothing is there")
        };
        assert_eq!(tried.len(), 2);
        test.host.put(LOCAL, GOOD, 0o600).expect("the file can be written");
        test.host.put("/other.yml", b"appliance: 1\n", 0o600).expect("the file can be written");
        assert!(matches!(find(&test.host, None), Ok(Search::Found(found)) if found.origin == LOCAL));
        let broken = find(&test.host, Some("/other.yml")).expect_err("a broken source does not fall through");
        assert!(broken.downcast_ref::<BrokenFile>().is_some());
        assert!(find(&test.host, Some("/none.yml")).is_err());
        assert!(find(&test.host, Some("relative.yml")).is_err());
    }
}
