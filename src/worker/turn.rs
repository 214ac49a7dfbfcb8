//! One model call: its output goes to the log as it comes, its end becomes the turn's end.

use std::time::Duration;

use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::driver::{Driver, Halt, Work};
use super::jitter::jitter;
use crate::failpoint::{Step, reach};
use crate::journal::{Effects, Text};
use crate::model::{DELTAS_MAX, Delta, Failure, ProposedCall, Remedy, Reply, request_sha256};
use crate::run::event::{AbortReason, Effect, Executor, FinishReason, OutputPart, Usage};
use crate::run::limits;
use crate::run::request::request;
use crate::run::retry::{Retry, retry_in};
use crate::run::state::FailedAttempt;
use crate::run::{Body, CallId, Draft, Ending, State, plain, price};

/// A turn's output so far.
#[derive(Debug, Default)]
struct Output {
    parts: Vec<OutputPart>,
    last_item: u32,
    /// The last stretch has had its opaque data: more reasoning is another stretch.
    is_closed: bool,
    first: Option<Instant>,
    /// Bytes of text and reasoning.
    bytes: u64,
}

impl Output {
    /// Takes a delta in; gives the item that it belongs to and what to push.
    fn take(&mut self, delta: Delta, turn: u32, attempt: u32) -> Text {
        self.first.get_or_insert_with(Instant::now);
        let (content, is_reasoning, metadata) = match delta {
            Delta::Text(text) => (text, false, None),
            Delta::Reasoning { text, provider_metadata } => {
                (text, true, provider_metadata.filter(plain::is_plain))
            }
        };
        self.bytes = self.bytes.saturating_add(bytes(content.len()));
        let same = !self.is_closed
            && matches!(
                (self.parts.last(), is_reasoning),
                (Some(OutputPart::Text { .. }), false) | (Some(OutputPart::Reasoning { .. }), true)
            );
        if !same {
            self.last_item += 1;
            let item = self.last_item;
            self.parts.push(if is_reasoning {
                OutputPart::Reasoning { item, text: None, provider_metadata: None }
            } else {
                OutputPart::Text { item, text: String::new() }
            });
        }
        self.is_closed = metadata.is_some();
        match self.parts.last_mut() {
            Some(OutputPart::Text { text, .. }) => text.push_str(&content),
            Some(OutputPart::Reasoning { text, provider_metadata, .. }) => {
                text.get_or_insert_default().push_str(&content);
                provider_metadata.clone_from(&metadata);
            }
            None => {}
        }
        let item = self.last_item;
        Text { turn, attempt, item, is_reasoning, content, provider_metadata: metadata }
    }
}

/// How a call of the model ended.
enum Called {
    Reply(Reply),
    Failed(Failure),
    /// Its time is over, or it was cancelled: `decide` says what that means.
    Stopped,
}

impl Driver {
    /// The event that begins a turn's attempt, behind its line where the run is verbose.
    pub(super) fn turn_started(
        &self,
        after: &State,
        model: &str,
        turn: u32,
        attempt: u32,
        with_tools: bool,
    ) -> Vec<Draft> {
        let request = request(&self.spec, after, &self.tools.catalog, with_tools);
        let request_sha256 = request_sha256(&request);
        let started = Body::TurnStarted { model: model.to_owned(), request_sha256 };
        let line = self.request_line(model, &request);
        let line = line.map(|body| Draft { turn: after.turn, attempt: after.attempt.max(1), body });
        line.into_iter().chain([Draft { turn, attempt, body: started }]).collect()
    }

    pub(super) async fn call_model(
        &mut self,
        name: String,
        with_tools: bool,
        since: Instant,
    ) -> Result<Work, Halt> {
        let mut output = Output { last_item: self.state.last_item, ..Output::default() };
        let called = match self.tools.models.resolve(&name) {
            None => Called::Failed(unknown_model(&name)),
            Some(model) => {
                let request = request(&self.spec, &self.state, &self.tools.catalog, with_tools);
                let (sender, deltas) = mpsc::channel(DELTAS_MAX);
                let call = async move { model.call(&request, sender).await };
                self.listen(call, deltas, &mut output).await?
            }
        };
        let elapsed = since.elapsed().as_secs_f64();
        match called {
            Called::Stopped => {
                // What was pushed is part of what the run leaves.
                self.append(Vec::new(), Effects::default()).await?;
                Ok(Work::Again)
            }
            Called::Reply(mut reply) => {
                reach(Step::TurnAnswered);
                let written: usize = reply.calls.iter().map(|call| call.arguments_raw.len()).sum();
                let said = output.bytes.saturating_add(bytes(written));
                reply.usage = self.usage(&name, reply.usage, with_tools, said, false);
                let first = output.first.map(|first| first.duration_since(since).as_secs_f64());
                let drafts = self.reply_drafts(reply, &name, output, elapsed, first);
                self.advance(drafts, None, false).await
            }
            Called::Failed(mut failure) => {
                reach(Step::TurnFailed);
                if failure.has_begun {
                    let told = failure.usage.unwrap_or_default();
                    failure.usage = Some(self.usage(&name, told, with_tools, output.bytes, true));
                }
                self.model_failed(&name, failure, output.last_item, elapsed).await
            }
        }
    }

    /// What a call has used, and what that costs: as the provider said, else estimated.
    fn usage(
        &self,
        model: &str,
        told: Usage,
        with_tools: bool,
        output_bytes: u64,
        is_cut: bool,
    ) -> Usage {
        let (spec, catalog) = (&self.spec, &self.tools.catalog);
        let input = || price::input_tokens(&request(spec, &self.state, catalog, with_tools));
        let used = price::filled(told, input, output_bytes, is_cut);
        let cost_usd = catalog.price(model).and_then(|price| price.cost_usd(&used));
        Usage { cost_usd, ..used }
    }

    /// What the open attempt has used by its committed output, where nobody can say any more: it was
    /// stopped from this side, or its node died. Providers bill what they had read and said by then.
    pub(super) fn open_usage(&self, state: &State) -> Option<Usage> {
        let open = state.open.as_ref()?;
        Some(self.usage(&open.model, Usage::default(), true, open.output_bytes, true))
    }

    /// Pushes the model's output until the call ends, its time is over, or somebody cancels.
    async fn listen(
        &mut self,
        call: impl Future<Output = Result<Reply, Failure>>,
        mut deltas: mpsc::Receiver<Delta>,
        output: &mut Output,
    ) -> Result<Called, Halt> {
        let (turn, attempt) = (self.state.turn, self.state.attempt);
        let mut deadline = self.deadline();
        tokio::pin!(call);
        let mut has_deltas = true;
        let mut pushed = 0;
        loop {
            // What stops the call first; then its output, so that all of it is before its end.
            tokio::select! {
                biased;
                () = self.drain.now.cancelled() => return Err(Halt::Drain),
                () = self.pulse.notified() => {
                    self.read_inbox().await?;
                    if self.state.cancelled_by.is_some() {
                        return Ok(Called::Stopped);
                    }
                    // It may have been given more time.
                    deadline = self.deadline();
                }
                () = tokio::time::sleep_until(deadline) => return Ok(Called::Stopped),
                delta = deltas.recv(), if has_deltas => match delta {
                    Some(delta) => {
                        let text = output.take(delta, turn, attempt);
                        self.pen.push(text).await?;
                        reach(Step::TurnDelta);
                        pushed += 1;
                        if !self.has_room(pushed) {
                            // Texts that were merged take less room than was feared.
                            self.append(Vec::new(), Effects::default()).await?;
                            pushed = 0;
                            if !self.has_room(pushed) {
                                return Ok(Called::Stopped);
                            }
                        }
                    }
                    None => has_deltas = false,
                },
                ended = &mut call => {
                    while let Ok(delta) = deltas.try_recv() {
                        let text = output.take(delta, turn, attempt);
                        self.pen.push(text).await?;
                    }
                    return Ok(match ended {
                        Ok(reply) => Called::Reply(reply),
                        Err(failure) => Called::Failed(failure),
                    });
                }
            }
        }
    }

    fn reply_drafts(
        &self,
        reply: Reply,
        name: &str,
        mut output: Output,
        elapsed_time: f64,
        first_output_time: Option<f64>,
    ) -> Vec<Draft> {
        let mut drafts = Vec::new();
        for call in reply.calls.into_iter().take(limits::CALLS_PER_TURN) {
            output.last_item += 1;
            drafts.push(self.draft(self.tool_call(call, output.last_item)));
        }
        let provider_metadata = (reply.finish_reason == FinishReason::Other)
            .then(|| json!({"finish_reason": reply.finish_reason_raw}));
        drafts.push(self.draft(Body::TurnCompleted {
            finish_reason: reply.finish_reason,
            parts: output.parts,
            usage: reply.usage,
            model: if reply.model.is_empty() { name.to_owned() } else { reply.model },
            provider_request_id: reply.provider_request_id,
            provider_metadata,
            elapsed_time,
            first_output_time:
                first_output_time.or_else(|| (!drafts.is_empty()).then_some(elapsed_time)),
        }));
        drafts
    }

    fn tool_call(&self, call: ProposedCall, item: u32) -> Body {
        let arguments = plain::arguments(&call.arguments_raw);
        let tool = self.spec.tool(&call.tool_name);
        let effect = tool.map(|tool| tool.effect(&self.tools.catalog));
        Body::ToolCall {
            item,
            call_id: CallId::new(self.run, item),
            provider_call_id: call.provider_call_id,
            tool_name: call.tool_name,
            arguments,
            arguments_raw: call.arguments_raw,
            executor: tool.map_or(Executor::Server, |tool| tool.kind.executor()),
            effect: effect.unwrap_or(Effect::Read),
            provider_metadata: call.provider_metadata.filter(plain::is_plain),
        }
    }

    async fn model_failed(
        &mut self,
        name: &str,
        failure: Failure,
        last_item: u32,
        elapsed: f64,
    ) -> Result<Work, Halt> {
        metrics::counter!("runledger_model_failures_total").increment(1);
        let failed = FailedAttempt {
            model: name.to_owned(),
            reason: failure.reason,
            provider_status: failure.status,
            message: failure.message.clone(),
            is_left: false,
        };
        let (retry, ending) = match failure.remedy {
            Remedy::Retry | Remedy::Fallback => {
                let retry = Retry {
                    same_model: failure.remedy == Remedy::Retry,
                    retry_after: failure.retry_after,
                    jitter: jitter(),
                };
                (retry_in(&self.spec, &self.state, &failed, &retry, &self.clock()), None)
            }
            Remedy::Final => (None, None),
            Remedy::ContextOverflow => {
                let details = json!({"model": name, "status": failure.status});
                let message = format!("the conversation is too long: {}", failure.message);
                (None, Some(Ending::failed("context_overflow", message, details)))
            }
        };
        let started = self.state.open.as_ref().map_or(self.state.last_seq, |open| open.started);
        let aborted = self.draft(Body::TurnAborted {
            reason: failure.reason,
            provider_status: failure.status,
            message: Some(failure.message),
            discard_from_seq: started,
            last_item,
            retry_in: retry.map(|wait| wait.as_secs_f64()),
            elapsed_time: Some(elapsed),
            usage: failure.usage,
        });
        self.advance(vec![aborted], ending, false).await
    }
}

fn bytes(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

fn unknown_model(name: &str) -> Failure {
    Failure {
        reason: AbortReason::ProviderError,
        remedy: Remedy::Fallback,
        status: Some(404),
        message: format!("`{name}` is not among the configured models"),
        retry_after: None::<Duration>,
        usage: None,
        has_begun: false,
    }
}
