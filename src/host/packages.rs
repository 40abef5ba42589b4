//! The host's packages, by dpkg and apt. Which ones, and when they are upgraded, is decided elsewhere.

use super::{Changed, Cmd, Host, UnitState, What};
use anyhow::{Context, Result, bail};
use std::collections::BTreeSet;
use std::time::Duration;

/// How long an installation may take.
const INSTALLING: Duration = Duration::from_secs(1800);
/// How long getting the lists may take.
const LISTS: Duration = Duration::from_secs(300);

/// The unit in which packages are changed. It outlives whoever asked for it: dpkg is never ended in the middle of its work.
const WORKER: &str = "appliance-packages";
/// How long what dpkg had begun may take to be ended, and how long another one's work is waited for.
const HEALING: Duration = Duration::from_secs(2 * 3600);

/// apt-get's options where nobody can answer: configuration files stay the host's own, and a lock is waited for.
const OPTIONS: [&str; 5] = [
    "-q",
    "-oDPkg::Lock::Timeout=300",
    "-oAcquire::http::Timeout=20",
    "-oDpkg::Options::=--force-confdef",
    "-oDpkg::Options::=--force-confold",
];

/// apt-get for what changes no package: lists, and simulations.
pub fn apt<'a>(args: impl IntoIterator<Item = &'a str>) -> Cmd {
    Cmd::new("apt-get", OPTIONS.into_iter().chain(args)).env("DEBIAN_FRONTEND", "noninteractive")
}

impl Host {
    /// Changes packages by apt-get. What a dpkg that was cut off had begun is ended before. Our own end, by a signal or a crash, does not end
    /// it: whoever comes next waits for it.
    ///
    /// # Errors
    /// apt-get fails; what it said is in the unit's journal.
    pub async fn change_packages(&self, args: &[&str], deadline: Duration) -> Result<()> {
        self.heal_packages().await?;
        self.work_on_packages(&[&["apt-get"], &OPTIONS[..], args].concat(), deadline).await
    }

    /// Ends what a dpkg that was cut off had begun: until that is done, every apt refuses to work. One that is still at it is waited for.
    pub async fn heal_packages(&self) -> Result<()> {
        if !self.applies() {
            return Ok(());
        }
        let unit = format!("{WORKER}.service");
        let end = tokio::time::Instant::now() + HEALING;
        while matches!(self.unit_state(&unit).await?, UnitState::Active | UnitState::Changing) {
            if tokio::time::Instant::now() >= end {
                bail!("packages are still being changed after {} s; see: systemctl status {unit}", HEALING.as_secs());
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        // The configuration that an operator has changed stays.
        let args = ["dpkg", "--force-confdef", "--force-confold", "--configure", "--pending"];
        // Where nothing was begun it does nothing.
        let done = self.work_on_packages(&args, HEALING).await;
        // Where one package cannot be configured, apt says which when it is asked.
        if let Err(error) = done {
            tracing::warn!("dpkg could not end all that it had begun: {error:#}");
        }
        Ok(())
    }

    async fn work_on_packages(&self, command: &[&str], deadline: Duration) -> Result<()> {
        let unit = format!("--unit={WORKER}");
        let run = [
            "--quiet",
            "--wait",
            "--collect",
            &unit,
            "--setenv=DEBIAN_FRONTEND=noninteractive",
            "--setenv=LC_ALL=C.UTF-8",
        ];
        let cmd = Cmd::new("systemd-run", [&run[..], command].concat()).deadline(deadline);
        let verb = command.iter().rev().find(|word| !word.starts_with('-')).unwrap_or(&"");
        let worked = self.ask(cmd).await;
        worked.map(drop).with_context(|| format!("{} {verb} failed; see: journalctl -u {WORKER}", command[0]))
    }

    /// Installs those packages that are missing.
    ///
    /// # Errors
    /// apt knows no such package, or cannot get or install it.
    pub async fn ensure_packages(&self, wanted: &[&str]) -> Result<Changed> {
        if wanted.is_empty() {
            return Ok(Changed::No);
        }
        let query =
            ["--show", "--showformat=${db:Status-Status} ${Package}\\n"].into_iter().chain(wanted.iter().copied());
        // It ends with 1 where it does not know one of them.
        let told = self.try_ask(Cmd::new("dpkg-query", query)).await?;
        let installed: BTreeSet<&str> =
            told.stdout.lines().filter_map(|line| line.strip_prefix("installed ")).collect();
        let missing: Vec<&str> = wanted.iter().copied().filter(|name| !installed.contains(name)).collect();
        if missing.is_empty() {
            return Ok(Changed::No);
        }
        let names = missing.join(" ");
        self.note(What::Package, &names, "install");
        if !self.applies() {
            return Ok(Changed::Yes);
        }
        let install: Vec<&str> =
            ["--yes", "--no-install-recommends", "install"].into_iter().chain(missing.iter().copied()).collect();
        if let Err(first) = self.change_packages(&install, INSTALLING).await {
            // The lists may be old, or missing on a fresh host.
            let updated = self.ask(apt(["--error-on=any", "update"]).deadline(LISTS)).await;
            if let Err(error) = updated {
                return Err(first.context(format!(
                    "could not install {names}; the lists of packages cannot be got either: {error:#}"
                )));
            }
            self.change_packages(&install, INSTALLING)
                .await
                .with_context(|| format!("could not install {names}; see: apt-get install {names}"))?;
        }
        Ok(Changed::Yes)
    }
}
