//! The host's own packages: what waits, and upgrading it. Where Docker or PostgreSQL is among them, the app is stopped for that and
//! started again, with the status page meanwhile.

use super::Reporter;
use super::undo;
use crate::env::{Env, Envs};
use crate::host::{Cmd, Host, Own, UnitState, What, apt};
use crate::state::{Ledger, StackLock, UpdateLock};
use anyhow::{Context, Result, bail};
use serde::Serialize;
use std::time::Duration;
use tokio::time::Instant;

/// How long upgrading may take.
const DEADLINE: Duration = Duration::from_secs(2 * 3600);
/// How long getting the lists may take.
const LISTS: Duration = Duration::from_secs(600);
/// How long it waits for another command.
const PATIENCE: Duration = Duration::from_secs(600);
/// The appliance's own package.
const OWN: &str = "appliance";
/// How long its new version may take to come up, or the old one to be put back: some starts that each take all their time.
const OWN_PATIENCE: Duration = Duration::from_secs(900);
/// After how long without a supervisor none is waited for; longer than its unit's RestartSec.
const DOWN: Duration = Duration::from_secs(20);
const SUPERVISOR: &str = "appliance-supervisor.service";
/// Debian's sign that a reboot is needed; who asked for it stands beside it.
const REBOOT: &str = "/run/reboot-required";

/// A package that can be upgraded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Upgrade {
    pub package: String,
    /// `None`: it comes with another one, as a new kernel does.
    pub from: Option<String>,
    pub to: String,
}

impl Upgrade {
    /// Whether the app cannot run while it is upgraded.
    fn stops_the_app(&self) -> bool {
        let name = self.package.as_str();
        ["docker.io", "docker-ce", "containerd", "containerd.io", "runc", "moby-engine"].contains(&name)
            || name.strip_prefix("postgresql-").is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_digit()))
    }
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Upgraded {
    pub packages: Vec<Upgrade>,
    /// A reboot is needed, and is on its way.
    pub reboots: bool,
}

/// What waits. Lists that cannot be got are told, and the ones that are there count.
pub async fn waiting(host: &Host) -> Result<Vec<Upgrade>> {
    let updated =
        host.act(What::Setting, "package lists", "get", apt(["--error-on=any", "update"]).deadline(LISTS)).await;
    if let Err(error) = updated {
        tracing::warn!("could not get the lists of packages, so the ones that are there count: {error:#}");
    }
    let simulated = apt(["--simulate", "--with-new-pkgs", "upgrade"]);
    let simulated = host.ask(simulated).await.context("apt does not say what can be upgraded")?;
    Ok(simulated.stdout.lines().filter_map(upgrade).collect())
}

/// `Inst docker.io [20.10.24] (20.10.25 Debian:12/stable [amd64])`; one that is new has no version in brackets before.
fn upgrade(line: &str) -> Option<Upgrade> {
    let mut words = line.strip_prefix("Inst ")?.split_whitespace();
    let package = words.next()?.to_owned();
    let mut word = words.next()?;
    let from = word.strip_prefix('[').and_then(|from| from.strip_suffix(']')).map(str::to_owned);
    if from.is_some() {
        word = words.next()?;
    }
    let to = word.strip_prefix('(')?.to_owned();
    Some(Upgrade { package, from, to })
}

/// Kernels that nothing needs any more, of what `apt-get --simulate autoremove` would remove: `Remv linux-image-6.1.0-13-amd64 [6.1.55-1]`.
/// Other packages stay: whether somebody uses them is not known here.
fn unused_kernels(simulated: &str) -> Vec<&str> {
    let names = simulated.lines().filter_map(|line| line.strip_prefix("Remv ")?.split_whitespace().next());
    names
        .filter(|name| ["linux-image-", "linux-headers-", "linux-modules-"].iter().any(|kind| name.starts_with(kind)))
        .collect()
}

/// Upgrades what waits, and reboots where that is needed and allowed. `patience` is how long another update is waited for.
///
/// # Errors
/// apt failed; the app runs again all the same. Or the appliance's own new version did not come up, and the one before is back.
pub async fn upgrade_all(envs: &Envs, patience: Duration, host: &Host, reporter: Reporter<'_>) -> Result<Upgraded> {
    let alone = UpdateLock::take(host, "update", patience).await?;
    for env in envs.iter() {
        let recovered = undo::recover_first(env, host, &alone, reporter).await;
        match recovered {
            Err(error) if envs.is_alone() => return Err(error),
            // One app's trouble keeps no host from its security updates.
            Err(error) => tracing::warn!("{}: {error:#}", env.app.name),
            Ok(()) => {}
        }
    }
    let packages = waiting(host).await?;
    if !packages.is_empty() {
        let names: Vec<&str> = packages.iter().map(|upgrade| upgrade.package.as_str()).collect();
        reporter.doing(&format!("upgrading {}", names.join(", ")));
        match packages.iter().any(Upgrade::stops_the_app) {
            true => beside_stopped_apps(envs, host, reporter).await?,
            false => run(host).await?,
        }
    } else {
        // Of one that was cut off, apt may say that nothing waits.
        host.heal_packages().await?;
    }
    // The new supervisor asks for it.
    drop(alone);
    if let Some(own) = packages.iter().find(|upgrade| upgrade.package == OWN) {
        wait_for_own(own, host, reporter).await?;
    }
    let reboots = host.exists(REBOOT) && envs.host().appliance.update.reboot;
    if reboots {
        let text = "The appliance reboots for its updates.";
        let cmd = Cmd::new("shutdown", ["-r", "+1", text]);
        host.act(What::Setting, "host", "reboot in a minute", cmd).await.context("could not reboot the host")?;
    } else if host.exists(REBOOT) {
        tracing::warn!("a reboot is needed, and appliance.update.reboot does not allow it: {REBOOT}");
    }
    Ok(Upgraded { packages, reboots })
}

/// Waits until the supervisor of the new version came up, or the one before was put back.
async fn wait_for_own(upgrade: &Upgrade, host: &Host, reporter: Reporter<'_>) -> Result<()> {
    let end = Instant::now() + OWN_PATIENCE;
    let mut down_since = None;
    reporter.doing("the new version of the appliance comes up");
    loop {
        match host.own()? {
            Own::Good => return Ok(()),
            Own::PutBack => bail!(
                "version {} of the appliance did not come up, so the one that came up last is back; nothing was done to the app. See: \
                 journalctl -u {SUPERVISOR}",
                upgrade.to
            ),
            Own::Untried => {}
        }
        match host.unit_state(SUPERVISOR).await? {
            UnitState::Inactive | UnitState::Failed | UnitState::Missing => {
                let since = *down_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= DOWN {
                    tracing::warn!(
                        "no supervisor runs; version {} of the appliance shows at its next start whether it comes up",
                        upgrade.to
                    );
                    return Ok(());
                }
            }
            _ => down_since = None,
        }
        if Instant::now() >= end {
            bail!("version {} of the appliance has not come up yet; see: systemctl status {SUPERVISOR}", upgrade.to);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

async fn run(host: &Host) -> Result<()> {
    host.note_act(What::Setting, "packages", "upgrade");
    let upgraded = host.change_packages(&["--yes", "--with-new-pkgs", "upgrade"], DEADLINE).await;
    upgraded.context("could not upgrade the host's packages")?;
    let simulated = host.ask(apt(["--simulate", "autoremove"])).await.context("apt does not say what is unused")?;
    let unused = unused_kernels(&simulated.stdout);
    if !unused.is_empty() {
        host.note_act(What::Package, &unused.join(" "), "remove: no longer needed");
        let remove: Vec<&str> = ["--yes", "purge"].into_iter().chain(unused).collect();
        if let Err(error) = host.change_packages(&remove, DEADLINE).await {
            tracing::warn!("{error:#}; old kernels stay, and take room");
        }
    }
    Ok(())
}

async fn beside_stopped_apps(envs: &Envs, host: &Host, reporter: Reporter<'_>) -> Result<()> {
    // All of them before anything is stopped, in one order: what keeps one waiting takes no other down.
    let mut running = Vec::new();
    let mut all: Vec<&Env> = envs.iter().collect();
    all.sort_by_key(|env| &env.app.name);
    for env in all {
        let lock = StackLock::take_of(host, &env.app.name, "update", PATIENCE).await?;
        // One that never came up, or is not to run, has nothing that could stop.
        let has_release = Ledger::read_for(host, &env.app.name)?.current.is_some();
        if envs.is_alone() || has_release && undo::is_to_run(env, host) {
            running.push((env, lock));
        }
    }
    let mut stopped = Vec::new();
    let mut ended = Ok(());
    for (env, lock) in running {
        match undo::stop_app(env, host, reporter).await {
            Ok(ledger) => stopped.push((env, lock, ledger)),
            Err(error) => {
                ended = Err(error);
                break;
            }
        }
    }
    if ended.is_ok() {
        ended = run(host).await;
    }
    for (env, _lock, mut ledger) in stopped {
        let up = undo::come_up_after_packages(env, &mut ledger, host, reporter).await;
        ended = match (envs.is_alone(), up) {
            // That the app does not come up again is told before what apt said.
            (true, Err(error)) => Err(error),
            (true, Ok(())) => ended,
            (false, up) => ended.and(up.with_context(|| format!("the app {} did not come up again", env.app.name))),
        };
    }
    ended
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_apt_would_install_is_read_and_what_the_app_needs_is_known() {
        let said = "Inst docker.io [20.10.24+dfsg1-1] (20.10.24+dfsg1-2 local [amd64]) []";
        let docker = upgrade(said).expect("an upgrade");
        assert_eq!((docker.package.as_str(), docker.from.as_deref()), ("docker.io", Some("20.10.24+dfsg1-1")));
        assert_eq!(docker.to, "20.10.24+dfsg1-2");
        let kernel = upgrade("Inst linux-image-6.1 (6.1.2 Debian:12 [amd64])").expect("a new package");
        assert_eq!((kernel.from, kernel.to.as_str()), (None, "6.1.2"));
        let removals = "Remv linux-image-6.1.0-13-amd64 [6.1.55-1]\nRemv libfoo1 [1]\nConf x\nRemv linux-headers-6.1.0-13-amd64 [6.1.55-1]\n";
        assert_eq!(unused_kernels(removals), ["linux-image-6.1.0-13-amd64", "linux-headers-6.1.0-13-amd64"]);
        assert_eq!(upgrade("Conf docker.io (20.10.24 local [amd64])"), None);
        let of = |package: &str| Upgrade { package: package.to_owned(), ..docker.clone() };
        for (package, expected) in
            [("docker.io", true), ("postgresql-15", true), ("postgresql-common", false), ("bash", false)]
        {
            assert_eq!(of(package).stops_the_app(), expected, "{package}");
        }
    }
}
