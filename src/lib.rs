//! The house: one binary, one library behind it.
//!
//! | module | what lives there | may use (beside `value` and `error`) |
//! |---|---|---|
//! | [`value`] | checked values, steps, phases | nothing |
//! | [`error`] | the error that ends a run | nothing |
//! | [`env`] | env.yml as checked types, diagnostics, flat variables | nothing more |
pub mod cli;
pub mod env;
pub mod error;
pub mod host;
pub mod prepare;
pub mod report;
pub mod source;
pub mod state;
pub mod stack;
pub mod supervise;
pub mod update;
pub mod value;
