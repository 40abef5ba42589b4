//! `deploy:` as far as one host carries it out: resources and the restart policy (Compose Deploy Specification).

use crate::env::document;
use crate::env::reader::{Fields, Unknown};
use crate::stack::model::Restart;
use crate::stack::ports;

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
    pub restart: Option<Restart>,
}

pub fn read(service: &Fields) -> Deploy {
    if service.value("deploy").is_none() {
        return Deploy::default();
    }
    let fields = service.fields("deploy");
    if let Some(mode) = fields.text("mode").filter(|mode| mode != "replicated") {
        let path = fields.path("mode");
        fields.error(fields.place(), format!("'{path}: {}' is not carried out; replicated is", document::shown(&mode)));
    }
    if fields
        .get("replicas", |reading, node, path| reading.number(node, path, 0..=1000))
        .is_some_and(|count| count != 1)
    {
        fields.error(fields.place(), format!("'{}' other than 1 is not carried out yet", fields.path("replicas")));
    }
    let resources = fields.fields("resources");
    let (limits, reservations) = (resources.fields("limits"), resources.fields("reservations"));
    let size = |of: &Fields, key: &'static str| {
        let text = of.text(key)?;
        ports::bytes(&text).map_err(|problem| of.error(of.place(), format!("'{}': {problem}", of.path(key)))).ok()
    };
    let policy = fields.fields("restart_policy");
    let restart = policy.text("condition").and_then(|condition| match condition.as_str() {
        "any" => Some(Restart::Always),
        "on-failure" => Some(Restart::OnFailure),
        "none" => Some(Restart::No),
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
        nano_cpus: limits.text("cpus").and_then(|text| {
            let cpus = ports::nano_cpus(&text);
            if cpus.is_none() {
                limits.error(limits.place(), format!("'{}' must be a number of CPUs like 0.5", limits.path("cpus")));
            }
            cpus
        }),
        memory: size(&limits, "memory"),
        pids: limits.get("pids", |reading, node, path| reading.number(node, path, -1..=4_194_304)),
        memory_reservation: size(&reservations, "memory"),
        restart,
    };
    for part in [limits, reservations, resources, policy, fields] {
        part.finish(Unknown::Refuse);
    }
    deploy
}
