//! What is looked at once a minute, since another process has to be asked, or much has to be read.

use super::{Database, Killed, database, kernel, lost};
use crate::env::{Env, Envs, LOCAL, MAX_BYTES};
use crate::host::Host;
use crate::prepare::client_ca;
use crate::state::Status;
use crate::state::history;
use crate::value::{Phase, rule};
use std::collections::BTreeSet;
use std::future::Future;
use std::time::Duration;

/// Between two looks.
pub const BETWEEN: Duration = Duration::from_secs(60);
/// Whether the clock is set is asked every so many looks: a service has to be started for it.
const CLOCK_EVERY: u32 = 10;
/// Whoever did not answer is asked again after so many looks at the latest.
const LEAST_OFTEN: u32 = 60;
/// How long each of those who are asked may take.
const DEADLINE: Duration = Duration::from_secs(20);
/// A program that runs in a container sees the clock of a host that is not its own (systemd.exec(5), `container`).
const IN_CONTAINER: &str = "/run/systemd/container";

/// The rules that need this, beside those of the database.
const OF_SLOW: [&str; 5] =
    [rule::UNIT_FAILED.name, rule::MEMORY_OOM.name, rule::CLOCK.name, rule::ENV_BROKEN.name, rule::CLIENT_CA.name];

/// Of these, the ones that an env has something to say to.
const OF_ENV: [&str; 2] = [rule::ENV_BROKEN.name, rule::CLIENT_CA.name];

fn is_of_database(name: &str) -> bool {
    name.starts_with("database.")
}

/// How things stand that are looked at once a minute.
#[derive(Debug, Clone, Default)]
pub struct Slow {
    pub(in crate::watch) looks: u32,
    /// Units of systemd's that are failed.
    pub failed_units: Vec<String>,
    /// Since the look before.
    pub killed: BTreeSet<Killed>,
    pub(in crate::watch) kills: Option<u64>,
    pub is_clock_set: Option<bool>,
    pub database: Option<Result<Database, String>>,
    /// How often in a row PostgreSQL has not answered in time.
    pub(in crate::watch) unanswered: u32,
    /// Where `/app/env.yml` has its first error: line and column.
    pub env_error: Option<(u32, u32)>,
    pub client_authorities: Vec<ClientCa>,
    /// What could not be looked at: names of rules.
    pub unknown: BTreeSet<String>,
}

/// The authority of an app's clients.
#[derive(Debug, Clone)]
pub struct ClientCa {
    pub app: String,
    /// When it, or its revocation list, ends, in seconds since the epoch; or why it cannot be used.
    pub ends: Result<i64, String>,
}

impl Slow {
    /// Before the first look: nothing of all this is known.
    pub fn unknown() -> Slow {
        let is_slow = |name: &&str| OF_SLOW.contains(name) || is_of_database(name);
        let unknown = rule::RULES.iter().map(|rule| rule.name).filter(is_slow).map(str::to_owned).collect();
        Slow { unknown, ..Slow::default() }
    }

    /// Looks.
    pub async fn look(&mut self, envs: Option<&Envs>, host: &Host) {
        let before = std::mem::take(self);
        self.looks = before.looks.wrapping_add(1);
        match within(host.failed_units()).await {
            Ok(units) => self.failed_units = units,
            Err(error) => lost(&mut self.unknown, &[rule::UNIT_FAILED.name], &error),
        }
        self.oom(before.kills, host).await;
        self.clock(before.looks, before.is_clock_set, host).await;
        let Some(envs) = envs else {
            let names = rule::RULES.iter().map(|rule| rule.name);
            let is_lost = |name: &&str| is_of_database(name) || OF_ENV.contains(name);
            self.unknown.extend(names.filter(is_lost).map(str::to_owned));
            return;
        };
        self.env(host);
        for env in envs.iter().filter(|env| env.app.is_enabled) {
            self.client_authority(env, host);
        }
        (self.unanswered, self.database) = (before.unanswered, before.database);
        self.database(envs, host).await;
    }

    async fn oom(&mut self, before: Option<u64>, host: &Host) {
        match kernel::oom_kills(host) {
            Ok(kills) => self.kills = kills,
            Err(error) => return lost(&mut self.unknown, &[rule::MEMORY_OOM.name], &error),
        }
        let (Some(before), Some(now)) = (before, self.kills) else { return };
        if now <= before {
            return;
        }
        self.killed = kernel::killed(host).await.unwrap_or_else(|error| {
            tracing::debug!("{error:#}");
            BTreeSet::new()
        });
        if self.killed.is_empty() {
            // The kernel's log is not this machine's, or does not name it.
            self.killed.insert(Killed { process: String::new(), container: None });
        }
    }

    async fn clock(&mut self, looks: u32, before: Option<bool>, host: &Host) {
        if host.exists(IN_CONTAINER) {
            return;
        }
        self.is_clock_set = before;
        if looks.is_multiple_of(CLOCK_EVERY) {
            match within(host.is_clock_set()).await {
                Ok(is_set) => self.is_clock_set = Some(is_set),
                Err(error) => tracing::debug!("{error:#}"),
            }
        }
        if self.is_clock_set.is_none() {
            self.unknown.insert(rule::CLOCK.name.to_owned());
        }
    }

    /// Whether the env that the next start takes is a good one. What is wrong with it may quote it, and is not told.
    fn env(&mut self, host: &Host) {
        let text = match host.read_start(LOCAL, MAX_BYTES + 1) {
            Ok(text) => text,
            Err(error) => return lost(&mut self.unknown, &[rule::ENV_BROKEN.name], &error),
        };
        let active = host.read(history::ACTIVE, MAX_BYTES).ok().flatten();
        if let Some(text) = text.filter(|text| active.as_ref() != Some(text)) {
            self.env_error = Env::parse(&text).report.first_error();
        }
    }

    fn client_authority(&mut self, env: &Env, host: &Host) {
        let ends = match client_ca::look(host, &env.tenant) {
            Ok(Some(found)) => Ok(found.next_update.unwrap_or(i64::MAX).min(found.not_after)),
            Ok(None) => return,
            Err(why) => Err(why),
        };
        self.client_authorities.push(ClientCa { app: env.app.name.as_str().to_owned(), ends });
    }

    async fn database(&mut self, envs: &Envs, host: &Host) {
        let is_settled = |env: &Env| match Status::read(host, Some(&env.tenant)) {
            Ok(Some(status)) => matches!(status.phase, Phase::Running { .. } | Phase::Failed { .. }),
            _ => false,
        };
        // Whoever does not answer keeps a thread of ours: he is asked less and less often.
        if self.unanswered > 0 && !self.looks.is_multiple_of(self.unanswered.min(LEAST_OFTEN)) {
            return;
        }
        let answer = within(database::ask(host)).await;
        let is_late = answer.as_ref().is_err_and(|error| error.is::<Late>());
        self.unanswered = if is_late { self.unanswered.saturating_add(1) } else { 0 };
        self.database = answer.map_err(|error| format!("{error:#}")).transpose();
        // While an app starts, or an update is made, PostgreSQL may be stopped or put in place.
        if matches!(self.database, Some(Err(_))) && !envs.iter().filter(|env| env.app.is_enabled).any(is_settled) {
            self.database = None;
            let names = rule::RULES.iter().map(|rule| rule.name);
            self.unknown.extend(names.filter(|name| is_of_database(name)).map(str::to_owned));
        }
    }
}

/// Nobody answered in time.
#[derive(Debug)]
struct Late;

impl std::fmt::Display for Late {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "there was no answer within {} s", DEADLINE.as_secs())
    }
}

impl std::error::Error for Late {}

async fn within<T>(asked: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    match tokio::time::timeout(DEADLINE, asked).await {
        Ok(answer) => answer,
        Err(_) => Err(Late.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::kernel::COUNTERS;
    use super::*;
    use crate::host::fake::TestHost;

    const ENV: &str = "appliance: {domain: a.example.org}\napp: {name: shop, git: {source: /srv/x}}\n";

    fn envs() -> Envs {
        Env::parse(ENV.as_bytes()).envs.expect("it is an env")
    }

    async fn again(slow: &mut Slow, test: &TestHost) {
        slow.look(Some(&envs()), &test.host).await;
    }

    #[tokio::test]
    async fn only_what_was_killed_since_the_last_look_is_told() {
        let test = TestHost::new();
        let put = |kills: u64| {
            test.host.put(COUNTERS, format!("a 1\noom_kill {kills}\n").as_bytes(), 0o444).expect("it can be written");
        };
        let mut slow = Slow::default();
        put(3);
        again(&mut slow, &test).await;
        assert!(slow.killed.is_empty(), "what was before the watch is not its matter");
        put(4);
        again(&mut slow, &test).await;
        assert_eq!(slow.killed.len(), 1);
        again(&mut slow, &test).await;
        assert!(slow.killed.is_empty());
        // A boot begins to count anew.
        put(1);
        again(&mut slow, &test).await;
        assert!(slow.killed.is_empty());
    }

    #[tokio::test]
    async fn an_env_that_the_next_start_cannot_take_is_found() {
        let test = TestHost::new();
        let mut slow = Slow::default();
        for (text, error) in [(ENV.to_owned(), None), (format!("{ENV}  broken: ["), Some(3))] {
            test.host.put(LOCAL, text.as_bytes(), 0o600).expect("it can be written");
            again(&mut slow, &test).await;
            assert_eq!(slow.env_error.map(|(line, _)| line), error);
        }
        // What runs was taken once: errors that are only found on this host are no news.
        test.host.put(LOCAL, b"broken: [", 0o600).expect("it can be written");
        test.host.put(history::ACTIVE, b"broken: [", 0o600).expect("it can be written");
        again(&mut slow, &test).await;
        assert_eq!(slow.env_error, None);
    }

    #[tokio::test]
    async fn while_no_app_is_up_nothing_is_said_of_the_database() {
        let test = TestHost::new();
        let mut slow = Slow::unknown();
        assert!(slow.unknown.len() >= 10, "{:?}", slow.unknown);
        let away = |slow: &Slow| slow.unknown.contains(rule::DATABASE_AWAY.name);
        // Two are there, between which nothing can be chosen.
        for name in ["main", "other"] {
            let path = format!("/etc/postgresql/15/{name}");
            test.host.ensure_dir("/etc/postgresql", &crate::host::Dir::plain()).expect("it can be made");
            test.host.ensure_dir("/etc/postgresql/15", &crate::host::Dir::plain()).expect("it can be made");
            test.host.ensure_dir(&path, &crate::host::Dir::plain()).expect("it can be made");
            test.host.ensure_dir(&format!("/{name}"), &crate::host::Dir::plain()).expect("it can be made");
            let text = format!("data_directory = '/{name}'\nport = 5432\n");
            test.host.put(&format!("{path}/postgresql.conf"), text.as_bytes(), 0o644).expect("it can be written");
            test.host.put(&format!("/{name}/PG_VERSION"), b"15\n", 0o644).expect("it can be written");
        }
        again(&mut slow, &test).await;
        assert!(away(&slow) && slow.database.is_none());
        let status = Status::new(Phase::Running { degraded: Vec::new() }, &test.host);
        let tenant = envs().host().tenant.clone();
        status.write(&test.host, Some(&tenant)).expect("it can be written");
        again(&mut slow, &test).await;
        assert!(!away(&slow) && matches!(slow.database, Some(Err(_))), "{:?}", slow.database);
    }
}
