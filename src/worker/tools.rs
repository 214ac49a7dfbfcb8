//! The tools of one turn: side by side, each result committed as it comes.

use std::collections::BTreeMap;

use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;

use super::driver::{Driver, Halt, Work};
use crate::journal::Effects;
use crate::run::ending::closing;
use crate::run::event::{Effect, Outcome};
use crate::run::limits;
use crate::run::state::Call;
use crate::run::{Body, CallId, Draft, State};
use crate::tool::Answer;

/// The longest that a model is told of why its call can't run.
const REFUSAL_BYTES_MAX: usize = 2048;

/// A tool has answered.
struct Answered {
    call: CallId,
    answer: Answer,
    elapsed: f64,
}

impl Driver {
    /// Drafts the answers to the calls that can't run, and the starts of as many of the others as
    /// may be under way at once. None where nothing was left to start.
    pub(super) fn prepare_calls(
        &self,
        after: &State,
        calls: &[CallId],
        drafts: &mut Vec<Draft>,
    ) -> Option<Vec<CallId>> {
        let mut starts = Vec::new();
        let mut started = Vec::new();
        for call in after.open_calls().filter(|call| calls.contains(&call.call_id)) {
            let draft = |body| Draft { turn: after.turn, attempt: after.attempt.max(1), body };
            if call.tries > 0 && call.effect == Effect::Once {
                drafts.push(draft(closing(call)));
            } else if let Some(mut words) = self.refusal(call) {
                // It may repeat what the model wrote.
                words.truncate(words.floor_char_boundary(REFUSAL_BYTES_MAX));
                let answer = Answer::failed(words, Outcome::Error);
                let answered = Answered { call: call.call_id.clone(), answer, elapsed: 0.0 };
                drafts.push(draft(answer_of(call, answered, 0)));
            } else if started.len() < limits::TOOLS_AT_ONCE {
                started.push(call.call_id.clone());
                starts.push(draft(start_of(call)));
            }
        }
        drafts.extend(starts);
        (!started.is_empty()).then_some(started)
    }

    /// Why a call can't run, in words for the model.
    fn refusal(&self, call: &Call) -> Option<String> {
        let Some(tool) = self.spec.tool(&call.tool_name) else {
            let known: Vec<&str> =
                self.spec.agent.tools.iter().map(|tool| tool.name.as_str()).collect();
            return Some(if known.is_empty() {
                format!("there is no tool `{}`; there are no tools", call.tool_name)
            } else {
                format!("there is no tool `{}`; there are {}", call.tool_name, known.join(", "))
            });
        };
        if !call.arguments.is_object() {
            return Some("the arguments are not a JSON object".to_owned());
        }
        self.tools.toolbox.check(tool, &call.arguments).err()
    }

    /// Runs started calls to their ends; commits each result as it comes, and with the last one what
    /// follows.
    pub(super) async fn call_tools(&mut self, started: Vec<CallId>) -> Result<Work, Halt> {
        let deadline = self.deadline();
        let mut running = JoinSet::new();
        let mut ids = BTreeMap::new();
        #[cfg(test)]
        super::tests::break_where_told(&self.state, &started);
        for call in &started {
            if let Some(task) = self.spawn(&mut running, call) {
                ids.insert(task, call.clone());
            }
        }
        while !running.is_empty() {
            // What stops the tools first; dropping the set ends those under way.
            let first = tokio::select! {
                biased;
                () = self.drain.now.cancelled() => return Err(Halt::Drain),
                () = self.nudge.notified() => {
                    self.read_inbox().await?;
                    if self.state.cancelled_by.is_some() {
                        return Ok(Work::Again);
                    }
                    continue;
                }
                () = tokio::time::sleep_until(deadline) => return Ok(Work::Again),
                Some(first) = running.join_next_with_id() => first,
            };
            let mut drafts = Vec::new();
            let others = std::iter::from_fn(|| running.try_join_next_with_id());
            for ended in std::iter::once(first).chain(others) {
                let answered = self.answered(ended, &ids);
                let call = answered.as_ref().and_then(|one| self.call(&one.call));
                if let (Some(answered), Some(call)) = (answered, call) {
                    drafts.push(self.draft(answer_of(call, answered, call.tries)));
                }
            }
            if running.is_empty() {
                return self.advance(drafts, None, false).await;
            }
            let drafts = self.with_lines(drafts);
            self.append(drafts, Effects::default()).await?;
        }
        Ok(Work::Again)
    }

    fn call(&self, id: &CallId) -> Option<&Call> {
        self.state.calls().find(|call| call.call_id == *id)
    }

    /// A tool's end; one that panicked has failed, in words that say nothing of the inside.
    fn answered(
        &self,
        ended: Result<(Id, Answered), JoinError>,
        ids: &BTreeMap<Id, CallId>,
    ) -> Option<Answered> {
        match ended {
            Ok((_task, answered)) => Some(answered),
            Err(error) => {
                tracing::error!(run.id = %self.run, error = %error, "a tool panicked");
                let answer = Answer::failed("the tool broke".to_owned(), Outcome::Error);
                let call = ids.get(&error.id())?.clone();
                Some(Answered { call, answer, elapsed: 0.0 })
            }
        }
    }

    fn spawn(&self, running: &mut JoinSet<Answered>, id: &CallId) -> Option<Id> {
        let call = self.call(id)?;
        let (call_id, arguments) = (call.call_id.clone(), call.arguments.clone());
        let tool = self.spec.tool(&call.tool_name)?.clone();
        let toolbox = self.tools.toolbox.clone();
        let task = running.spawn(async move {
            let since = Instant::now();
            let answer = toolbox.call(&tool, &arguments).await;
            Answered { call: call_id, answer, elapsed: since.elapsed().as_secs_f64() }
        });
        Some(task.id())
    }
}

fn start_of(call: &Call) -> Body {
    Body::ToolStarted {
        item: call.item,
        call_id: call.call_id.clone(),
        try_number: call.tries + 1,
        failed_before: None,
        child_run_id: None,
    }
}

fn answer_of(call: &Call, answered: Answered, try_number: u32) -> Body {
    let Answer { result, is_error, outcome, http_status, truncated } = answered.answer;
    Body::ToolResult {
        item: call.item,
        call_id: call.call_id.clone(),
        tool_name: call.tool_name.clone(),
        result,
        is_error,
        outcome,
        try_number,
        http_status,
        truncated,
        elapsed_time: answered.elapsed,
    }
}
