//! Preparing the host: the steps, in their order. Each looks, compares, and then does or, in check mode, only notes.
//! What must be done to the stack is not here.

mod calendars;
pub mod client_ca;
mod database;
mod files;
mod filter;
mod hostname;
pub mod nginx;
pub mod page;
pub mod postgres;
mod ssh;
mod storage;
mod timer;
pub mod tls;
mod vault;

pub use storage::{VolumeMissing, can_be_mounted, is_docker_homeless, is_moving, missing as missing_volumes};

use crate::env::Env;
use crate::host::{Changed, Host, is_lost};
use crate::state::{HostLock, history};
use crate::value::{AppName, Step, Tenant};
use anyhow::{Context, Result};
use std::time::Duration;
use tokio::time::Instant;

/// nginx, which more than one step tells.
pub const NGINX: &str = "nginx.service";
/// Our part of its configuration.
pub const SITE: &str = "/etc/nginx/conf.d/appliance.conf";
/// How the files of several apps begin, each of which has one of its own beside it.
const SITES: &str = "/etc/nginx/conf.d/appliance-app-";

/// The file with an app's site.
fn site_of(tenant: &Tenant) -> String {
    tenant.path(SITE, |name| format!("{SITES}{name}.conf"))
}

/// The env and the text that it was read from.
#[derive(Clone, Copy)]
pub struct Wanted<'a> {
    pub env: &'a Env,
    pub text: &'a [u8],
}

/// It holds secrets, and an editor leaves it to everybody's eyes.
fn keep_private(host: &Host) -> Result<()> {
    let path = crate::env::LOCAL;
    if host.exists(path) && host.ensure_owned(path, 0o600, &"root".parse().context("a user name is an owner")?)?.yes() {
        tracing::warn!("{path} could be read by others than root; it is root's alone now");
    }
    Ok(())
}

/// Runs all steps, or one. What is the host's is done for any of its apps, what is an app's for this one. `progress` is told before each.
/// The locks are the host's and the app's.
pub async fn prepare(
    wanted: Wanted<'_>,
    host: &Host,
    only: Option<Step>,
    progress: &mut (dyn FnMut(Step) + Send),
) -> Result<()> {
    let mut certificate = Changed::No;
    let has_history = history::has_place(host);
    for step in Step::ALL {
        if only.is_some_and(|only| only != step) {
            continue;
        }
        host.begin(step);
        progress(step);
        let env = wanted.env;
        let done = match step {
            Step::Env => keep_private(host).and_then(|()| history::activate(host, wanted.text, &env.file_digest)),
            Step::Hostname => hostname::prepare(env, host).await,
            Step::Ssh => ssh::prepare(env, host),
            Step::Page => page::prepare(&env.tenant, host).await,
            Step::Storage => storage::prepare(env, host).await,
            Step::Vault => vault::prepare(env, host).await,
            // Only now is there a place for it on a fresh host.
            Step::Files if !has_history => {
                history::keep(host, wanted.text, &env.file_digest).and_then(|_| files::prepare(env, host))
            }
            Step::Files => files::prepare(env, host),
            Step::Packages => packages(env, host).await,
            Step::Postgres => while_postgres_is_lost(host, async || postgres::prepare(env, host).await).await,
            Step::Database => while_postgres_is_lost(host, async || database::prepare(env, host).await).await,
            Step::Tls => {
                client_ca::take_over(host, &env.tenant)?;
                tls::prepare(env, host).await.map(|changed| certificate = changed)
            }
            Step::Timer => timer::prepare(env, host).await,
            Step::Nginx => nginx::prepare(env, host, certificate).await,
        };
        done.with_context(|| format!("the step {step} failed"))?;
    }
    if only == Some(Step::Tls) && certificate.yes() {
        nginx::reload(host).await?;
    }
    Ok(())
}

/// The steps that do something for each app, for a further app of a host that all of them were run on.
pub async fn prepare_further(wanted: Wanted<'_>, host: &Host, only: Option<Step>) -> Result<()> {
    const OF_APPS: [Step; 6] = [Step::Page, Step::Storage, Step::Vault, Step::Database, Step::Tls, Step::Nginx];
    for step in OF_APPS.into_iter().filter(|step| only.is_none_or(|only| only == *step)) {
        prepare(wanted, host, Some(step), &mut |_| ()).await?;
    }
    Ok(())
}

/// How long a PostgreSQL that went away is waited for.
const LOST: Duration = Duration::from_secs(300);
/// How many starts of it may fail one after the other: a configuration that it does not take is not mended by waiting.
const FAILED_STARTS: usize = 3;
/// How long until it is looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Does a step again while PostgreSQL goes away in its middle: somebody restarts it, or it has died and systemd starts it again.
async fn while_postgres_is_lost(host: &Host, step: impl AsyncFn() -> Result<()>) -> Result<()> {
    let end = Instant::now() + LOST;
    let mut failed_starts = 0;
    loop {
        let error = match step().await {
            Err(error)
                if host.applies() && is_lost(&error) && failed_starts < FAILED_STARTS && Instant::now() < end =>
            {
                error
            }
            other => return other,
        };
        tracing::warn!("{error:#}; waiting for PostgreSQL to be back");
        tokio::time::sleep(LOOK_AGAIN).await;
        if let Some(cluster) = postgres::find(host)? {
            match host.start_unit(&cluster.unit()).await {
                Ok(()) => failed_starts = 0,
                // The step itself says what is wrong in the end.
                Err(error) => {
                    failed_starts += 1;
                    tracing::warn!("{error:#}");
                }
            }
            host.wait_for_postgres(&cluster.superuser("postgres")).await?;
        }
    }
}

/// Step packages: `appliance.extra.packages`.
async fn packages(env: &Env, host: &Host) -> Result<()> {
    let names: Vec<&str> = env.appliance.extra_packages.iter().map(|name| name.as_str()).collect();
    host.ensure_packages(&names).await.map(drop)
}

/// How long a change of the host is waited for that somebody else makes: packages are installed in one.
const PATIENCE: Duration = Duration::from_secs(3600);

/// The steps postgres and database, for whoever is changing something about the cluster.
pub async fn database_again(env: &Env, host: &Host) -> Result<()> {
    let _lock = HostLock::take(host, "prepare", PATIENCE).await?;
    host.begin(Step::Postgres);
    let again = while_postgres_is_lost(host, async || postgres::bring_up(env, host).await);
    again.await.context("the step postgres failed")?;
    host.begin(Step::Database);
    let again = while_postgres_is_lost(host, async || database::prepare(env, host).await);
    again.await.context("the step database failed")
}

/// Lets the project's networks reach PostgreSQL, once they exist; until then the database step cannot know them.
pub async fn admit_networks(env: &Env, host: &Host) -> Result<()> {
    let _lock = HostLock::take(host, "prepare", PATIENCE).await?;
    host.begin(Step::Database);
    database::admit_networks(env, host).await
}

/// The app's own way into its database, from this host.
///
/// # Errors
/// It has no password yet, or there is no PostgreSQL.
pub fn app_login(env: &Env, host: &Host) -> Result<crate::host::Login> {
    database::login(env, host)
}

/// The same in another cluster than the one in use.
pub fn app_login_at(cluster: &postgres::Cluster, env: &Env, host: &Host) -> Result<crate::host::Login> {
    database::login_at(cluster, env, host)
}

/// The role that the app connects as, and that owns what is in its database.
pub fn app_role(env: &Env, host: &Host) -> Result<String> {
    database::role_of(host, &env.app.name, env.tenant.is_alone())
}

/// The role that an app connects as, whether or not the env names it.
pub fn role_of(host: &Host, app: &AppName) -> Result<String> {
    database::role_of(host, app, false)
}

/// The password that the app reaches the database with, once there is one.
pub fn database_password(env: &Env, host: &Host) -> Result<Option<crate::value::Secret>> {
    database::password(env, host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_env_that_others_could_read_is_roots_alone() {
        use std::os::unix::fs::PermissionsExt;
        let test = crate::host::fake::TestHost::new();
        keep_private(&test.host).expect("without one there is nothing to do");
        test.host.put(crate::env::LOCAL, b"x: 1\n", 0o644).expect("it can be written");
        keep_private(&test.host).expect("it can be changed");
        let meta = std::fs::metadata(test.host.path(crate::env::LOCAL)).expect("it is there");
        assert_eq!(meta.permissions().mode() & 0o777, 0o600);
    }
    use crate::host::fake::TestHost;
    use crate::host::{Mode, Owed};

    const TEXT: &str = "appliance:\n  domain: a.example.test\n  storage: {ignore: {data: yes, volatile: yes}}\n  \
                        extra: {files: [{path: /etc/x/y, contents: z, permissions: '0600', owner: app}]}\n\
                        app: {name: shop, git: {source: /srv/x}}\n";

    /// Storage's links lead to the real root, and postgres and database need a real server: these are run twice on a
    /// booted host.
    const STEPS: [Step; 8] =
        [Step::Env, Step::Hostname, Step::Ssh, Step::Page, Step::Files, Step::Tls, Step::Timer, Step::Nginx];

    fn ready() -> (TestHost, Env) {
        let test = TestHost::new();
        for directory in
            ["/run", "/etc/nginx/conf.d", "/etc/nginx/modules-enabled", "/app/etc", "/root", "/etc/systemd/system"]
        {
            test.host.ensure_dir(directory, &crate::host::Dir::plain()).expect("it can be made");
        }
        test.host.put("/etc/nginx/nginx.conf", b"include /etc/nginx/conf.d/*.conf;", 0o644).expect("it can be written");
        (test, Env::of_text(TEXT))
    }

    async fn run(env: &Env, host: &Host, steps: &[Step]) -> Vec<String> {
        let host = host.in_mode(Mode::Apply);
        for step in steps {
            let wanted = Wanted { env, text: TEXT.as_bytes() };
            prepare(wanted, &host, Some(*step), &mut |_| ()).await.expect("the step succeeds");
        }
        host.journal().entries().iter().map(ToString::to_string).collect()
    }

    #[tokio::test]
    async fn every_step_run_twice_has_an_empty_journal() {
        let (test, env) = ready();
        assert!(!run(&env, &test.host, &STEPS).await.is_empty());
        // What hostnamed would have written.
        test.host.put("/etc/hostname", b"a.example.test\n", 0o644).expect("it can be written");
        assert_eq!(run(&env, &test.host, &STEPS).await, Vec::<String>::new());
    }

    #[tokio::test]
    async fn a_reload_that_a_killed_run_owed_is_made_up_for_once() {
        let (test, env) = ready();
        run(&env, &test.host, &[Step::Page, Step::Tls, Step::Nginx]).await;
        assert_eq!(run(&env, &test.host, &[Step::Nginx]).await, Vec::<String>::new());
        test.host.owe("nginx.service", Owed::Reload).expect("it can be remembered");
        assert_eq!(run(&env, &test.host, &[Step::Nginx]).await, ["unit nginx.service: reload"]);
        assert_eq!(run(&env, &test.host, &[Step::Nginx]).await, Vec::<String>::new());
    }
}
