//! The load: clients of the service, and who drives them.

pub(crate) mod client;
pub(crate) mod closed;
pub(crate) mod delays;
pub(crate) mod open;
pub(crate) mod runs;
