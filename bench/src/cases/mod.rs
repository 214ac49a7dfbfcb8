//! The cases: each measures one thing, and checks that all it asked for was done, and done right.

mod create;
mod events;
mod footprint;
mod long;
mod naive;
mod nodes;
mod plain;
mod rate;
mod streams;
mod tools;

use std::future::Future;
use std::pin::Pin;

use anyhow::Result;

use crate::report::Outcome;
use crate::rig::Rig;

/// A case.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// What it measures, in a line.
    pub(crate) says: &'static str,
    pub(crate) run: for<'a> fn(&'a Rig) -> Measuring<'a>,
}

/// A case under way. An error is the rig's: what the service does wrong is a violation.
pub(crate) type Measuring<'a> = Pin<Box<dyn Future<Output = Result<Outcome>> + 'a>>;

/// Every case, in the order in which they run.
pub(crate) const CASES: &[Case] = &[
    Case {
        name: "plain",
        says: "runs of one turn and twenty deltas a second, by how many are in flight",
        run: |rig| Box::pin(plain::run(rig)),
    },
    Case {
        name: "tools",
        says: "the same with a call of an HTTP tool and a second turn",
        run: |rig| Box::pin(tools::run(rig)),
    },
    Case {
        name: "create",
        says: "how long POST /runs takes while many runs are in flight",
        run: |rig| Box::pin(create::run(rig)),
    },
    Case {
        name: "events",
        says: "durable events a second, of many runs whose text comes over time",
        run: |rig| Box::pin(events::run(rig)),
    },
    Case {
        name: "naive",
        says: "plain runs beside the same with a transaction for each change of state",
        run: |rig| Box::pin(naive::run(rig)),
    },
    Case {
        name: "first",
        says: "from POST /runs to the first delta, one run at a time",
        run: |rig| Box::pin(streams::first(rig)),
    },
    Case {
        name: "streams",
        says: "streams of a hundred deltas a second each: how late they come, and what a run takes longer",
        run: |rig| Box::pin(streams::run(rig)),
    },
    Case {
        name: "long",
        says: "whether the hundredth turn of a run is as soon begun as the second",
        run: |rig| Box::pin(long::run(rig)),
    },
    Case {
        name: "cancel",
        says: "from a cancel to the end of the model's connection",
        run: |rig| Box::pin(nodes::cancel(rig)),
    },
    Case {
        name: "recovery",
        says: "from kill -9 of a node until another goes on",
        run: |rig| Box::pin(nodes::recovery(rig)),
    },
    Case {
        name: "footprint",
        says: "memory when idle and for each active run, the time of a start, the size of the binary",
        run: |rig| Box::pin(footprint::footprint(rig)),
    },
    Case {
        name: "subscribers",
        says: "memory for each of ten thousand readers of streams that wait",
        run: |rig| Box::pin(footprint::subscribers(rig)),
    },
];
