//! Leaving something for the owners of runs: every change that a client asks of a run goes this way.

use super::problem::{ErrorCode, Problem};
use super::{ApiState, TENANT};
use crate::failpoint::{Step, reach};
use crate::run::RunId;
use crate::store::{INBOX_NOTES, InboxNote, Left, StoreError};

/// Leaves a note for a run's owner, and wakes whoever reads it.
pub(super) async fn leave(api: &ApiState, run: RunId, note: InboxNote) -> Result<Left, StoreError> {
    reach(Step::LeaveAsked);
    let left = api.store.leave(TENANT, run, note).await?;
    reach(Step::LeaveCommitted);
    wake(api, run, left);
    Ok(left)
}

/// Leaves the same note for several runs.
pub(super) async fn leave_all(
    api: &ApiState,
    runs: Vec<RunId>,
    note: InboxNote,
) -> Result<Vec<Left>, StoreError> {
    reach(Step::LeaveAsked);
    let left = api.store.leave_all(TENANT, runs.clone(), note).await?;
    reach(Step::LeaveCommitted);
    for (run, left) in runs.into_iter().zip(&left) {
        wake(api, run, *left);
    }
    Ok(left)
}

fn wake(api: &ApiState, run: RunId, left: Left) {
    match left {
        Left::Accepted(owner) => api.wake(owner, run),
        Left::Ended | Left::Full | Left::NoRun => {}
    }
}

/// The answer where a run has had too many notes.
pub(super) fn full() -> Problem {
    let detail = format!("a run takes at most {INBOX_NOTES} changes; it can still be cancelled");
    Problem::new(ErrorCode::RateLimited, detail)
}

/// The note that asks for a run's end. Twice is once.
pub(super) fn cancel(by: &str) -> InboxNote {
    InboxNote {
        kind: "cancel",
        dedupe_key: "cancel".to_owned(),
        body: serde_json::json!({"by": by}).to_string(),
    }
}
