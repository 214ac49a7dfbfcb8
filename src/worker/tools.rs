//! The tools of one turn: side by side, each result committed as it comes.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;

use super::driver::{Driver, Halt, Work};
use super::jitter::jitter;
use super::trace::traceparent;
use crate::failpoint::{Step, reach};
use crate::journal::Effects;
use crate::run::ending::closing;
use crate::run::event::{Effect, FailedTry, Outcome};
use crate::run::limits;
use crate::run::state::Call;
use crate::run::{Body, CallId, Draft, State};
use crate::tool::{Answer, Invocation, Tried};

/// The longest that a model is told of why its call can't run.
const REFUSAL_BYTES_MAX: usize = 2048;

/// A try that has ended, by itself or in a panic.
type Joined = Result<(Id, (CallId, Tried)), JoinError>;

/// The calls of a turn that are under way.
#[derive(Default)]
struct Calls {
    running: JoinSet<(CallId, Tried)>,
    /// Which call a task tries, for when it panics.
    ids: BTreeMap<Id, CallId>,
    /// When this driver first tried each: a tool's time is that of all its tries.
    since: BTreeMap<CallId, Instant>,
}

/// What has come of tries, to be committed at once.
#[derive(Default)]
struct Came {
    drafts: Vec<Draft>,
    /// The starts of the next tries, and of which calls.
    starts: Vec<Draft>,
    again: Vec<CallId>,
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
                drafts.push(draft(answer_of(call, answer, 0.0, 0)));
            } else if started.len() < limits::TOOLS_AT_ONCE {
                started.push(call.call_id.clone());
                starts.push(draft(start_of(call, None)));
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
    /// follows. A call that is tried again is started again, while the others go on.
    pub(super) async fn call_tools(&mut self, started: Vec<CallId>) -> Result<Work, Halt> {
        let mut deadline = self.deadline();
        let mut calls = Calls::default();
        #[cfg(test)]
        super::tests::break_where_told(&self.state, &started);
        reach(Step::ToolsStarted);
        for call in &started {
            self.spawn(&mut calls, call);
        }
        while !calls.running.is_empty() {
            // What stops the tools first; dropping the set ends those under way.
            let first = tokio::select! {
                biased;
                () = self.drain.now.cancelled() => return Err(Halt::Drain),
                () = self.pulse.notified() => {
                    self.read_inbox().await?;
                    if self.state.cancelled_by.is_some() {
                        return Ok(Work::Again);
                    }
                    // It may have been given more time.
                    deadline = self.deadline();
                    continue;
                }
                () = tokio::time::sleep_until(deadline) => return Ok(Work::Again),
                Some(first) = calls.running.join_next_with_id() => first,
            };
            reach(Step::ToolAnswered);
            let Came { drafts, starts, again } = self.take(first, &mut calls);
            if calls.running.is_empty() && again.is_empty() {
                return self.advance(drafts, None, false).await;
            }
            let mut drafts = self.with_lines(drafts);
            // Starts are the last of an append: where a cancel refuses them, the rest commits.
            let (starts, lines): (Vec<Draft>, Vec<Draft>) =
                self.with_lines(starts).into_iter().partition(|draft| draft.body.is_start());
            drafts.extend(lines);
            drafts.extend(starts);
            let committed = self.pen.append(drafts, Effects::default()).await?;
            self.fold(&committed.events);
            reach(Step::ToolCommitted);
            if committed.starts_refused {
                return Ok(Work::Again);
            }
            for call in &again {
                self.spawn(&mut calls, call);
            }
        }
        Ok(Work::Again)
    }

    fn call(&self, id: &CallId) -> Option<&Call> {
        self.state.calls().find(|call| call.call_id == *id)
    }

    /// Everything that has come by now.
    fn take(&self, first: Joined, calls: &mut Calls) -> Came {
        let mut came = Came::default();
        let mut variables = None;
        let mut next = Some(first);
        while let Some(joined) = next {
            let tried = self.tried(joined, calls);
            let found = tried.and_then(|(id, tried)| Some((self.call(&id)?, tried)));
            match found {
                None => {}
                Some((call, Tried::Failed { failed, .. })) => {
                    came.starts.push(self.draft(start_of(call, Some(failed))));
                    came.again.push(call.call_id.clone());
                }
                Some((call, Tried::Answered(answer))) => {
                    let since = calls.since.get(&call.call_id).copied();
                    let elapsed = since.map_or(0.0, |since| since.elapsed().as_secs_f64());
                    let answer = self.within_bounds(answer, &mut variables);
                    if let Some(values) = answer.variables.clone() {
                        came.drafts.push(self.draft(Body::VariablesSet { values }));
                    }
                    came.drafts.push(self.draft(answer_of(call, answer, elapsed, call.tries)));
                }
            }
            next = calls.running.try_join_next_with_id();
        }
        came
    }

    /// Refuses variables with which the run would have more than it may. `after`: the variables as
    /// they will be after what has come before, once they were looked at.
    fn within_bounds(&self, answer: Answer, after: &mut Option<Map<String, Value>>) -> Answer {
        let Some(values) = answer.variables.as_ref().filter(|values| !values.is_empty()) else {
            return Answer { variables: None, ..answer };
        };
        let before = after.get_or_insert_with(|| self.state.variables(&self.spec));
        let mut all = before.clone();
        all.extend(values.clone());
        let bytes = serde_json::to_string(&all).map_or(usize::MAX, |text| text.len());
        if bytes > limits::VARIABLES_BYTES {
            let words = format!(
                "the tool set variables: with them the run would have {bytes} bytes of variables, \
                 and may have {}",
                limits::VARIABLES_BYTES
            );
            let http_status = answer.http_status;
            return Answer { http_status, ..Answer::failed(words, Outcome::Error) };
        }
        *before = all;
        answer
    }

    /// A try's end; a tool that panicked has failed, in words that say nothing of the inside.
    fn tried(&self, joined: Joined, calls: &Calls) -> Option<(CallId, Tried)> {
        match joined {
            Ok((_task, tried)) => Some(tried),
            Err(error) => {
                tracing::error!(run.id = %self.run, error = %error, "a tool panicked");
                let answer = Answer::failed("the tool broke".to_owned(), Outcome::Error);
                Some((calls.ids.get(&error.id())?.clone(), Tried::Answered(answer)))
            }
        }
    }

    /// Begins a try whose start is committed. The wait before the next one, if it fails, is a part of
    /// it: what ends the tools ends that too.
    fn spawn(&self, calls: &mut Calls, id: &CallId) {
        let found = self.call(id).and_then(|call| Some((call, self.spec.tool(&call.tool_name)?)));
        let Some((call, tool)) = found else { return };
        let since = *calls.since.entry(id.clone()).or_insert_with(Instant::now);
        let State { traceparent: given, .. } = &self.state;
        let is_recorded = self.spec.config.trace_enabled;
        let invocation = Invocation {
            tool: tool.clone(),
            effect: call.effect,
            run_id: self.public_id.clone(),
            call_id: id.clone(),
            arguments: call.arguments.clone(),
            variables: self.state.variables(&self.spec),
            traceparent: traceparent(given.as_deref(), self.run, is_recorded, id, call.tries),
            try_number: call.tries,
            until: since + Duration::from_secs_f64(tool.timeout),
            jitter: jitter(),
        };
        let toolbox = self.tools.toolbox.clone();
        let task = calls.running.spawn(async move {
            let tried = toolbox.call(&invocation).await;
            if let Tried::Failed { wait, .. } = &tried {
                tokio::time::sleep(*wait).await;
            }
            (invocation.call_id, tried)
        });
        calls.ids.insert(task.id(), id.clone());
    }
}

fn start_of(call: &Call, failed_before: Option<FailedTry>) -> Body {
    Body::ToolStarted {
        item: call.item,
        call_id: call.call_id.clone(),
        try_number: call.tries + 1,
        failed_before,
        child_run_id: None,
    }
}

fn answer_of(call: &Call, answer: Answer, elapsed_time: f64, try_number: u32) -> Body {
    let Answer { result, is_error, outcome, http_status, truncated, variables: _ } = answer;
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
        elapsed_time,
    }
}
