//! Telling people: the status page for visitors, Sentry for the operator, metrics for whoever watches.

pub mod metrics;
pub mod page;
pub mod sentry;
