//! Alerts: what is wrong, since when, who was told of it, and who still has to be. `state.rs` is what follows from the conditions that hold
//! (pure); `event.rs` what is sent; `known.rs` keeps the state; `spool.rs` and `queue.rs` hold what is to be sent until a receiver has it;
//! `channel.rs` is the receivers, `webhook.rs` how they are told by one. What conditions there are is `watch/`.

mod channel;
mod event;
mod known;
mod queue;
mod request;
mod spool;
mod state;
mod webhook;

pub use channel::Channel;
pub use event::{Event, SENTRY};
pub use known::{acknowledge, known, round, silence, unsilence};
pub use queue::{
    Health, INBOX, Item, Queue, Recipient, announce, distribute, handed_over, health, is_quiet, oldest, report,
};
pub use spool::{AWAY, HOME, Spool};
pub use state::{Alert, Condition, Key, Note, Phase, Round, Silence, State, What};
