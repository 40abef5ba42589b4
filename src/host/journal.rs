//! What was done, or would be: one entry per effect. Printing it is `cli/`.

use crate::value::Step;
use serde::Serialize;
use std::fmt;
use std::sync::{Mutex, MutexGuard};

/// The kind of thing that an entry is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    File,
    Directory,
    Link,
    Unit,
    Setting,
    Database,
    Disk,
    Mount,
    Package,
    Container,
    Network,
    Volume,
    Release,
}

impl What {
    /// Whether it is the app's, not the host's.
    pub fn is_of_stack(self) -> bool {
        matches!(self, What::Container | What::Network | What::Volume | What::Release)
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            What::File => "file",
            What::Directory => "directory",
            What::Link => "link",
            What::Unit => "unit",
            What::Setting => "setting",
            What::Database => "database",
            What::Disk => "disk",
            What::Mount => "mount",
            What::Package => "package",
            What::Container => "container",
            What::Network => "network",
            What::Volume => "volume",
            What::Release => "release",
        })
    }
}

/// One effect. Never holds a secret: contents stay out of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    pub step: Option<Step>,
    pub what: What,
    /// The path, unit, role … it is about.
    pub object: String,
    /// What happens to it and why: `create`, `change`, `restart`, `mode 0644 to 0600`.
    pub how: String,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.what, self.object, self.how)
    }
}

/// The most entries that are kept: far above what preparing a host needs.
const MAX_ENTRIES: usize = 10_000;

/// The entries of one run, in order.
#[derive(Debug, Default)]
pub struct Journal(Mutex<(Option<Step>, Vec<Entry>)>);

impl Journal {
    fn lock(&self) -> MutexGuard<'_, (Option<Step>, Vec<Entry>)> {
        // The guarded code only pushes and clones; a poisoned journal is still a readable one.
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub(super) fn begin(&self, step: Step) {
        self.lock().0 = Some(step);
    }

    pub(super) fn note(&self, entry: Entry, applied: bool) {
        let mut inner = self.lock();
        let entry = Entry { step: entry.step.or(inner.0), ..entry };
        if applied {
            tracing::info!("{entry}");
        }
        if inner.1.len() < MAX_ENTRIES {
            inner.1.push(entry);
        }
    }

    pub fn entries(&self) -> Vec<Entry> {
        self.lock().1.clone()
    }

    pub fn is_empty(&self) -> bool {
        self.lock().1.is_empty()
    }
}
