//! `limits` of one of several apps: what all of its containers may use together.

use super::reader::{Fields, Unknown};
use crate::value::amount;

/// Below this no app starts; it keeps `8` from being taken for gigabytes.
const MIN_MEMORY: i64 = 16 << 20;
const MAX_MEMORY: i64 = 1 << 50;
/// A hundredth of a processor is the least that systemd's `CPUQuota=` can say.
const CPUS: std::ops::RangeInclusive<i64> = 10_000_000..=1_000_000_000_000;
/// The kernel's own upper bound of process ids (PID_MAX_LIMIT).
const PIDS: std::ops::RangeInclusive<i64> = 16..=4_194_304;

/// What may be used; where it does not say, as much as there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// In bytes.
    pub memory: Option<i64>,
    /// In billionths of a processor.
    pub nano_cpus: Option<i64>,
    /// Processes and threads.
    pub pids: Option<i64>,
}

/// Reads `limits`; `None` where no limit is set.
pub(super) fn read(app: &Fields) -> Option<Limits> {
    let fields = app.fields("limits");
    let memory = amount_of(&fields, "memory", "a size like 512m or 2g, and at least 16m", |text| {
        amount::bytes(text).ok().filter(|size| (MIN_MEMORY..=MAX_MEMORY).contains(size))
    });
    let nano_cpus = amount_of(&fields, "cpus", "a number of processors from 0.01 to 1000, like 1.5", |text| {
        amount::nano_cpus(text).filter(|cpus| CPUS.contains(cpus))
    });
    let pids = fields.get("pids", |reading, node, path| reading.number(node, path, PIDS));
    // A limit that is misspelt would be none.
    fields.finish(Unknown::Refuse);
    let limits = Limits { memory, nano_cpus, pids };
    (limits != Limits { memory: None, nano_cpus: None, pids: None }).then_some(limits)
}

fn amount_of(fields: &Fields, key: &'static str, right: &str, read: fn(&str) -> Option<i64>) -> Option<i64> {
    let node = fields.value(key)?;
    let text = fields.text(key)?;
    fields.reading.mark_open(node);
    let amount = read(text.trim());
    if amount.is_none() {
        fields.error(node.place, format!("'{}' must be {right}", fields.path(key)));
    }
    amount
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::Env;

    fn read(limits: &str) -> Result<Option<Limits>, String> {
        let app = format!("{{name: one, git: {{source: /srv/x}}, limits: {limits}}}");
        let parsed = Env::parse(format!("appliance: {{domain: a.de}}\napps:\n  - {app}\n").as_bytes());
        parsed.envs.map(|envs| envs.host().app.limits).ok_or_else(|| parsed.report.render("t"))
    }

    #[test]
    fn limits_are_read_and_what_would_be_none_by_a_slip_is_an_error() {
        let all = Limits { memory: Some(512 << 20), nano_cpus: Some(1_500_000_000), pids: Some(200) };
        assert_eq!(read("{memory: 512m, cpus: 1.5, pids: 200}"), Ok(Some(all)));
        assert_eq!(read("{memory: 1g}"), Ok(Some(Limits { memory: Some(1 << 30), nano_cpus: None, pids: None })));
        assert_eq!((read("{}"), read("~")), (Ok(None), Ok(None)));
        for (bad, said) in [
            ("{memory: 8}", "'apps[0].limits.memory' must be a size"),
            ("{memory: [1]}", "must be a string"),
            ("{cpus: 0}", "'apps[0].limits.cpus' must be a number of processors"),
            ("{pids: 2}", "from 16 to 4194304"),
            ("{mem: 1g}", "'apps[0].limits.mem' is not supported"),
            ("2g", "must be a mapping"),
        ] {
            assert!(read(bad).is_err_and(|text| text.contains(said)), "{bad}: {:?}", read(bad));
        }
    }
}
