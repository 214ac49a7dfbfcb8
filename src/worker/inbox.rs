//! Reading a run's inbox: a row is read by committing its event, in order, at once.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::driver::{Driver, Halt};
use crate::failpoint::{Step, reach};
use crate::journal::Effects;
use crate::run::{Body, Draft, Raise};

/// What a cancel's row says.
#[derive(Debug, Deserialize)]
struct CancelNote {
    by: String,
    #[serde(default)]
    reason: Option<String>,
}

/// What a change's row says.
#[derive(Debug, Deserialize)]
struct UpdateNote {
    by: String,
    #[serde(default)]
    limits: Option<Raise>,
    #[serde(default)]
    metadata: Option<Map<String, Value>>,
}

impl Driver {
    fn updated(&self, note: &str) -> Option<Draft> {
        match serde_json::from_str::<UpdateNote>(note) {
            Ok(UpdateNote { by, limits, metadata }) => Some(Draft {
                turn: self.state.turn,
                attempt: self.state.attempt.max(1),
                body: Body::RunUpdated { metadata, limits, by },
            }),
            Err(error) => {
                tracing::error!(run.id = %self.run, error = %error, "a change can't be read");
                None
            }
        }
    }

    /// Reads what is new and commits what it means.
    pub(super) async fn read_inbox(&mut self) -> Result<(), Halt> {
        let tools = &self.tools;
        let rows = tools.read(&self.drain, || tools.store.inbox(self.run)).await?;
        let Some(last) = rows.last().map(|row| row.n).filter(|last| *last > self.inbox_read) else {
            return Ok(());
        };
        reach(Step::InboxRead);
        let mut drafts = Vec::new();
        for row in rows.iter().filter(|row| row.n > self.inbox_read) {
            match row.kind.as_str() {
                "cancel" if self.state.cancelled_by.is_none() => {
                    let note = serde_json::from_str(&row.body)
                        .unwrap_or(CancelNote { by: "unknown".to_owned(), reason: None });
                    drafts.push(Draft {
                        turn: self.state.turn,
                        attempt: self.state.attempt.max(1),
                        body: Body::CancelRequested { by: note.by, reason: note.reason },
                    });
                }
                "cancel" => {}
                "update" => drafts.extend(self.updated(&row.body)),
                other => tracing::error!(run.id = %self.run, "an inbox row of kind `{other}`"),
            }
        }
        let effects = Effects { inbox_read: Some(last), ..Effects::default() };
        self.append(drafts, effects).await?;
        reach(Step::InboxCommitted);
        self.inbox_read = last;
        Ok(())
    }
}
