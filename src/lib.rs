//! Runledger runs LLM agents as a durable service. The log is the run: every event is committed
//! before anyone sees it. Modules in reading order.

// What a run is, and what it does next. Pure.
pub mod run;

// Where facts live, who listens for them, and the one door through which they become durable.
pub mod store;

pub mod hub;

pub mod journal;

// Where the process may be ended by a test.
pub mod failpoint;

// The world that a run needs: models and tools.
pub mod model;

pub mod tool;

// Who makes runs move.
pub mod admission;

pub mod worker;

// How clients see it.
pub mod api;

pub mod client;

// What the operator sets and sees, and how everything is put together.
pub mod config;

pub mod telemetry;

pub mod app;
