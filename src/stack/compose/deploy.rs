//! `deploy:` as far as one host carries it out: resources and the restart policy (Compose Deploy Specification).

use crate::env::document;
use crate::env::reader::{Fields, Unknown};
use crate::stack::model::{Order, Restart, Rolling};
use crate::stack::ports;
use crate::value::amount;

/// What it asks for; each is `None` where it does not say.
#[derive(Debug, Default)]
pub struct Deploy {
    /// In billionths of a CPU.
    pub nano_cpus: Option<i64>,
    /// In bytes.
    pub memory: Option<i64>,
    pub pids: Option<i64>,
    /// In bytes.
    pub memory_reservation: Option<i64>,
    pub cpu_shares: Option<i64>,
    pub restart: Option<Restart>,
    pub replicas: Option<u16>,
    pub rolling: Rolling,
}

/// Keys that mean something to a swarm, and nothing on one host: they are said to have no effect.
fn ignore(fields: &Fields, keys: &[&'static str], why: &str) {
    for key in keys {
        if let Some(node) = fields.value(key) {
            fields.warning(node.place, format!("'{}' has no effect: {why}", fields.path(key)));
        }
    }
}

#[expect(clippy::too_many_lines, reason = "one key after the other")]
pub fn read(service: &Fields) -> Deploy {
    if service.value("deploy").is_none() {
        return Deploy::default();
    }
    let fields = service.fields("deploy");
    if let Some(mode) = fields.text("mode").filter(|mode| mode != "replicated") {
        let path = fields.path("mode");
        fields.error(fields.place(), format!("'{path}: {}' is not supported; replicated is", document::shown(&mode)));
    }
    let count = |fields: &Fields, key: &'static str| {
        let number = fields.get(key, |reading, node, path| reading.number(node, path, 0..=1000));
        number.and_then(|number| u16::try_from(number).ok())
    };
    let replicas = count(&fields, "replicas");
    // Where a swarm would put it; on one host there is one place.
    let placement = fields.fields("placement");
    let update = fields.fields("update_config");
    let mut rolling = Rolling::default();
    rolling.parallelism = count(&update, "parallelism").unwrap_or(rolling.parallelism);
    if let Some(text) = update.text("delay") {
        match ports::duration(&text) {
            Ok(delay) => rolling.delay = delay,
            Err(problem) => update.error(update.place(), format!("'{}': {problem}", update.path("delay"))),
        }
    }
    rolling.order = update.text("order").and_then(|order| match order.as_str() {
        "stop-first" => Some(Order::StopFirst),
        "start-first" => Some(Order::StartFirst),
        other => {
            let text = format!(
                "'{}' is '{}', but must be stop-first or start-first",
                update.path("order"),
                document::shown(other)
            );
            update.error(update.place(), text);
            None
        }
    });
    let resources = fields.fields("resources");
    let (limits, reservations) = (resources.fields("limits"), resources.fields("reservations"));
    let size = |of: &Fields, key: &'static str| {
        let text = of.text(key)?;
        amount::size_limit(&text)
            .map_err(|problem| of.error(of.place(), format!("'{}': {problem}", of.path(key))))
            .ok()?
    };
    let cpus = |of: &Fields| {
        let text = of.text("cpus")?;
        let cpus = amount::nano_cpus(&text);
        if cpus.is_none() {
            of.error(of.place(), format!("'{}' must be a number of CPUs like 0.5", of.path("cpus")));
        }
        cpus.filter(|cpus| *cpus > 0)
    };
    let policy = fields.fields("restart_policy");
    let attempts = count(&policy, "max_attempts").map(u32::from).filter(|count| *count > 0);
    let condition = policy.text("condition");
    if attempts.is_some() && condition.as_deref() != Some("on-failure") {
        let path = policy.path("max_attempts");
        policy.warning(policy.place(), format!("'{path}' has no effect without 'condition: on-failure'"));
    }
    ignore(&policy, &["delay", "window"], "the appliance waits by a rule of its own");
    ignore(&placement, &["constraints", "preferences", "max_replicas_per_node"], "there is one host");
    ignore(&update, &["failure_action", "monitor", "max_failure_ratio"], "an update that fails is rolled back");
    ignore(&fields, &["rollback_config", "endpoint_mode", "labels"], "it concerns a swarm");
    let restart = condition.and_then(|condition| match condition.as_str() {
        "any" | "always" | "unless-stopped" => Some(Restart::Always),
        "on-failure" => Some(Restart::OnFailure(attempts)),
        "none" | "no" => Some(Restart::No),
        other => {
            let text = format!(
                "'{}' is '{}', but must be any, on-failure or none",
                policy.path("condition"),
                document::shown(other)
            );
            policy.error(policy.place(), text);
            None
        }
    });
    let deploy = Deploy {
        nano_cpus: cpus(&limits),
        memory: size(&limits, "memory"),
        pids: limits
            .get("pids", |reading, node, path| reading.number(node, path, -1..=4_194_304))
            .filter(|pids| *pids != 0),
        memory_reservation: size(&reservations, "memory"),
        // Docker knows no reserved CPUs on one host; in times of need the same comes from shares, of which one CPU has 1024.
        cpu_shares: cpus(&reservations).map(|nano| (nano.saturating_mul(1024) / 1_000_000_000).max(2)),
        restart,
        replicas,
        rolling,
    };
    for part in [limits, reservations, resources, policy, placement, update, fields] {
        part.finish(Unknown::Refuse);
    }
    deploy
}
