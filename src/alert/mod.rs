//! Alerts: what is wrong, since when, who was told of it, and who still has to be. `state.rs` is what follows from the conditions that hold
//! (pure); `event.rs` what is sent; `known.rs` keeps the state; `spool.rs` and `queue.rs` hold what is to be sent until a receiver has it;
//! `channel.rs` is the receivers. What conditions there are is `watch/`.

mod channel;
mod event;
mod known;
mod queue;
mod spool;
mod state;

pub use channel::Channel;
pub use event::Event;
pub use known::{acknowledge, known, round, silence};
pub use queue::{Health, INBOX, Item, Queue, announce, distribute, handed_over, health, oldest};
pub use spool::{AWAY, HOME, Spool};
pub use state::{Alert, Condition, Key, Note, Phase, Round, Severity, Silence, State, What};
