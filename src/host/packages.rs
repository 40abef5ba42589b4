//! The host's packages, by dpkg and apt. Which ones, and when they are upgraded, is decided elsewhere.

use super::{Changed, Cmd, Host, What};
use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::time::Duration;

/// How long an installation may take.
const INSTALLING: Duration = Duration::from_secs(1800);
/// How long getting the lists may take.
const LISTS: Duration = Duration::from_secs(300);

/// apt-get as it runs where nobody can answer: configuration files stay the host's own, and a lock is waited for.
pub fn apt<'a>(args: impl IntoIterator<Item = &'a str>) -> Cmd {
    let options = [
        "-q",
        "-o",
        "DPkg::Lock::Timeout=300",
        "-o",
        "Acquire::http::Timeout=20",
        "-o",
        "Dpkg::Options::=--force-confdef",
        "-o",
        "Dpkg::Options::=--force-confold",
    ];
    Cmd::new("apt-get", options.into_iter().chain(args)).env("DEBIAN_FRONTEND", "noninteractive")
}

impl Host {
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
        let install = || {
            apt(["--yes", "--no-install-recommends", "install"].into_iter().chain(missing.iter().copied()))
                .deadline(INSTALLING)
        };
        if let Err(first) = self.ask(install()).await {
            // The lists may be old, or missing on a fresh host.
            let updated = self.ask(apt(["--error-on=any", "update"]).deadline(LISTS)).await;
            if let Err(error) = updated {
                return Err(first.context(format!(
                    "could not install {names}; the lists of packages cannot be got either: {error:#}"
                )));
            }
            self.ask(install())
                .await
                .with_context(|| format!("could not install {names}; see: apt-get install {names}"))?;
        }
        Ok(Changed::Yes)
    }
}
