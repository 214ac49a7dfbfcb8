//! The service as its clients see it: the real binary, its real socket, and a stub model server.
#![expect(unreachable_pub, reason = "nothing imports a test binary")]

mod batches;
mod cancel;
mod chance;
mod client;
mod contract;
mod cors;
mod costs;
mod door;
mod effects;
mod examples;
mod healthcheck;
mod hostile;
mod idempotency;
mod limits;
mod lists;
mod load;
mod messages;
mod models;
mod neighbours;
mod nodes;
mod patch;
#[path = "../postgres/mod.rs"]
mod postgres;
mod purge;
mod recovery;
mod reference;
mod run_command;
mod runs;
#[path = "../scale.rs"]
mod scale;
mod seed;
mod service;
mod start;
mod stream;
mod stream_tokens;
mod stub;
mod stub_messages;
mod tool_crashes;
mod tool_guard;
mod tool_keys;
mod tool_stub;
mod tools;
mod verbose;
mod waiting;
