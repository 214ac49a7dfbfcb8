//! Puts a reply together from the events of a Messages stream, as real servers send them. Pure.

use serde_json::{Map, Value, json};

use crate::model::reading::{Assemble, is_said, name, text};
use crate::model::{Delta, Failure, ProposedCall, REPLY_BYTES_MAX, Reply, failure};
use crate::run::event::{AbortReason, FinishReason, Usage};

/// The most blocks of one reply that are kept; a run takes fewer calls, and text is not kept here.
const BLOCKS_MAX: usize = 1024;

/// A reply, so far.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    provider: String,
    /// Blocks by the index that the server gave them; they may overlap.
    blocks: Vec<(u64, Block)>,
    /// What the stretch of reasoning that is open was signed with.
    signature: Option<String>,
    stop_reason: Option<String>,
    /// `message_stop` has come.
    is_stopped: bool,
    finish: Option<FinishReason>,
    counts: Counts,
    model: String,
    message_id: Option<String>,
    size: usize,
}

/// What is kept of a block.
#[derive(Debug)]
enum Block {
    /// Text or thinking: told as it comes.
    Told,
    Call(Building),
    /// Of a kind that is not known here.
    Unknown,
}

/// A call, so far.
#[derive(Debug, Default)]
struct Building {
    id: Option<String>,
    name: String,
    /// `input` of the block's start: the whole where no piece follows.
    input: Option<Value>,
    pieces: String,
    fields: Map<String, Value>,
}

/// Figures as the server says them: `input` without what the cache read or wrote.
#[derive(Debug, Default, PartialEq)]
struct Counts {
    input: Option<u64>,
    cache_read: Option<u64>,
    cache_write: Option<u64>,
    output: Option<u64>,
}

impl Assemble for Assembly {
    /// A known reason and `message_stop`.
    fn is_whole(&self) -> bool {
        self.finish.is_some()
    }

    fn is_over(&self) -> bool {
        self.is_stopped
    }

    fn take(&mut self, event: Option<&str>, data: &Value) -> Result<Vec<Delta>, Failure> {
        let mut deltas = Vec::new();
        if self.is_stopped {
            return Ok(deltas);
        }
        let kind = data.get("type").and_then(Value::as_str).or(event).unwrap_or_default();
        if let Some(error) = data.get("error").filter(|error| is_said(error)) {
            return Err(failure::in_stream(error));
        }
        if kind == "error" || event == Some("error") {
            return Err(failure::in_stream(data));
        }
        let index = data.get("index").and_then(Value::as_u64).unwrap_or_default();
        match kind {
            "message_start" => self.take_head(data.get("message").unwrap_or(&Value::Null)),
            "content_block_start" => {
                let block = data.get("content_block").unwrap_or(&Value::Null);
                self.begin(index, block, &mut deltas);
            }
            "content_block_delta" => {
                let delta = data.get("delta").unwrap_or(&Value::Null);
                self.take_delta(index, delta, &mut deltas);
            }
            "content_block_stop" => self.end_reasoning(&mut deltas),
            "message_delta" => {
                self.take_stop_reason(data.get("delta").unwrap_or(&Value::Null));
                self.take_usage(data);
            }
            "message_stop" => self.stop(&mut deltas)?,
            // A whole answer.
            "message" => {
                self.take_head(data);
                let blocks = data.get("content").and_then(Value::as_array);
                for (block, index) in blocks.into_iter().flatten().zip(0..) {
                    self.begin(index, block, &mut deltas);
                    self.end_reasoning(&mut deltas);
                }
                self.take_stop_reason(data);
                self.stop(&mut deltas)?;
            }
            // `ping`, and what nobody knows yet.
            _ => {}
        }
        if self.size > REPLY_BYTES_MAX || self.blocks.len() > BLOCKS_MAX {
            return Err(failure::too_large());
        }
        Ok(deltas)
    }

    fn usage(&self) -> Option<Usage> {
        (self.counts != Counts::default()).then(|| self.counts.usage())
    }

    fn end(self, request_id: Option<String>) -> Result<Reply, Failure> {
        let usage = self.usage();
        let Some(finish_reason) = self.finish else {
            let words = "the stream ended before the provider had ended the message";
            return Err(Failure { usage, ..failure::transport(AbortReason::Cut, words) });
        };
        let calls = self.blocks.into_iter().filter_map(|(_, block)| match block {
            Block::Call(call) => Some(call.proposed(&self.provider)),
            Block::Told | Block::Unknown => None,
        });
        let may_run = finish_reason == FinishReason::ToolCalls;
        Ok(Reply {
            finish_reason,
            finish_reason_raw: self.stop_reason.unwrap_or_default(),
            calls: if may_run { calls.collect() } else { Vec::new() },
            usage: usage.unwrap_or_default(),
            model: self.model,
            provider_request_id: request_id.or(self.message_id),
        })
    }
}

impl Assembly {
    pub(super) fn new(provider: &str) -> Assembly {
        Assembly { provider: provider.to_owned(), ..Assembly::default() }
    }

    fn take_head(&mut self, message: &Value) {
        if self.model.is_empty() {
            self.model = name(message.get("model")).unwrap_or_default();
        }
        self.message_id = self.message_id.take().or_else(|| name(message.get("id")));
        self.take_usage(message);
    }

    /// The first reason counts.
    fn take_stop_reason(&mut self, holder: &Value) {
        self.stop_reason = self.stop_reason.take().or_else(|| name(holder.get("stop_reason")));
    }

    /// A block begins, with as much of its content as stands in its start.
    fn begin(&mut self, index: u64, block: &Value, deltas: &mut Vec<Delta>) {
        let kind = block.get("type").and_then(Value::as_str).unwrap_or_default();
        let kept = match kind {
            "text" | "thinking" => Block::Told,
            "redacted_thinking" => {
                self.end_reasoning(deltas);
                if let Some(data) = text(block.get("data")) {
                    self.size += data.len();
                    deltas.push(self.opaque(json!({ "redacted_thinking": data })));
                }
                Block::Told
            }
            "tool_use" => {
                self.end_reasoning(deltas);
                let call = Building::begun(block);
                self.size += call.size();
                Block::Call(call)
            }
            _ => Block::Unknown,
        };
        let is_told = kind == "text" || kind == "thinking";
        self.blocks.push((index, kept));
        if is_told {
            self.take_delta(index, block, deltas);
        }
    }

    /// A piece of a block. What it is stands in its fields; a piece of a block that never began
    /// counts all the same.
    fn take_delta(&mut self, index: u64, delta: &Value, deltas: &mut Vec<Delta>) {
        let place = self.blocks.iter().rposition(|(known, _)| *known == index);
        if let Some(place) = place {
            match &mut self.blocks[place].1 {
                Block::Unknown => return,
                Block::Told => {}
                Block::Call(call) => {
                    if let Some(piece) = delta.get("partial_json").and_then(Value::as_str) {
                        self.size += piece.len();
                        call.pieces.push_str(piece);
                    }
                    return;
                }
            }
        }
        if let Some(thought) = text(delta.get("thinking")) {
            self.size += thought.len();
            deltas.push(Delta::Reasoning { text: thought, provider_metadata: None });
        }
        if let Some(signature) = text(delta.get("signature")) {
            self.size += signature.len();
            self.signature = Some(signature);
        }
        if let Some(said) = text(delta.get("text")) {
            self.end_reasoning(deltas);
            self.size += said.len();
            deltas.push(Delta::Text(said));
        }
    }

    /// A stretch of reasoning ends, with what it was signed with.
    fn end_reasoning(&mut self, deltas: &mut Vec<Delta>) {
        if let Some(signature) = self.signature.take() {
            deltas.push(self.opaque(json!({ "signature": signature })));
        }
    }

    fn opaque(&self, fields: Value) -> Delta {
        let metadata = json!({"provider": self.provider, "fields": fields});
        Delta::Reasoning { text: String::new(), provider_metadata: Some(metadata) }
    }

    /// `message_stop`: blocks that are open end with it.
    fn stop(&mut self, deltas: &mut Vec<Delta>) -> Result<(), Failure> {
        self.is_stopped = true;
        self.end_reasoning(deltas);
        let Some(raw) = self.stop_reason.as_deref() else { return Ok(()) };
        if let Some(failure) = failure::of_finish_reason(raw) {
            return Err(failure);
        }
        let has_calls = self.blocks.iter().any(|(_, block)| matches!(block, Block::Call(_)));
        self.finish = Some(match raw {
            "end_turn" | "tool_use" | "stop_sequence" if has_calls => FinishReason::ToolCalls,
            "end_turn" | "tool_use" | "stop_sequence" => FinishReason::Stop,
            "max_tokens" => FinishReason::Length,
            "refusal" => FinishReason::ContentFilter,
            // `pause_turn` among them: it is of tools that the provider runs, and none is asked for.
            _ => FinishReason::Other,
        });
        Ok(())
    }

    /// The last figures that are known and not 0, each by itself: they are never added up.
    fn take_usage(&mut self, holder: &Value) {
        let Some(usage) = holder.get("usage") else { return };
        for (known, field) in [
            (&mut self.counts.input, "input_tokens"),
            (&mut self.counts.cache_read, "cache_read_input_tokens"),
            (&mut self.counts.cache_write, "cache_creation_input_tokens"),
            (&mut self.counts.output, "output_tokens"),
        ] {
            match usage.get(field).and_then(Value::as_u64) {
                Some(0) => *known = known.or(Some(0)),
                Some(tokens) => *known = Some(tokens),
                None => {}
            }
        }
    }
}

impl Counts {
    /// As the run says it: totals contain their parts.
    fn usage(&self) -> Usage {
        let cached = self.cache_read.unwrap_or_default();
        let written = self.cache_write.unwrap_or_default();
        let input = self.input.map(|input| input.saturating_add(cached).saturating_add(written));
        Usage {
            input_tokens: input,
            cached_input_tokens: self.cache_read,
            cache_write_input_tokens: self.cache_write,
            output_tokens: self.output,
            total_tokens: input.zip(self.output).map(|(a, b)| a.saturating_add(b)),
            ..Usage::default()
        }
    }
}

impl Building {
    fn begun(block: &Value) -> Building {
        let known = ["type", "id", "name", "input"];
        let fields = block.as_object().into_iter().flatten();
        let others = fields.filter(|(field, _)| !known.contains(&field.as_str()));
        Building {
            id: name(block.get("id")),
            name: text(block.get("name")).unwrap_or_default(),
            input: block.get("input").filter(|input| !input.is_null()).cloned(),
            pieces: String::new(),
            fields: others.map(|(field, value)| (field.clone(), value.clone())).collect(),
        }
    }

    fn size(&self) -> usize {
        let input = self.input.as_ref().map_or(0, |input| input.to_string().len());
        let fields = self.fields.iter().map(|(name, value)| name.len() + value.to_string().len());
        self.name.len() + input + fields.sum::<usize>()
    }

    fn proposed(self, provider: &str) -> ProposedCall {
        let has_fields = !self.fields.is_empty();
        let whole = || match self.input {
            Some(Value::String(text)) => text,
            Some(input) => input.to_string(),
            None => String::new(),
        };
        ProposedCall {
            provider_call_id: self.id,
            tool_name: self.name,
            arguments_raw: if self.pieces.is_empty() { whole() } else { self.pieces },
            provider_metadata: has_fields
                .then(|| json!({"provider": provider, "fields": self.fields})),
        }
    }
}

#[cfg(test)]
mod tests;
