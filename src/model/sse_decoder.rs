//! Reads server-sent events out of bytes, however they are cut. Pure, and bounded.
//!
//! The rules are those of the HTML standard (section 9.2.6), with one liberty: an event at the end
//! of the body counts although its empty line is missing.

use std::mem;

/// The largest event that is taken, bytes with its line ends: a provider's largest chunk is some
/// kilobytes, a whole answer in one event some hundred.
pub const EVENT_BYTES_MAX: usize = 1024 * 1024;

/// An event with data. Comments, and events without data, are none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SseEvent {
    /// `event:`, where the server gave one.
    pub name: Option<String>,
    /// `id:`, where the server gave one with this event.
    pub id: Option<String>,
    /// `data:`, lines joined by `\n`.
    pub data: String,
}

/// An event was larger than [`EVENT_BYTES_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event of the stream is larger than {EVENT_BYTES_MAX} bytes")]
pub struct TooLarge;

/// The state between two reads.
#[derive(Clone, Debug, Default)]
pub struct SseDecoder {
    line: Vec<u8>,
    event: SseEvent,
    has_data: bool,
    /// Bytes of the event so far.
    size: usize,
    /// The last byte was CR: a LF after it is the same line end.
    was_cr: bool,
    has_begun: bool,
}

impl SseDecoder {
    /// Takes bytes in; gives the events that they complete.
    ///
    /// # Errors
    /// [`TooLarge`]; what came before the event that is too large is lost with it.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<SseEvent>, TooLarge> {
        let mut events = Vec::new();
        let mut rest = bytes;
        while let Some(first) = rest.first() {
            if mem::take(&mut self.was_cr) && *first == b'\n' {
                rest = &rest[1..];
                continue;
            }
            let end = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
            let taken = end.unwrap_or(rest.len());
            self.line.extend_from_slice(&rest[..taken]);
            self.size += taken + 1;
            if self.size > EVENT_BYTES_MAX {
                return Err(TooLarge);
            }
            let Some(end) = end else { break };
            self.was_cr = rest[end] == b'\r';
            rest = &rest[end + 1..];
            events.extend(self.end_line());
        }
        Ok(events)
    }

    /// The body has ended: what is left counts, if it has data.
    pub fn finish(mut self) -> Option<SseEvent> {
        if !self.line.is_empty() {
            self.end_line();
        }
        self.dispatch()
    }

    fn end_line(&mut self) -> Option<SseEvent> {
        let bytes = mem::take(&mut self.line);
        let line = String::from_utf8_lossy(&bytes);
        let line = if self.has_begun { &line } else { line.trim_start_matches('\u{feff}') };
        self.has_begun = true;
        if line.is_empty() {
            return self.dispatch();
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => {
                if mem::replace(&mut self.has_data, true) {
                    self.event.data.push('\n');
                }
                self.event.data.push_str(value);
            }
            "event" => self.event.name = Some(value.to_owned()),
            "id" => self.event.id = Some(value.to_owned()),
            // A comment, `retry`, or a field that nobody knows.
            _ => {}
        }
        None
    }

    fn dispatch(&mut self) -> Option<SseEvent> {
        self.size = 0;
        let event = mem::take(&mut self.event);
        mem::take(&mut self.has_data).then_some(event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything that real servers do at once: a BOM, all three line ends, comments, no blank
    /// after the colon, several data lines, characters of several bytes, no empty line at the end.
    const STREAM: &str = "\u{feff}: hello\n\ndata: {\"a\":\"é👩‍👩‍👧\"}\n\nevent: x\r\nid: 7\r\n\
        data:one\r\ndata: two\r\n\r\nretry: 5\n\n:\n\rdata\r\rdata: [DONE]";

    fn read(pieces: &[&[u8]]) -> Vec<SseEvent> {
        let mut decoder = SseDecoder::default();
        let mut events = Vec::new();
        for piece in pieces {
            events.extend(decoder.push(piece).expect("nothing is too large"));
        }
        events.extend(decoder.finish());
        events
    }

    fn data(text: &str) -> SseEvent {
        SseEvent { data: text.to_owned(), ..SseEvent::default() }
    }

    #[test]
    fn the_same_events_come_out_of_every_split() {
        let bytes = STREAM.as_bytes();
        let whole = read(&[bytes]);
        let named = SseEvent {
            name: Some("x".to_owned()),
            id: Some("7".to_owned()),
            data: "one\ntwo".to_owned(),
        };
        assert_eq!(whole, [data("{\"a\":\"é👩‍👩‍👧\"}"), named, data(""), data("[DONE]")]);
        for first in 0..=bytes.len() {
            for second in first..=bytes.len() {
                let pieces = [&bytes[..first], &bytes[first..second], &bytes[second..]];
                assert_eq!(read(&pieces), whole, "cut at {first} and {second}");
            }
        }
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(read(&single), whole);
    }

    #[test]
    fn bytes_that_are_no_text_become_replacement_characters() {
        assert_eq!(read(&[b"data: a\xff\xfeb\n\n"]), [data("a\u{fffd}\u{fffd}b")]);
    }

    #[test]
    fn an_event_without_end_is_refused_and_costs_no_more_than_its_bound() {
        let mut decoder = SseDecoder::default();
        let piece = [b'x'; 64 * 1024];
        let taken = (0..100).take_while(|_| decoder.push(&piece).is_ok()).count();
        assert_eq!(taken, EVENT_BYTES_MAX / piece.len() - 1);
        assert!(decoder.line.len() <= EVENT_BYTES_MAX + piece.len());
        let mut lines = SseDecoder::default();
        let many = "data: x\n".repeat(EVENT_BYTES_MAX);
        assert_eq!(lines.push(many.as_bytes()), Err(TooLarge), "many lines are bounded as one is");
    }
}
