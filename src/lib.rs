//! Runledger runs LLM agents as a durable service. The log is the run: every event is committed
//! before anyone sees it. Modules in reading order.

pub mod hub;
pub mod journal;
pub mod run;
pub mod store;
