//! Telling people: the status page for visitors, Sentry for the operator.

pub mod page;
pub mod sentry;
