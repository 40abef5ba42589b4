//! Values as compose prints them: durations, numbers of processors, lists and pairs, each `$` doubled. Pure.

use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// A mapping whose empty entries are left out.
#[derive(Default)]
pub(super) struct Entries(pub(super) Map<String, Value>);

impl Entries {
    pub(super) fn add(&mut self, key: &str, value: impl Into<Value>) {
        let value = value.into();
        let is_empty = match &value {
            Value::Null | Value::Bool(false) => true,
            Value::Array(items) => items.is_empty(),
            Value::Object(entries) => entries.is_empty(),
            _ => false,
        };
        if !is_empty {
            self.0.insert(key.to_owned(), value);
        }
    }

    /// Sizes stand as strings.
    pub(super) fn size(&mut self, key: &str, size: Option<i64>) {
        self.add(key, size.map(|size| size.to_string()));
    }
}

pub(super) fn doubled(text: &str) -> String {
    text.replace('$', "$$")
}

pub(super) fn list(texts: &[String]) -> Value {
    texts.iter().map(|text| doubled(text)).collect()
}

pub(super) fn pairs(pairs: &BTreeMap<String, String>) -> Value {
    pairs.iter().map(|(name, value)| (name.clone(), Value::from(doubled(value)))).collect::<Map<_, _>>().into()
}

/// `1h0m0s`, `1m30s`, `10s`, `1.5s`, as Go prints durations.
pub(super) fn duration(duration: Duration) -> String {
    let (seconds, nanos) = (duration.as_secs(), duration.subsec_nanos());
    if seconds == 0 && nanos > 0 {
        return match nanos {
            0..1_000 => format!("{nanos}ns"),
            1_000..1_000_000 => format!("{}µs", f64::from(nanos) / 1e3),
            _ => format!("{}ms", f64::from(nanos) / 1e6),
        };
    }
    let rest = (seconds % 60) as f64 + f64::from(nanos) / 1e9;
    match (seconds / 3600, seconds % 3600 / 60) {
        (0, 0) => format!("{rest}s"),
        (0, minutes) => format!("{minutes}m{rest}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{rest}s"),
    }
}

/// A number of CPUs as it is written: without a part where there is none.
pub(super) fn cpus(nano: i64) -> Value {
    if nano % 1_000_000_000 == 0 { json!(nano / 1_000_000_000) } else { json!(nano as f64 / 1e9) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_printed_as_go_prints_them() {
        for (millis, expected) in [
            (10_000, "10s"),
            (90_000, "1m30s"),
            (60_000, "1m0s"),
            (3_600_000, "1h0m0s"),
            (1_500, "1.5s"),
            (250, "250ms"),
            (0, "0s"),
        ] {
            assert_eq!(duration(Duration::from_millis(millis)), expected);
        }
        assert_eq!(duration(Duration::from_micros(100)), "100µs");
    }
}
