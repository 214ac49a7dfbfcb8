//! Reading a run's inbox: a row is read by committing its event, in order, at once.

use serde::Deserialize;

use super::driver::{Driver, Halt};
use crate::journal::Effects;
use crate::run::{Body, Draft};

/// What a cancel's row says.
#[derive(Debug, Deserialize)]
struct CancelNote {
    by: String,
    #[serde(default)]
    reason: Option<String>,
}

impl Driver {
    /// Reads what is new and commits what it means.
    pub(super) async fn read_inbox(&mut self) -> Result<(), Halt> {
        let tools = &self.tools;
        let rows = tools.read(&self.drain, || tools.store.inbox(self.run)).await?;
        let Some(last) = rows.last().map(|row| row.n).filter(|last| *last > self.inbox_read) else {
            return Ok(());
        };
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
                other => tracing::error!(run.id = %self.run, "an inbox row of kind `{other}`"),
            }
        }
        let effects = Effects { inbox_read: Some(last), ..Effects::default() };
        self.append(drafts, effects).await?;
        self.inbox_read = last;
        Ok(())
    }
}
