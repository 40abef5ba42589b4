//! Preparing the host: the steps, in their order. Each looks, compares, and then does or, in check mode, only notes.
//! What must be done to the stack is not here.

mod database;
mod files;
mod hostname;
pub mod nginx;
pub mod page;
mod postgres;
mod ssh;
mod storage;
mod tls;

use crate::env::Env;
use crate::host::{Changed, File, Host};
use crate::value::Step;
use anyhow::{Context, Result};

/// Where the active env is written: the first step's file. `source` reads it back.
const ACTIVE_ENV: &str = "/run/active-env.yml";

/// The env and the text that it was read from.
#[derive(Clone, Copy)]
pub struct Wanted<'a> {
    pub env: &'a Env,
    pub text: &'a [u8],
}

/// Runs all steps, or one. `progress` is told before each.
pub async fn prepare(
    wanted: Wanted<'_>,
    host: &Host,
    only: Option<Step>,
    progress: &mut (dyn FnMut(Step) + Send),
) -> Result<()> {
    let mut certificate = Changed::No;
    for step in Step::ALL {
        if only.is_some_and(|only| only != step) {
            continue;
        }
        host.begin(step);
        progress(step);
        let env = wanted.env;
        let done = match step {
            Step::Env => activate(wanted, host),
            Step::Hostname => hostname::prepare(env, host).await,
            Step::Ssh => ssh::prepare(env, host),
            Step::Page => page::prepare(host).await,
            Step::Storage => storage::prepare(env, host).await,
            Step::Files => files::prepare(env, host),
            Step::Postgres => postgres::prepare(host).await,
            Step::Database => database::prepare(env, host).await,
            Step::Tls => tls::prepare(env, host).map(|changed| certificate = changed),
            Step::Nginx => nginx::prepare(env, host, certificate).await,
        };
        done.with_context(|| format!("the step {step} failed"))?;
    }
    if only == Some(Step::Tls) && certificate.yes() {
        nginx::reload(host).await?;
    }
    Ok(())
}

/// Lets the project's networks reach PostgreSQL, once they exist; until then the database step cannot know them.
pub async fn admit_networks(env: &Env, host: &Host) -> Result<()> {
    host.begin(Step::Database);
    database::admit_networks(env, host).await
}

/// Writes the active env, which every other command reads.
pub fn activate(wanted: Wanted<'_>, host: &Host) -> Result<()> {
    let text = String::from_utf8(wanted.text.to_vec()).context("the env is not UTF-8 text")?;
    host.ensure_file(ACTIVE_ENV, &File::secret(text)).map(drop)
}
