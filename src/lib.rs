//! One binary, one library behind it.
//!
//! Two ideas carry everything. Preparing a host has a known order: it is ordered code over idempotent `ensure_…` verbs,
//! which do or, in check mode, only note; so `plan` is the same code. A container stack has a computed order: there, and
//! only there, a plan is data ([`stack::actions`]).
//!
//! | module | what lives there | may use, beside `value` and `error` |
//! |---|---|---|
//! | [`value`] | checked values, steps, phases | nothing |
//! | [`error`] | the error that ends a run | nothing |
//! | [`mod@env`] | env.yml as checked types, diagnostics, flat variables; the YAML reader | nothing |
//! | [`host`] | the one door for effects: files, commands, units, Docker, PostgreSQL, HTTP | nothing |
//! | [`state`] | ledger, failed flag, lock, status, the envs that were active | host |
//! | [`source`] | finding env.yml: files, drives, metadata services | env, host, state |
//! | [`provision`] | making an env.yml, and what it travels in | env, host, source |
//! | [`report`] | status page, Sentry | env, host, state |
//! | [`prepare`] | the host's steps, one file each | env, host, state, report |
//! | [`certificate`] | getting one by ACME, and keeping it good | env, host, state, prepare |
//! | [`authority`] | our own CA for client certificates | env, host, state, prepare |
//! | [`stack`] | compose file, difference to what runs, carrying it out | env, host, state |
//! | [`update`] | making a release, putting it in place, going back | env, host, state, report, prepare, stack |
//! | [`backup`] | runs into a repository, and the ways back | env, host, state, report, prepare, stack, update |
//! | [`alert`] | what is wrong, who was told, and who still has to be | env, host, state |
//! | [`supervise`] | from an env to a running app, and what follows from deaths | all above |
//! | [`watch`] | the process that looks and tells | env, host, source, state, prepare, backup, alert |
//! | [`cli`] | the commands | all |
//!
//! `tests/layers.rs` holds the third column.
pub mod alert;
pub mod authority;
pub mod backup;
pub mod certificate;
pub mod cli;
pub mod env;
pub mod error;
pub mod host;
pub mod prepare;
pub mod provision;
pub mod report;
pub mod source;
pub mod stack;
pub mod state;
pub mod supervise;
pub mod update;
pub mod value;
pub mod watch;
