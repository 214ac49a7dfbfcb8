//! The cases: each measures one thing, and checks that all it asked for was done, and done right.

mod plain;

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
pub(crate) const CASES: &[Case] = &[Case {
    name: "plain",
    says: "runs of one turn and twenty deltas a second, by how many are in flight",
    run: |rig| Box::pin(plain::run(rig)),
}];
