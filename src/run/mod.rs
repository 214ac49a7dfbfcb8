//! What a run is and what it does next: pure data and pure functions, told everything they know.
//!
//! Nothing in here has a clock, does I/O, makes ids or spawns. A run's state is the fold of its log
//! ([`State::apply`]), and what happens next is a function of that state ([`decide()`]). So every
//! prefix of every log is a point to go on from, and a crash is nothing special.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod budget;
pub mod catalog;
pub mod decide;
pub mod ending;
pub mod event;
mod fold;
mod history;
pub mod id;
pub mod limits;
pub mod message;
pub mod plain;
pub mod price;
pub mod raise;
pub mod request;
pub mod retry;
pub mod schema;
pub mod secret;
pub mod spec;
pub mod state;
pub mod template;
mod usage;

pub use catalog::Catalog;
pub use decide::{Clock, Step, decide};
pub use ending::Ending;
pub use event::{Body, Draft, Event};
pub use id::{CallId, RunId, Seq};
pub use message::{Content, Message, Part, ToolCall};
pub use raise::{Limits, Raise};
pub use request::Request;
pub use spec::{Agent, Config, Spec, Tool};
pub use state::{State, Status};

#[cfg(test)]
mod notation;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod world;
