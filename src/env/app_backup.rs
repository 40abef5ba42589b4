//! The keys under `app.backup:`: what is done in a container before a run, and what is not stored (docs/backup.md).

use super::reader::{Fields, Reading, Unknown};
use super::words;
use crate::value::{ServiceName, UnstoredPath};

/// Everything under `app.backup:`.
#[derive(Debug, Clone, Default)]
pub struct AppBackup {
    pub exec: Option<Inside>,
    pub exclude: Vec<UnstoredPath>,
}

/// A command in a running container of a service.
#[derive(Debug, Clone)]
pub struct Inside {
    pub service: ServiceName,
    pub command: Vec<String>,
}

pub(super) fn read(app: &Fields) -> AppBackup {
    let fields = app.fields("backup");
    let exec = read_inside(fields.fields("exec"));
    let each = |reading: &Reading, node: &_, path: &str| reading.checked(node, path);
    let exclude = fields.list("exclude", each).unwrap_or_default();
    fields.finish(Unknown::Warn);
    AppBackup { exec, exclude }
}

fn read_inside(fields: Fields) -> Option<Inside> {
    let service = fields.checked("service");
    let command = words::command(&fields, "command");
    need_each_other(&fields, ["service", "command"]);
    fields.finish(Unknown::Warn);
    Some(Inside { service: service?, command: command? })
}

/// Says of one of two keys that it needs the other.
pub(super) fn need_each_other(fields: &Fields, [one, other]: [&'static str; 2]) {
    for (key, other) in [(one, other), (other, one)] {
        if let Some(place) = fields.value(key).and_then(|_| fields.key_place(key))
            && fields.value(other).is_none()
        {
            fields.error(place, format!("'{}' needs '{}' beside it", fields.path(key), fields.path(other)));
        }
    }
}
