//! A change to a run that is under way, as a request says it: limits raised, labels replaced.

use serde_json::{Map, Value};

use super::check;
use super::form::{CHANGE, LIMITS};
use super::read::Reader;
use super::{Config, Violation};
use crate::run::raise::Raise;

/// What a request changes.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Limits to raise.
    pub limits: Raise,
    /// The labels, whole, where they are replaced.
    pub metadata: Option<Map<String, Value>>,
}

impl Change {
    /// Parses and checks a request's body. Whether it raises the limits of a run is another question.
    ///
    /// # Errors
    /// Everything that is wrong with it, at least one violation.
    pub fn parse(body: &Value) -> Result<Change, Vec<Violation>> {
        let mut reader = Reader::new(body);
        let fields = reader.fields(body, "", &CHANGE).unwrap_or_default();
        let limits = match fields.get("config") {
            None => Some(Raise::default()),
            Some(config) => reader.record::<Raise>(config, "/config", &LIMITS),
        };
        let metadata = match fields.get("metadata") {
            None => Some(None),
            Some(labels) => {
                reader.typed::<Map<String, Value>>("", &CHANGE, "metadata", labels).map(Some)
            }
        };
        let mut found = reader.into_found();
        if let Some(limits) = &limits {
            check::limits(&bounded(limits), &mut found);
        }
        if let Some(Some(labels)) = &metadata {
            check::metadata(labels, "/metadata", &mut found);
        }
        match (limits, metadata) {
            (Some(limits), Some(metadata)) if found.is_empty() => {
                if limits.is_none() && metadata.is_none() {
                    let detail = "needs `config` with a limit to raise, or `metadata`";
                    return Err(vec![check::wrong("", detail)]);
                }
                Ok(Change { limits, metadata })
            }
            _ => Err(found),
        }
    }

    /// Labels that stand by themselves, checked as those of a run are.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub fn labels(labels: &Value, pointer: &str) -> Result<Map<String, Value>, Vec<Violation>> {
        let mut reader = Reader::at(pointer, labels);
        let read = reader.typed::<Map<String, Value>>("", &CHANGE, "metadata", labels);
        let mut found = reader.into_found();
        if let Some(labels) = &read {
            check::metadata(labels, pointer, &mut found);
        }
        match read {
            Some(labels) if found.is_empty() => Ok(labels),
            Some(_) | None => Err(found),
        }
    }
}

/// A config with these limits, within bounds where they say nothing.
fn bounded(limits: &Raise) -> Config {
    let Raise {
        max_turns,
        max_time,
        timeout_per_turn,
        max_total_tokens,
        max_cost_usd,
        max_tool_calls,
    } = *limits;
    let config = Config::default();
    Config {
        max_turns: max_turns.unwrap_or(config.max_turns),
        max_time: max_time.unwrap_or(config.max_time),
        timeout_per_turn: timeout_per_turn.unwrap_or(config.timeout_per_turn),
        max_total_tokens,
        max_cost_usd,
        max_tool_calls,
        ..config
    }
}
