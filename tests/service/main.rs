//! The service as its clients see it: the real binary, its real socket, and a stub model server.
#![expect(unreachable_pub, reason = "nothing imports a test binary")]

mod batches;
mod bulk;
mod cancel;
mod cancel_spending;
mod chance;
mod client;
mod clocks;
mod contract;
mod cors;
mod costs;
mod disk;
mod door;
mod drivers;
mod effects;
mod examples;
mod files;
mod healthcheck;
mod hostile;
mod idempotency;
mod limits;
mod lists;
mod load;
mod messages;
mod model_cuts;
mod model_faults;
mod models;
mod neighbours;
mod nodes;
mod patch;
#[path = "../postgres/mod.rs"]
mod postgres;
#[path = "../store_conformance/proxy.rs"]
#[expect(dead_code, reason = "the tests of the stores lose answers by it as well")]
mod proxy;
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
mod steps;
mod stream;
mod stream_tokens;
mod stub;
mod stub_messages;
mod stuck;
mod tool_crashes;
mod tool_guard;
mod tool_keys;
mod tool_stub;
mod tools;
mod verbose;
mod waiting;
mod wire_stub;
