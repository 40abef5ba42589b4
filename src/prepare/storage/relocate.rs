//! What other packages keep in their own places moves to the volumes: `/var/lib/postgresql`, `/var/lib/docker`. Whatever is killed in
//! between, the data is whole in one of the two places, and the next run goes on; the original is removed only after the copy is
//! verified.

use crate::env::Env;
use crate::host::docker::{Container, Look};
use crate::host::{Changed, Cmd, Dir, File, Host, UnitState, What};
use crate::prepare::postgres::{self, Cluster};
use crate::value::Size;
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

/// Something that moves.
struct Wanted {
    from: &'static str,
    to: &'static str,
    /// Where is kept how far it has come.
    file: &'static str,
    /// Where the volume is mounted, and whether it must be.
    volume: (&'static str, bool),
    /// Stopped in this order, started in the other.
    units: Vec<String>,
    /// Units that must not run while the volume is missing.
    guarded: &'static str,
    /// Whether a directory looks like what is kept there, from the names in it.
    is_kept_there: fn(&[String]) -> bool,
}

fn wanted(env: &Env, host: &Host) -> Result<[Wanted; 2]> {
    let storage = &env.appliance.storage;
    // The service of them all is done before they are.
    // One that is kept from before an upgrade does not run, and must not.
    let kept = postgres::record::read(host)?.kept;
    let runs = |cluster: &&Cluster| kept.as_ref() != Some(&cluster.id);
    let mut clusters: Vec<String> = postgres::clusters(host)?.iter().filter(runs).map(Cluster::unit).collect();
    clusters.push("postgresql.service".to_owned());
    Ok([
        Wanted {
            from: "/var/lib/postgresql",
            to: "/data/postgresql",
            file: POSTGRESQL,
            volume: ("/data", !storage.ignore_data),
            units: clusters,
            guarded: "postgresql@.service",
            // One directory for each major version.
            is_kept_there: |names| names.iter().any(|name| name.parse::<f32>().is_ok()),
        },
        Wanted {
            from: "/var/lib/docker",
            to: "/volatile/docker",
            file: DOCKER,
            volume: ("/volatile", !storage.ignore_volatile),
            units: ["docker.socket", "docker.service"].map(str::to_owned).to_vec(),
            guarded: "docker.service",
            is_kept_there: |names| names.iter().any(|name| name == "image" || name == "containers"),
        },
    ])
}

/// How far a move has come, beyond what can be seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Stage {
    /// Units may have been stopped; the original counts.
    Moving,
    /// The copy is verified and counts.
    Copied,
}

const POSTGRESQL: &str = "/var/lib/appliance/relocation-postgresql.json";
const DOCKER: &str = "/var/lib/appliance/relocation-docker.json";
const MAX: u64 = 1 << 16;
/// What stays free on the volume, of every hundred.
const SPARE: u64 = 5;

fn stage(file: &str, host: &Host) -> Result<Option<Stage>> {
    let Some(text) = host.read_text(file, MAX)? else { return Ok(None) };
    serde_json::from_str(&text)
        .map(Some)
        .with_context(|| format!("{file} is not what the appliance has written; remove it"))
}

fn remember(wanted: &Wanted, stage: Stage, host: &Host) -> Result<()> {
    let text = serde_json::to_string(&stage).context("a stage can be written")?;
    host.put(wanted.file, text.as_bytes(), 0o600)
}

/// Whether a run was killed while something was on its way: services may be stopped for it.
pub fn is_under_way(host: &Host) -> bool {
    [POSTGRESQL, DOCKER].iter().any(|file| host.exists(file))
}

/// Whether Docker's directory leads to a place that is not there, as on a volume that somebody made anew: Docker cannot start so.
pub fn is_docker_homeless(host: &Host) -> bool {
    host.link_target("/var/lib/docker").is_some_and(|target| !host.is_directory(&target))
}

pub async fn prepare(env: &Env, host: &Host) -> Result<()> {
    // What a killed run had begun about a cluster goes on working in the place that is to move.
    postgres::change::finish(host).await?;
    let runs = app_runs(env, host).await;
    let [postgresql, docker] = &wanted(env, host)?;
    let (first, then) = (stage(postgresql.file, host)?, stage(docker.file, host)?);
    let moved = relocate(postgresql, first, runs, host).await?;
    // PostgreSQL takes seconds to start; Docker's directory is on its way meanwhile.
    let (ended, moved) = tokio::join!(finish(postgresql, moved, host), relocate(docker, then, runs, host));
    if let (Err(error), Err(_)) = (&ended, &moved) {
        tracing::error!("{error:#}");
    }
    ended.and(finish(docker, moved?, host).await)
}

/// Whether a container of the app runs; a Docker that does not answer runs none that could be hurt.
async fn app_runs(env: &Env, host: &Host) -> bool {
    let containers = host.docker().containers(env.app.name.as_str(), Look::Quick).await;
    containers.is_ok_and(|all| all.iter().any(Container::is_running))
}

fn aside(from: &str) -> String {
    format!("{from}.moved")
}

/// How a directory stands after a look at it, and after its move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// It is where it is to be, or stays where it is.
    Settled,
    /// Units are stopped for it.
    Moved,
    /// It is not looked at now.
    Later,
}

async fn relocate(wanted: &Wanted, stage: Option<Stage>, app_runs: bool, host: &Host) -> Result<Place> {
    let Wanted { from, to, .. } = wanted;
    let settled = if stage.is_some() { Place::Moved } else { Place::Settled };
    if host.link_target(from).is_some() {
        // Also where it leads elsewhere: somebody has decided that.
        return Ok(settled);
    }
    if app_runs && stage.is_none() {
        // A supervisor that is replaced touches no container; the next start of the app finds none.
        tracing::info!("{from} stays where it is while the app runs");
        return Ok(Place::Later);
    }
    let is_there = host.is_directory(from);
    if !is_there && stage.is_none() && !host.is_directory(&aside(from)) {
        return Ok(Place::Settled);
    }
    if is_there && host.try_ask(Cmd::new("mountpoint", ["--quiet", from])).await?.code == Some(0) {
        tracing::debug!("{from} has a file system of its own and stays there");
        return Ok(settled);
    }
    let at_target = host.names(to)?;
    let has_copy = stage == Some(Stage::Copied) || !is_there;
    if !has_copy && !at_target.is_empty() {
        return adopt(wanted, &at_target, host).await;
    }
    let extent = if has_copy { None } else { Some(host.extent(from).await?) };
    let size = extent.map(|extent| format!(" ({})", Size(extent.bytes.max(1)))).unwrap_or_default();
    // Refused before anything stops.
    let is_same = host.room(from)?.map(|room| room.device) == host.room(to)?.map(|room| room.device);
    if let Some(extent) = extent.filter(|_| !is_same) {
        assert_room(wanted, extent, host).await?;
    }
    host.note_act(What::Directory, from, &format!("move to {to}{size}, with {} stopped", wanted.units.join(" and ")));
    if !host.applies() {
        return Ok(Place::Settled);
    }
    if !has_copy {
        remember(wanted, Stage::Moving, host)?;
    }
    let moved = move_stopped(wanted, has_copy, extent, is_same, host).await;
    if moved.is_err() {
        // The original is where it was.
        start(wanted, host).await?;
        host.discard(wanted.file)?;
    }
    moved.with_context(|| format!("could not move {from} to {to}; it stays where it is"))?;
    Ok(Place::Moved)
}

async fn move_stopped(
    wanted: &Wanted,
    has_copy: bool,
    extent: Option<crate::host::TreeExtent>,
    is_same: bool,
    host: &Host,
) -> Result<()> {
    let Wanted { from, to, .. } = wanted;
    for unit in &wanted.units {
        if host.unit_state(unit).await? != UnitState::Missing {
            host.stop_unit(unit).await?;
        }
    }
    if let Some(extent) = extent.filter(|_| !has_copy) {
        let mounts = host.read_text("/proc/self/mountinfo", 16 << 20)?.unwrap_or_default();
        let below = format!("{from}/");
        let mut targets = mounts.lines().filter_map(|line| line.split(' ').nth(4));
        if let Some(busy) = targets.find(|target| target.starts_with(&below)) {
            bail!("something is mounted on {busy}: a container may run without its daemon; stop it first");
        }
        if is_same && host.rename(from, to)? {
            return host.ensure_link(from, to).map(drop);
        }
        let moving = format!("{to}.moving");
        host.copy_tree(from, &moving, extent).await?;
        remember(wanted, Stage::Copied, host)?;
    }
    let moving = format!("{to}.moving");
    if host.exists(&moving) && !host.rename(&moving, to)? {
        bail!("{moving} and {to} are on two file systems");
    }
    // From here on the copy counts. Where a directory cannot be renamed, what is in it goes first.
    if host.is_directory(from) && !host.rename(from, &aside(from))? {
        host.remove_tree(from).await?;
    }
    host.ensure_link(from, to).map(drop)
}

/// The volume has the data of another host already, like the one before this one: it counts, and what is here is put aside.
async fn adopt(wanted: &Wanted, names: &[String], host: &Host) -> Result<Place> {
    let Wanted { from, to, .. } = wanted;
    if !(wanted.is_kept_there)(names) {
        bail!("{to} is not empty, but does not hold what belongs there; move away what is in it: {}", names.join(", "));
    }
    let here = host.names(from)?;
    host.note_act(What::Directory, from, &format!("use what is on the volume ({to}); put aside what is here"));
    if !host.applies() {
        return Ok(Place::Settled);
    }
    remember(wanted, Stage::Moving, host)?;
    for unit in &wanted.units {
        if host.unit_state(unit).await? != UnitState::Missing {
            host.stop_unit(unit).await?;
        }
    }
    let kept = format!("{from}.before-{}", host.now().as_second());
    if here.is_empty() || !host.rename(from, &kept)? {
        start(wanted, host).await?;
        bail!("{to} has data already, and {from} cannot be put aside; move it away");
    }
    tracing::warn!("{to} has data already and is used; what was in {from} is in {kept} now");
    host.ensure_link(from, to)?;
    Ok(Place::Moved)
}

async fn assert_room(wanted: &Wanted, extent: crate::host::TreeExtent, host: &Host) -> Result<()> {
    let Wanted { from, to, .. } = wanted;
    // A plan for a host that was never prepared: there is no such place yet.
    let Some(free) = host.room(to)?.map(|room| room.free) else { return Ok(()) };
    let needed = extent.bytes + extent.bytes / 100 * SPARE;
    if free < needed {
        bail!(
            "{from} takes {}, but {to} has {} free; nothing was stopped or moved",
            Size(needed.max(1)),
            Size(free.max(1))
        );
    }
    let told = host.ask(Cmd::new("df", ["--output=itotal,iavail", *to])).await?;
    let mut numbers = told.stdout.split_whitespace().filter_map(|word| word.parse::<u64>().ok());
    // File systems without a fixed number of files tell 0.
    if let (Some(1..), Some(left)) = (numbers.next(), numbers.next())
        && left < extent.files
    {
        bail!("{from} has {} files, but {to} has room for {left}; nothing was stopped or moved", extent.files);
    }
    Ok(())
}

/// Where it is settled, what was stopped is started, and then what is not needed any more removed.
async fn finish(wanted: &Wanted, place: Place, host: &Host) -> Result<()> {
    if place == Place::Later {
        return Ok(());
    }
    if host.applies() {
        if place == Place::Moved {
            start(wanted, host).await?;
            host.discard(wanted.file)?;
        }
        for left in [aside(wanted.from), format!("{}.moving", wanted.to)] {
            host.remove_tree(&left).await?;
        }
    }
    guard(wanted, host).await
}

async fn start(wanted: &Wanted, host: &Host) -> Result<()> {
    // One that has lost its data to those on the volume cannot; the step postgres decides what becomes of it.
    let empty: Vec<String> =
        postgres::clusters(host)?.iter().filter(|cluster| !cluster.has_data).map(Cluster::unit).collect();
    for unit in wanted.units.iter().rev().filter(|unit| !empty.contains(unit)) {
        if host.unit_state(unit).await? != UnitState::Missing {
            host.start_unit(unit).await?;
        }
    }
    Ok(())
}

/// Without its volume the service must not begin anew on the root disk.
async fn guard(wanted: &Wanted, host: &Host) -> Result<()> {
    let (mount, is_needed) = wanted.volume;
    let directory = format!("/etc/systemd/system/{}.d", wanted.guarded);
    let file = format!("{directory}/appliance-volume.conf");
    let is_link = host.link_target(wanted.from).as_deref() == Some(wanted.to);
    let changed = if is_needed && is_link {
        host.ensure_dir(&directory, &Dir::plain())?;
        let text = format!(
            "# Written by the appliance: what {} keeps lies on the volume.\n[Unit]\nRequiresMountsFor={mount}\nConditionPathIsMountPoint={mount}\n",
            wanted.guarded
        );
        host.ensure_file(&file, &File::text(text))?
    } else {
        host.ensure_absent(&file)?
    };
    if changed == Changed::Yes && host.applies() {
        host.reload_units().await?;
    }
    Ok(())
}
