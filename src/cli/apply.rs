//! `appliance apply`: does what `plan` shows.

use super::choice::prefix;
use super::env::find;
use super::host::{journal, plan_stack, prepare_all};
use super::{env_yml, print, update};
use crate::env::Env;
use crate::host::{Entry, Host, Mode};
use crate::source::Found;
use crate::state::{Ledger, Status, history};
use crate::update::NotFetched;
use crate::value::{Phase, Tenant};
use anyhow::{Context, Result, bail};

/// Prepares the host, makes the env the active one, and brings release and containers to what it asks for.
///
/// # Errors
/// What of it failed first; the rest is not begun.
pub async fn apply(json: bool) -> Result<u8> {
    let host = Host::system(Mode::Apply);
    update::refuse_failed(&host)?;
    if env_yml().is_some_and(|path| !path.is_empty()) {
        bail!("$ENV_YML names an env, which the supervisor would not find; put it in its place, and unset $ENV_YML");
    }
    let found = find(&host).await?;
    let warnings = found.report.render_quoted(&found.origin);
    if !warnings.is_empty() {
        eprintln!("{warnings}");
    }
    // Another app's data are there: told before anything is done.
    Ledger::refuse_others(&host, &found.envs.host().tenant)?;
    let mut ended = Ok(());
    let mut work = Work { found: &found, host: &host, json, done: Vec::new(), has_begun: false };
    match update::is_up(&host).await? {
        true => match work.prepare().await {
            Err(error) if found.envs.is_alone() => return Err(error),
            // What went wrong with one app keeps no other from what it is to be.
            prepared => ended = prepared,
        },
        // A start prepares the host, too, and takes this env.
        false => work.start().await?,
    }
    if work.found.envs.host().appliance.standby {
        work.stand_by().await?;
    } else if matches!(status(&host, None)?.phase, Phase::Standby { .. }) {
        work.start().await?;
    }
    for env in found.envs.iter() {
        let is_running =
            Status::read(&host, Some(&env.tenant))?.is_some_and(|status| matches!(status.phase, Phase::Running { .. }));
        let goes_on = is_running && crate::update::is_to_run(env, &host);
        if goes_on && let Err(error) = work.app(env).await {
            // One app's trouble keeps no other from what it is to be.
            match ended {
                Ok(()) => {
                    ended = Err(if found.envs.is_alone() {
                        error
                    } else {
                        error.context(format!("the app {}", env.app.name))
                    })
                }
                Err(_) => eprintln!("error: the app {}: {error:#}", env.app.name),
            }
        }
    }
    // The supervisor knows of the apps that it was started with. Those that go on have what they are to be by now.
    let is_whole = ended.is_ok() || !found.envs.is_alone();
    // And one that waits in standby, by the env from before, begins by this one only when it is started anew.
    let has_standby = !found.envs.is_alone() && any_waits(&found, &host)?;
    if is_whole && (has_standby || status(&host, None)?.supervises != found.envs.roster()) {
        work.start().await?;
    }
    // Told last: what was to be done for the others is done.
    ended?;
    let status = status(&host, None)?;
    if json {
        print(&format!("{}\n", serde_json::json!({ "done": work.done, "phase": status.phase })))?;
    } else if work.has_begun {
        print(&format!("{}\n", status.phase.text()))?;
    } else if work.done.is_empty() {
        print("nothing to do\n")?;
    }
    let of_apps = found.envs.iter().filter(|env| env.app.is_enabled).map(|env| Status::read(&host, Some(&env.tenant)));
    let codes = of_apps.map(|status| anyhow::Ok(status?.map_or(0, |status| status.exit_code())));
    let codes = codes.collect::<Result<Vec<u8>>>()?;
    Ok(codes.into_iter().chain([status.exit_code()]).max().unwrap_or(0))
}

/// Whether one of the apps that are to run is in standby.
fn any_waits(found: &Found, host: &Host) -> Result<bool> {
    for env in found.envs.iter().filter(|env| crate::update::is_to_run(env, host)) {
        let status = Status::read(host, Some(&env.tenant))?;
        if status.is_some_and(|status| matches!(status.phase, Phase::Standby { .. })) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn status(host: &Host, of: Option<&Tenant>) -> Result<Status> {
    Status::read(host, of)?.context("the supervisor has written no status; see: journalctl -u appliance-supervisor")
}

struct Work<'a> {
    found: &'a Found,
    host: &'a Host,
    json: bool,
    /// What was done, but for what the supervisor does by itself at its start.
    done: Vec<Entry>,
    /// Whether the supervisor was started.
    has_begun: bool,
}

impl Work<'_> {
    async fn prepare(&mut self) -> Result<()> {
        let prepared = prepare_all(self.found, self.host, None, "apply").await;
        // What was done is said even if a later step failed.
        self.tell(self.host)?;
        prepared?;
        history::activate(self.host, &self.found.bytes, &self.found.envs.host().file_digest).map(drop)
    }

    fn tell(&mut self, host: &Host) -> Result<()> {
        if !self.json {
            print(&journal(host))?;
        }
        self.done.extend(host.journal().entries());
        Ok(())
    }

    /// The supervisor's start: it touches no container that is as it should be.
    async fn start(&mut self) -> Result<()> {
        self.has_begun = true;
        update::start_supervisor(self.host).await
    }

    /// Nothing of the app's runs then.
    async fn stand_by(&mut self) -> Result<()> {
        if matches!(status(self.host, None)?.phase, Phase::Standby { .. }) {
            return Ok(());
        }
        self.has_begun = true;
        self.host.stop_unit(update::SERVICE).await?;
        update::start_supervisor(self.host).await
    }

    /// What is one app's.
    async fn app(&mut self, env: &Env) -> Result<()> {
        self.release(env).await?;
        self.containers(env).await
    }

    /// Brings the release to what the env asks for.
    async fn release(&mut self, env: &Env) -> Result<()> {
        let ahead = Host::system(Mode::Check);
        let unknown = crate::update::plan(env, &ahead).await?;
        if unknown.is_none() && ahead.journal().is_empty() {
            return Ok(());
        }
        match update::to_wanted(env, self.host, self.json).await {
            Ok((is_done, text)) => {
                if !self.json && (is_done || unknown.is_none()) {
                    print(&format!("{}{text}\n", prefix(env)))?;
                }
                if is_done {
                    self.done.extend(ahead.journal().entries());
                    return Ok(());
                }
            }
            // The env can come into force without the server.
            Err(error) if error.is::<NotFetched>() => {
                eprintln!("warning: whether there is a newer version is not known: {error:#}");
            }
            Err(error) => return Err(error),
        }
        if crate::update::runs_with_another(&Ledger::read_for(self.host, &env.app.name)?, env) {
            self.done.extend(ahead.journal().entries());
            self.start().await?;
        }
        Ok(())
    }

    /// A file that the compose file names may have changed, which is no other release.
    async fn containers(&mut self, env: &Env) -> Result<()> {
        let ahead = Host::system(Mode::Check);
        plan_stack(env, &ahead).await?;
        if ahead.journal().is_empty() {
            return Ok(());
        }
        self.tell(&ahead)?;
        self.start().await
    }
}
