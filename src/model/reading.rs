//! A stream's bytes become a reply: framing, JSON, and the dialect's assembly. Pure.

use serde_json::Value;

use super::sse_decoder::SseDecoder;
use super::{Delta, Failure, Reply, failure};
use crate::run::event::{AbortReason, Usage};

/// How much of something that is no JSON a failure repeats, characters.
const BROKEN_CHARS: usize = 200;

/// Puts a reply together from the events of a dialect. Pure.
pub(super) trait Assemble {
    /// Takes one event in (or a whole answer that was not streamed); `name` is its `event:` line.
    ///
    /// # Errors
    /// An error that the event reports, or that the reply is too large. Once the message is whole
    /// nothing is an error any more.
    fn take(&mut self, name: Option<&str>, data: &Value) -> Result<Vec<Delta>, Failure>;

    /// Whether the provider has said that the message is whole: what follows can't take it back.
    fn is_whole(&self) -> bool;

    /// Whether nothing that matters can follow, not even the usage.
    fn is_over(&self) -> bool;

    /// What the provider has said of the usage so far.
    fn usage(&self) -> Option<Usage>;

    /// The reply, where the provider ended it; else a cut.
    fn end(self, request_id: Option<String>) -> Result<Reply, Failure>;
}

/// A reply on its way, as far as its bytes have come.
#[derive(Debug)]
pub(super) struct Reading<A> {
    decoder: SseDecoder,
    pub(super) assembly: A,
    is_done: bool,
}

impl<A: Assemble> Reading<A> {
    pub(super) fn new(assembly: A) -> Reading<A> {
        Reading { decoder: SseDecoder::default(), assembly, is_done: false }
    }

    /// Whether nothing that matters can follow: `[DONE]`, or the dialect's own end.
    pub(super) fn is_over(&self) -> bool {
        self.is_done || self.assembly.is_over()
    }

    /// Takes bytes in. What they say is put behind `deltas`, also where they end in a failure.
    /// True where data was among them: comments are none.
    pub(super) fn push(&mut self, bytes: &[u8], deltas: &mut Vec<Delta>) -> Result<bool, Failure> {
        let events = self
            .decoder
            .push(bytes)
            .map_err(|error| failure::transport(AbortReason::ProviderError, error.to_string()))?;
        let has_data = !events.is_empty();
        for event in events {
            self.take(event.name.as_deref(), &event.data, deltas)?;
        }
        Ok(has_data)
    }

    /// The body has ended: what is left counts as an event.
    pub(super) fn finish(&mut self, deltas: &mut Vec<Delta>) -> Result<(), Failure> {
        match std::mem::take(&mut self.decoder).finish() {
            Some(event) => self.take(event.name.as_deref(), &event.data, deltas),
            None => Ok(()),
        }
    }

    /// Takes a whole answer in, one that was not streamed.
    pub(super) fn whole(&mut self, body: &[u8], deltas: &mut Vec<Delta>) -> Result<(), Failure> {
        let answer: Value = serde_json::from_slice(body).map_err(|_broken| {
            let words = format!("the answer is no JSON: {}", failure::words_of(body));
            failure::transport(AbortReason::ProviderError, words)
        })?;
        deltas.extend(self.assembly.take(None, &answer)?);
        Ok(())
    }

    /// What came of it, where reading ended so.
    pub(super) fn conclude(
        self,
        read: Result<(), Failure>,
        request_id: Option<String>,
    ) -> Result<Reply, Failure> {
        let ended = match read {
            // What follows the end of the message can't take it back.
            Err(failure) if !self.assembly.is_whole() => {
                let usage = failure.usage.clone().or_else(|| self.assembly.usage());
                Err(Failure { usage, ..failure })
            }
            Ok(()) | Err(_) => self.assembly.end(request_id),
        };
        ended.map_err(|failure| Failure { has_begun: true, ..failure })
    }

    fn take(
        &mut self,
        name: Option<&str>,
        data: &str,
        deltas: &mut Vec<Delta>,
    ) -> Result<(), Failure> {
        if self.is_over() {
            return Ok(());
        }
        if data.trim() == "[DONE]" {
            self.is_done = true;
            return Ok(());
        }
        let chunk: Value = serde_json::from_str(data).map_err(|_broken| {
            let head: String = data.chars().take(BROKEN_CHARS).collect();
            let words = format!("the stream holds something that is no JSON: {head}");
            failure::transport(AbortReason::ProviderError, words)
        })?;
        deltas.extend(self.assembly.take(name, &chunk)?);
        Ok(())
    }
}

/// An error field that says something: servers also send `null`.
pub(super) fn is_said(error: &Value) -> bool {
    !error.is_null() && *error != Value::Bool(false)
}

/// The longest id, model's name or reason that is kept, characters: the log repeats them.
const NAME_CHARS_MAX: usize = 256;

/// An id, a model's name or a reason: a [`text`] of bounded length.
pub(super) fn name(value: Option<&Value>) -> Option<String> {
    let name = text(value)?;
    Some(match name.char_indices().nth(NAME_CHARS_MAX) {
        Some((end, _)) => name[..end].to_owned(),
        None => name,
    })
}

/// A non-empty text; a number where a text was expected.
pub(super) fn text(value: Option<&Value>) -> Option<String> {
    match value? {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}
