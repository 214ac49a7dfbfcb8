//! The service as its clients see it: the real binary, its real socket, and a stub model server.
#![expect(unreachable_pub, reason = "nothing imports a test binary")]

mod acknowledged;
mod authorization;
mod batches;
mod bulk;
mod canaries;
mod cancel;
mod cancel_spending;
mod client;
mod clients_gone;
mod contract;
mod cors;
mod costs;
mod costs_flapping;
mod door;
mod examples;
mod healthcheck;
mod hostile;
mod idempotency;
mod limits;
mod lists;
mod load;
mod malformed;
mod messages;
mod model_cuts;
mod model_faults;
mod models;
mod neighbours;
mod nodes;
mod nodes_changes;
mod nodes_racing;
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
mod subscribers;
mod tool_crashes;
mod tool_guard;
mod tool_stub;
mod tools;
mod verbose;
mod waiting;
mod wire_stub;
