//! Pure: merges waiting text, numbers events, and gives them their stored form.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::sync::Arc;

use serde_json::Value;

use crate::run::{Body, Draft, Event, Seq};
use crate::store::StoredEvent;

/// The largest text of one event, bytes. Longer text is split before it is numbered.
pub(super) const TEXT_BYTES_MAX: usize = 64 * 1024;

/// How many events one statement inserts: more would let the first of them wait for the last.
const EVENTS_MAX: usize = 1000;

/// How many bytes of events one statement inserts, for the same reason.
const BYTES_MAX: usize = 1024 * 1024;

/// The most that `seq` and `at` add to a draft's own text, bytes.
const HEAD_BYTES: usize = 72;

/// The most that an event of a stretch of text has beside its content, bytes.
const TEXT_HEAD_BYTES: usize = HEAD_BYTES + 128;

/// How much of a statement something takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) events: usize,
    pub(super) bytes: usize,
}

impl Size {
    /// Both together, where one statement takes both.
    pub(super) fn with(self, more: Size) -> Option<Size> {
        let both = Size { events: self.events + more.events, bytes: self.bytes + more.bytes };
        (both.events <= EVENTS_MAX && both.bytes <= BYTES_MAX).then_some(both)
    }
}

impl std::ops::AddAssign for Size {
    fn add_assign(&mut self, more: Size) {
        self.events += more.events;
        self.bytes += more.bytes;
    }
}

/// A draft and its stored text, but for its place and time.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Written {
    pub(super) draft: Draft,
    text: String,
}

impl Written {
    pub(super) fn new(draft: Draft) -> Written {
        Written { text: draft.to_text(), draft }
    }

    pub(super) fn size(&self) -> Size {
        Size { events: 1, bytes: HEAD_BYTES + self.text.len() }
    }
}

/// Answer text or visible reasoning on its way to the log.
#[derive(Clone, Debug, PartialEq)]
pub struct Text {
    /// The turn that speaks.
    pub turn: u32,
    /// The attempt that speaks.
    pub attempt: u32,
    /// The output item that it belongs to.
    pub item: u32,
    /// Whether it is reasoning.
    pub is_reasoning: bool,
    /// The text; only reasoning with opaque data may be empty.
    pub content: String,
    /// What the provider wants back with this stretch of reasoning; it ends the stretch.
    pub provider_metadata: Option<Value>,
}

/// What of one run waits for the next commit, in order.
#[derive(Clone, Debug, Default)]
pub(super) struct Waiting {
    pub(super) texts: Vec<Text>,
}

impl Waiting {
    /// Takes more text in: joined to the last where it is of the same item and attempt and fits.
    pub(super) fn push(&mut self, text: Text) {
        match self.texts.last_mut() {
            Some(last)
                if (last.turn, last.attempt, last.item) == (text.turn, text.attempt, text.item)
                    && last.provider_metadata.is_none()
                    && last.content.len() + text.content.len() <= TEXT_BYTES_MAX =>
            {
                last.content.push_str(&text.content);
                last.provider_metadata = text.provider_metadata;
            }
            Some(_) | None => self.split(text),
        }
    }

    fn split(&mut self, mut text: Text) {
        while text.content.len() > TEXT_BYTES_MAX {
            let at = text.content.floor_char_boundary(TEXT_BYTES_MAX);
            let rest = text.content.split_off(at);
            let head = std::mem::replace(&mut text.content, rest);
            self.texts.push(Text { content: head, provider_metadata: None, ..text });
        }
        self.texts.push(text);
    }

    /// Hands out the waiting text as drafts.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Written> + '_ {
        self.texts.drain(..).map(|text| {
            Written::new(Draft {
                turn: text.turn,
                attempt: text.attempt,
                body: if text.is_reasoning {
                    Body::Reasoning {
                        item: text.item,
                        content: text.content,
                        provider_metadata: text.provider_metadata,
                    }
                } else {
                    Body::Text { item: text.item, content: text.content }
                },
            })
        })
    }

    /// How much it will take, never less than it does.
    pub(super) fn size(&self) -> Size {
        let metadata = |text: &Text| {
            text.provider_metadata.as_ref().map_or(0, |metadata| metadata.to_string().len())
        };
        Size {
            events: self.texts.len(),
            bytes: self
                .texts
                .iter()
                .map(|text| TEXT_HEAD_BYTES + json_bytes(&text.content) + metadata(text))
                .sum(),
        }
    }
}

/// How many bytes a text takes within a JSON string.
fn json_bytes(text: &str) -> usize {
    text.bytes()
        .map(|byte| match byte {
            b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 2,
            0..0x20 => 6,
            0x20.. => 1,
        })
        .sum()
}

/// Numbers drafts from behind `head` and gives them their stored form.
pub(super) fn number(
    head: Seq,
    at: &str,
    drafts: impl IntoIterator<Item = Written>,
) -> (Vec<StoredEvent>, Vec<Event>) {
    let mut seq = head;
    drafts
        .into_iter()
        .map(|Written { draft, text }| {
            seq = seq.next();
            let data = format!(r#"{{"seq":{seq},"at":"{at}",{text}"#);
            let stored = StoredEvent { seq, kind: draft.body.kind(), data: Arc::from(data) };
            let Draft { turn, attempt, body } = draft;
            (stored, Event { seq, at: at.to_owned(), turn, attempt, body })
        })
        .unzip()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(item: u32, content: &str) -> Text {
        Text {
            turn: 1,
            attempt: 1,
            item,
            is_reasoning: false,
            content: content.to_owned(),
            provider_metadata: None,
        }
    }

    #[test]
    fn text_is_merged_within_an_item_and_never_across() {
        let mut waiting = Waiting::default();
        for (item, content) in [(1, "a"), (1, "b"), (2, "c"), (2, "d"), (1, "e")] {
            waiting.push(text(item, content));
        }
        assert_eq!(waiting.texts, [text(1, "ab"), text(2, "cd"), text(1, "e")]);
    }

    #[test]
    fn long_text_is_split_between_characters() {
        let mut waiting = Waiting::default();
        let long = "ß".repeat(TEXT_BYTES_MAX);
        waiting.push(text(1, "x"));
        waiting.push(text(1, &long));
        assert!(waiting.texts.iter().all(|text| text.content.len() <= TEXT_BYTES_MAX));
        let joined: String = waiting.texts.iter().map(|text| text.content.as_str()).collect();
        assert_eq!(joined, format!("x{long}"));
    }

    #[test]
    fn the_size_that_is_told_is_never_less_than_the_size_that_is_stored() {
        let every_byte: String = (0..=0x7f_u8).map(char::from).collect();
        for content in ["", "plain", "ß€😀", &every_byte, &"\u{1}\"".repeat(1000)] {
            let mut waiting = Waiting::default();
            waiting.push(Text {
                turn: u32::MAX,
                attempt: u32::MAX,
                item: u32::MAX,
                is_reasoning: true,
                content: content.to_owned(),
                provider_metadata: Some(serde_json::json!({"opaque": "\0"})),
            });
            let told = waiting.size();
            let (stored, _) = number(Seq(100_000), "2026-11-22T10:00:00.123Z", waiting.drain());
            let bytes: usize = stored.iter().map(|event| event.data.len()).sum();
            assert_eq!(told.events, stored.len());
            assert!((bytes..bytes + 128).contains(&told.bytes), "{} for {bytes}", told.bytes);
        }
    }

    #[test]
    fn the_stored_form_has_its_fields_in_the_promised_order() {
        let mut waiting = Waiting::default();
        waiting.push(text(1, "Hi \"you\"\0"));
        let (stored, events) = number(Seq(6), "2026-11-22T10:00:00.123Z", waiting.drain());
        assert_eq!(
            &*stored[0].data,
            r#"{"seq":7,"at":"2026-11-22T10:00:00.123Z","type":"text","turn":1,"attempt":1,"item":1,"content":"Hi \"you\"\u0000"}"#
        );
        let parsed: Event = serde_json::from_str(&stored[0].data).expect("it is an event");
        assert_eq!(parsed, events[0]);
    }
}
