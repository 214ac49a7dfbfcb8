//! Limits that are raised while a run is under way, and what holds then.
//!
//! A limit only goes up: the highest that was said holds. So it doesn't matter in which order two
//! changes are read, and none that comes late ends a run which another has given more room.

use serde::{Deserialize, Serialize};

use super::spec::Config;

/// New limits. What is none stays as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the names are those of the spec's config")]
pub struct Raise {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_turns: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_time: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_per_turn: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_total_tokens: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_cost_usd: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tool_calls: Option<u32>,
}

/// The limits that hold for a run. None: there is no such limit.
#[derive(Clone, Copy, Debug, PartialEq)]
#[expect(missing_docs, reason = "the names are those of the spec's config")]
pub struct Limits {
    pub max_turns: u32,
    pub max_time: f64,
    pub timeout_per_turn: f64,
    pub max_total_tokens: Option<u64>,
    pub max_cost_usd: Option<f64>,
    pub max_tool_calls: Option<u32>,
}

fn highest<T: PartialOrd>(one: T, other: Option<T>) -> T {
    match other {
        Some(other) if other > one => other,
        Some(_) | None => one,
    }
}

impl Raise {
    /// Takes another change in.
    pub(super) fn add(&mut self, more: &Raise) {
        let Raise {
            max_turns,
            max_time,
            timeout_per_turn,
            max_total_tokens,
            max_cost_usd,
            max_tool_calls,
        } = self;
        *max_turns = highest(*max_turns, Some(more.max_turns));
        *max_time = highest(*max_time, Some(more.max_time));
        *timeout_per_turn = highest(*timeout_per_turn, Some(more.timeout_per_turn));
        *max_total_tokens = highest(*max_total_tokens, Some(more.max_total_tokens));
        *max_cost_usd = highest(*max_cost_usd, Some(more.max_cost_usd));
        *max_tool_calls = highest(*max_tool_calls, Some(more.max_tool_calls));
    }

    /// Whether it changes nothing.
    pub fn is_none(&self) -> bool {
        *self == Raise::default()
    }

    /// The limits of this config, as raised.
    pub(super) fn over(&self, config: &Config) -> Limits {
        let optional = config.max_total_tokens.map(|most| highest(most, self.max_total_tokens));
        Limits {
            max_turns: highest(config.max_turns, self.max_turns),
            max_time: highest(config.max_time, self.max_time),
            timeout_per_turn: highest(config.timeout_per_turn, self.timeout_per_turn),
            max_total_tokens: optional,
            max_cost_usd: config.max_cost_usd.map(|most| highest(most, self.max_cost_usd)),
            max_tool_calls: config.max_tool_calls.map(|most| highest(most, self.max_tool_calls)),
        }
    }

    /// What of it is no raise of these limits: the field, and what is wrong with it.
    pub fn refusals(&self, now: &Limits) -> Vec<(&'static str, String)> {
        fn lowers<T: PartialOrd + std::fmt::Display>(
            name: &'static str,
            now: Option<T>,
            asked: Option<T>,
        ) -> Option<(&'static str, String)> {
            match (now, asked) {
                (_, None) => None,
                (Some(now), Some(asked)) if asked >= now => None,
                (Some(now), Some(asked)) => {
                    let detail = format!("can only be raised: it is {now}, got {asked}");
                    Some((name, detail))
                }
                (None, Some(_)) => {
                    let detail = "can only be raised, and this run has no such limit";
                    Some((name, detail.to_owned()))
                }
            }
        }
        let found = [
            lowers("max_turns", Some(now.max_turns), self.max_turns),
            lowers("max_time", Some(now.max_time), self.max_time),
            lowers("timeout_per_turn", Some(now.timeout_per_turn), self.timeout_per_turn),
            lowers("max_total_tokens", now.max_total_tokens, self.max_total_tokens),
            lowers("max_cost_usd", now.max_cost_usd, self.max_cost_usd),
            lowers("max_tool_calls", now.max_tool_calls, self.max_tool_calls),
        ];
        found.into_iter().flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_that_was_said_holds_in_whichever_order() {
        let config = Config { max_total_tokens: Some(100), ..Config::default() };
        let raises = [
            Raise { max_turns: Some(20), max_total_tokens: Some(300), ..Raise::default() },
            Raise { max_turns: Some(15), max_time: Some(900.0), ..Raise::default() },
            Raise { max_turns: Some(1), max_tool_calls: Some(3), ..Raise::default() },
        ];
        let expected = Limits {
            max_turns: 20,
            max_time: 900.0,
            timeout_per_turn: 60.0,
            max_total_tokens: Some(300),
            max_cost_usd: None,
            max_tool_calls: None,
        };
        for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
            let mut raised = Raise::default();
            order.iter().for_each(|place| raised.add(&raises[*place]));
            assert_eq!(raised.over(&config), expected);
        }
    }

    #[test]
    fn what_is_no_raise_is_told_field_by_field() {
        let config = Config { max_total_tokens: Some(100), ..Config::default() };
        let now = Raise::default().over(&config);
        let same = Raise { max_turns: Some(10), max_total_tokens: Some(100), ..Raise::default() };
        assert_eq!(same.refusals(&now), []);
        let wrong = Raise {
            max_turns: Some(9),
            max_total_tokens: Some(99),
            max_cost_usd: Some(1.0),
            max_time: Some(301.0),
            ..Raise::default()
        };
        let fields: Vec<&str> = wrong.refusals(&now).iter().map(|(field, _)| *field).collect();
        assert_eq!(fields, ["max_turns", "max_total_tokens", "max_cost_usd"]);
    }
}
