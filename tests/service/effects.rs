//! Checks what became of tools in the world outside: how often each was called, by what key, and what
//! the log says of it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::client::of;
use crate::stub::{Call, Do};
use crate::tool_stub::{Called, ToolStub};

/// The calls of one tool, by the logical call that each is one try of: see [`call`].
pub struct Effects {
    by_place: BTreeMap<String, Vec<Called>>,
    /// How often each key came.
    by_key: BTreeMap<String, usize>,
}

/// A call of a tool that says of which run, turn and place it is, whatever ids it is given.
pub fn call(call: &Call, tool: &'static str, place: usize) -> Do {
    Do::Call(tool, json!({"of": format!("{}, turn {}, call {place}", call.input, call.turn)}))
}

impl Effects {
    pub fn of(tools: &ToolStub, path: &str) -> Effects {
        let (mut by_place, mut by_key) = (BTreeMap::<_, Vec<_>>::new(), BTreeMap::new());
        for called in tools.calls(path) {
            *by_key.entry(called.key.clone()).or_default() += 1;
            let place = called.body["arguments"]["of"].as_str().unwrap().to_owned();
            by_place.entry(place).or_default().push(called);
        }
        Effects { by_place, by_key }
    }

    /// Logical calls that came at all.
    pub fn len(&self) -> usize {
        self.by_place.len()
    }

    /// Logical calls that came more than once.
    pub fn repeated(&self) -> usize {
        self.by_place.values().filter(|calls| calls.len() > 1).count()
    }

    /// Logical calls that came with different keys, where a key is what this makes of a call.
    pub fn with_other_keys(&self, key: impl Fn(&Called) -> String) -> usize {
        let keys = |calls: &Vec<Called>| calls.iter().map(&key).collect::<BTreeSet<String>>().len();
        self.by_place.values().filter(|calls| keys(calls) > 1).count()
    }

    /// What a log says of the calls of this tool, whose effect is `once`, and the world does not
    /// know, or the other way round. Counts those that say `unknown`.
    pub fn lies(&self, log: &[Value], tool: &str, unknown: &mut usize) -> Vec<String> {
        let mut found = Vec::new();
        for call in of(log, "tool_call").into_iter().filter(|one| one["tool_name"] == tool) {
            let id = call["call_id"].as_str().unwrap();
            let same = |kind: &str| -> Vec<&Value> {
                of(log, kind).into_iter().filter(|one| one["call_id"] == id).collect()
            };
            let came = self.by_key.get(id).copied().unwrap_or(0);
            let results = same("tool_result");
            let outcome = results.first().map_or("", |one| one["outcome"].as_str().unwrap());
            *unknown += usize::from(outcome == "unknown");
            let is_true = match outcome {
                "ok" => came == 1,
                "unknown" => came <= 1 && results[0]["is_error"] == true,
                _other => false,
            };
            if !is_true || same("tool.started").len() != 1 {
                found.push(format!("call {id} came {came} times, and the log says `{outcome}`"));
            }
        }
        found
    }
}
