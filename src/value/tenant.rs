//! An app's standing on its host: whether it has it to itself.

use super::AppName;

/// An app, and whether the host is its alone. What belongs to one of several lies where its name is part of the path; what belongs to one
/// that is alone lies where it always did.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tenant {
    /// The app of `app:` or `ecs:`: its names, flags and files are the host's.
    Alone(AppName),
    /// One of `apps:`, if only of one.
    OneOfSeveral(AppName),
}

impl Tenant {
    pub fn name(&self) -> &AppName {
        match self {
            Tenant::Alone(name) | Tenant::OneOfSeveral(name) => name,
        }
    }

    pub fn is_alone(&self) -> bool {
        matches!(self, Tenant::Alone(_))
    }

    /// A path: the host's for an app that is alone, else one with its name in it.
    pub fn path(&self, alone: &str, of_several: impl FnOnce(&AppName) -> String) -> String {
        match self {
            Tenant::Alone(_) => alone.to_owned(),
            Tenant::OneOfSeveral(name) => of_several(name),
        }
    }
}
