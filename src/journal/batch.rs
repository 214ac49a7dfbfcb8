//! Pure: merges waiting text, numbers events, and gives them their stored form.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::sync::Arc;

use serde_json::Value;

use crate::run::{Body, Draft, Event, Seq};
use crate::store::StoredEvent;

/// The largest text of one event, bytes. Longer text is split before it is numbered.
pub(super) const TEXT_BYTES_MAX: usize = 64 * 1024;

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
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Draft> + '_ {
        self.texts.drain(..).map(|text| Draft {
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
    }
}

/// Numbers drafts from behind `head` and gives them their stored form.
pub(super) fn number(
    head: Seq,
    at: &str,
    drafts: impl IntoIterator<Item = Draft>,
) -> (Vec<StoredEvent>, Vec<Event>) {
    let mut seq = head;
    drafts
        .into_iter()
        .map(|draft| {
            seq = seq.next();
            let data = format!(r#"{{"seq":{seq},"at":"{at}",{}"#, draft.to_text());
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
