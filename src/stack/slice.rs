//! What bounds all of an app's containers together (`limits` of one of several apps): a slice of systemd's, below which Docker makes their
//! control groups. Changing a limit touches no container; having limits, or not, does.

use super::model::Stack;
use crate::env::Limits;
use crate::host::docker::CgroupDriver;
use crate::host::{File, Host, Owed, UnitState};
use crate::value::AppName;
use anyhow::{Context, Result, bail};
use std::time::Duration;
use tokio::time::Instant;

const UNITS: &str = "/etc/systemd/system";
const CGROUPS: &str = "/sys/fs/cgroup";
/// How long systemd may take to write what it was told into the control groups: it does so after its answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// The slice's name. A dash in it would make it one below another.
fn unit(app: &AppName) -> String {
    format!("appliance-{}.slice", app.as_str().replace('-', "\\x2d"))
}

fn file(app: &AppName) -> String {
    format!("{UNITS}/{}", unit(app))
}

/// Its control group, below the root of each hierarchy.
fn group(app: &AppName) -> String {
    format!("appliance.slice/{}", unit(app))
}

/// What Docker is told, for each container of a stack that has limits.
///
/// # Errors
/// Docker has no control groups of a kind that can be bounded from outside.
pub async fn parent(stack: &Stack, host: &Host) -> Result<Option<String>> {
    if stack.limits.is_none() {
        return Ok(None);
    }
    let app = &stack.project;
    match host.docker().cgroup_driver().await? {
        Some(CgroupDriver::Systemd) => Ok(Some(unit(app))),
        Some(CgroupDriver::Cgroupfs) => Ok(Some(format!("/{}", group(app)))),
        None => bail!("Docker has no control groups on this host, so 'limits' of the app {app} cannot be kept"),
    }
}

/// Makes the slice as the limits say, or takes it away.
///
/// # Errors
/// The host's control groups do not carry a limit.
pub async fn ensure(stack: &Stack, host: &Host) -> Result<()> {
    let (app, unit) = (&stack.project, unit(&stack.project));
    let Some(limits) = stack.limits else {
        return discard(app, host).await;
    };
    host.ensure_file_of(&unit, Owed::Reload, &file(app), &File::text(text(app, &limits)).mode(0o644))?;
    if host.owed(&unit)?.is_some() {
        host.reload_units().await?;
    }
    if host.unit_state(&unit).await? != UnitState::Active {
        host.start_unit(&unit).await?;
    }
    if host.applies() {
        hold(app, &limits, host).await?;
        host.settle(&unit)?;
    }
    Ok(())
}

/// Takes the limits away. What is still below the slice runs on without them.
pub async fn discard(app: &AppName, host: &Host) -> Result<()> {
    if host.exists(&file(app)) {
        host.owe(&unit(app), Owed::Reload)?;
        host.ensure_absent(&file(app))?;
    }
    if host.owed(&unit(app))?.is_some() {
        host.reload_units().await?;
        host.settle(&unit(app))?;
    }
    Ok(())
}

/// Takes the slice away as well, once no container of the app is left.
pub async fn remove(app: &AppName, host: &Host) -> Result<()> {
    discard(app, host).await?;
    match host.unit_state(&unit(app)).await? {
        UnitState::Active => host.stop_unit(&unit(app)).await,
        _ => Ok(()),
    }
}

fn text(app: &AppName, limits: &Limits) -> String {
    let mut text = format!("[Unit]\nDescription=Appliance: the containers of the app {app}\n\n[Slice]\n");
    let lines = [
        // What is in swap is memory that it uses, too.
        limits.memory.map(|bytes| format!("MemoryMax={bytes}\nMemorySwapMax=0\n")),
        // Percent of one processor.
        limits.nano_cpus.map(|cpus| format!("CPUQuota={}%\n", cpus / 10_000_000)),
        limits.pids.map(|pids| format!("TasksMax={pids}\n")),
    ];
    lines.into_iter().flatten().for_each(|line| text.push_str(&line));
    text
}

/// A limit and the file of the control group that must have it: in the unified hierarchy, and in those of before.
struct Held {
    key: &'static str,
    unified: &'static str,
    /// Nothing: there is no such thing.
    legacy: Option<&'static str>,
    /// What stands there if the limit is in force, before the first blank.
    value: String,
}

fn held(limits: &Limits) -> Vec<Held> {
    const PAGE: i64 = 4096;
    let memory = limits.memory.map(|bytes| Held {
        key: "memory",
        unified: "memory.max",
        legacy: Some("memory/{}/memory.limit_in_bytes"),
        // The kernel counts in pages.
        value: (bytes / PAGE * PAGE).to_string(),
    });
    let cpus = limits.nano_cpus.map(|cpus| Held {
        key: "cpus",
        unified: "cpu.max",
        legacy: Some("cpu/{}/cpu.cfs_quota_us"),
        // Microseconds of each tenth of a second; systemd has a hundredth of a processor as its unit.
        value: (cpus / 10_000_000 * 1000).to_string(),
    });
    let pids = limits.pids.map(|pids| Held {
        key: "pids",
        unified: "pids.max",
        legacy: Some("pids/{}/pids.max"),
        value: pids.to_string(),
    });
    let swap =
        limits.memory.map(|_| Held { key: "memory", unified: "memory.swap.max", legacy: None, value: "0".to_owned() });
    [memory, swap, cpus, pids].into_iter().flatten().collect()
}

/// Waits until the kernel has the limits.
async fn hold(app: &AppName, limits: &Limits, host: &Host) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut lines = Vec::new();
        for held in held(limits) {
            lines.extend(lacking(&held, app, host)?.map(|found| format!("'limits.{}': {found}", held.key)));
        }
        if lines.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("the host's control groups do not keep the limits of the app {app}: {}", lines.join("; "));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What stands in the way of a limit, if something does.
fn lacking(held: &Held, app: &AppName, host: &Host) -> Result<Option<String>> {
    let is_unified = host.exists(&format!("{CGROUPS}/cgroup.controllers"));
    let path = match is_unified {
        true => format!("{CGROUPS}/{}/{}", group(app), held.unified),
        false => match held.legacy {
            Some(legacy) => format!("{CGROUPS}/{}", legacy.replace("{}", &group(app))),
            None => return Ok(None),
        },
    };
    let Some(text) = host.read_text(&path, 256).context("a control group cannot be read")? else {
        // A kernel that does not account for swap has none to give.
        if held.unified.contains("swap") {
            return Ok(None);
        }
        return Ok(Some(format!("there is no {path}")));
    };
    let first = text.split_whitespace().next().unwrap_or_default();
    Ok((first != held.value).then(|| format!("{path} has {first}, not {}", held.value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slice_says_what_the_limits_say() {
        let app: AppName = "shop-two".parse().expect("it is a name");
        let limits = Limits { memory: Some(512 << 20), nano_cpus: Some(1_500_000_000), pids: Some(200) };
        assert_eq!(unit(&app), "appliance-shop\\x2dtwo.slice");
        let text = text(&app, &limits);
        assert!(
            text.ends_with("[Slice]\nMemoryMax=536870912\nMemorySwapMax=0\nCPUQuota=150%\nTasksMax=200\n"),
            "{text}"
        );
        let values: Vec<String> = held(&limits).into_iter().map(|held| held.value).collect();
        assert_eq!(values, ["536870912", "0", "150000", "200"]);
        let one = Limits { memory: None, nano_cpus: None, pids: Some(16) };
        assert_eq!(held(&one).len(), 1);
    }
}
