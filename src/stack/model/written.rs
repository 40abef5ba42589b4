//! The words of a file, where the model keeps only their meaning.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// What a service's keys say as they stand in the file. Two files that mean the same are equal, whatever their words: this is for
/// printing alone, and never compared.
#[derive(Debug, Clone, Default)]
pub struct Written {
    /// Keys that are printed as the file has them.
    pub keys: BTreeMap<&'static str, Value>,
    /// Which of some other keys there are.
    pub said: BTreeSet<&'static str>,
    /// `name`, `mode` and `app_protocol` of ports, by the container's port and the protocol.
    pub ports: BTreeMap<(u16, String), BTreeMap<String, String>>,
    /// Networks that are joined by a mapping, with their priority.
    pub networks: BTreeMap<String, Option<i64>>,
    /// Targets of grants, by `secrets.NAME` or `configs.NAME`.
    pub targets: BTreeMap<String, String>,
    /// `x-` keys.
    pub extensions: BTreeMap<String, Value>,
    pub mounts: Forms,
}

impl PartialEq for Written {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// How mounts are written.
#[derive(Debug, Clone, Default)]
pub struct Forms {
    /// By the mounts' targets.
    pub of: BTreeMap<String, Form>,
    /// Memory file systems that stand among them: before how many mounts, and their size in bytes and their mode.
    pub memory: Vec<(usize, String, Option<String>, Option<u32>)>,
}

/// How a mount is written.
#[derive(Debug, Clone, Default)]
pub struct Form {
    /// In one string.
    pub is_short: bool,
    /// `create_host_path: true` is said.
    pub creates: bool,
    /// The path as it stands there, where it is absolute.
    pub source: Option<String>,
}
