//! How we run a tool: check the arguments, call it, bound its answer.

mod builtin;
mod calculator;
pub mod guard;
pub mod http;
mod reply;
#[cfg(feature = "testing")]
pub mod stand_in;

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::time::{Instant, timeout_at};

use crate::run::event::{Effect, FailedTry, Outcome};
use crate::run::spec::ToolKind;
use crate::run::{CallId, Tool, catalog, limits, schema};

/// Room for the words that say how much of a result was cut off.
const CUT_NOTE_BYTES: usize = 100;

/// One try at a call of a tool: what it is told, and until when it may take.
#[derive(Clone, Debug)]
pub struct Invocation {
    /// The tool.
    pub tool: Tool,
    /// What it does to the world.
    pub effect: Effect,
    /// The run's name, as clients know it.
    pub run_id: String,
    /// The call, and its key: the same for each try.
    pub call_id: CallId,
    /// Arguments that have been checked.
    pub arguments: Value,
    /// The run's variables.
    pub variables: Map<String, Value>,
    /// The trace that the call belongs to, as the header of that name.
    pub traceparent: String,
    /// Which try this is, from 1.
    pub try_number: u32,
    /// When the tool's time is over, which all its tries share.
    pub until: Instant,
    /// A number in 0..1, for the wait before another try.
    pub jitter: f64,
}

/// What came of a try.
#[derive(Clone, Debug, PartialEq)]
pub enum Tried {
    /// The call has ended.
    Answered(Answer),
    /// It failed, and may be made again.
    Failed {
        /// How long to wait before.
        wait: Duration,
        /// How it failed, for the log.
        failed: FailedTry,
    },
}

/// How a tool call ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// What goes to the model: JSON, or a text.
    pub result: Value,
    /// Whether `result` says what went wrong.
    pub is_error: bool,
    /// How it ended, for the log.
    pub outcome: Outcome,
    /// The status, of tools over HTTP.
    pub http_status: Option<u16>,
    /// `Some(true)` where `result` had to be cut.
    pub truncated: Option<bool>,
    /// Variables that the tool sets.
    pub variables: Option<Map<String, Value>>,
}

impl Answer {
    fn ok(result: Value) -> Answer {
        Answer::whole(result, None)
    }

    /// A result of bounded size. `cut_from`: some of it was left away before; its whole size in
    /// bytes, 0 where that is not known.
    fn whole(result: Value, cut_from: Option<u64>) -> Answer {
        let text = match &result {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let is_cut = cut_from.is_some() || text.len() > limits::TOOL_RESULT_BYTES;
        let result = if is_cut { Value::String(cut(text, cut_from)) } else { result };
        Answer {
            result,
            is_error: false,
            outcome: Outcome::Ok,
            http_status: None,
            truncated: is_cut.then_some(true),
            variables: None,
        }
    }

    /// A failure, in words for the model.
    pub fn failed(words: String, outcome: Outcome) -> Answer {
        Answer {
            result: Value::String(words),
            is_error: true,
            outcome,
            http_status: None,
            truncated: None,
            variables: None,
        }
    }
}

/// The head of a text that is too long, and a note that says so.
fn cut(mut text: String, whole: Option<u64>) -> String {
    let whole = whole.unwrap_or(text.len() as u64);
    text.truncate(text.floor_char_boundary(limits::TOOL_RESULT_BYTES - CUT_NOTE_BYTES));
    let kept = text.len();
    let note = match whole {
        0 => format!("\n[cut here, after {kept} bytes; there is more]"),
        whole => format!("\n[cut here, after {kept} of {whole} bytes]"),
    };
    text.push_str(&note);
    text
}

/// The tools of this installation. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Toolbox {
    builtins: Arc<[catalog::Builtin]>,
    http: http::Caller,
    #[cfg(feature = "testing")]
    play: Option<Arc<dyn stand_in::Play>>,
}

impl Toolbox {
    /// The built-in tools, and what `http` may call.
    pub fn new(http: http::Caller) -> Toolbox {
        Toolbox {
            builtins: builtin::all().into(),
            http,
            #[cfg(feature = "testing")]
            play: None,
        }
    }

    /// The same, but whatever is elsewhere is played.
    #[cfg(feature = "testing")]
    #[must_use]
    pub fn played(self, play: Arc<dyn stand_in::Play>) -> Toolbox {
        Toolbox { play: Some(play), ..self }
    }

    /// What specs may name.
    pub fn builtins(&self) -> Vec<catalog::Builtin> {
        self.builtins.to_vec()
    }

    /// Checks arguments against the tool's schema.
    ///
    /// # Errors
    /// What does not fit and where, in words for the model.
    pub fn check(&self, tool: &Tool, arguments: &Value) -> Result<(), String> {
        self.schema(tool).map_or(Ok(()), |schema| schema::fits(schema, arguments))
    }

    /// Calls a tool once. Never longer than until its time is over.
    ///
    /// # Cancel safety
    /// Dropping it ends the call, and closes its connection. Whether a tool elsewhere had heard of
    /// it is then not known.
    pub async fn call(&self, call: &Invocation) -> Tried {
        let trying = async {
            match call.tool.kind {
                ToolKind::Builtin => {
                    let ended = builtin::call(&call.tool.name, &call.arguments).await;
                    let failed = |words| Answer::failed(words, Outcome::Error);
                    Tried::Answered(ended.map_or_else(failed, Answer::ok))
                }
                #[cfg(feature = "testing")]
                ToolKind::Http if self.play.is_some() => self.play(call).await,
                ToolKind::Http => self.http.call(call).await,
            }
        };
        timeout_at(call.until, trying).await.unwrap_or_else(|_elapsed| {
            let words = format!("the tool did not answer within {} s", call.tool.timeout);
            Tried::Answered(match (call.tool.kind, call.effect) {
                (ToolKind::Http, Effect::Once) => http::unknown(&words),
                (ToolKind::Http, Effect::Read | Effect::Idempotent) | (ToolKind::Builtin, _) => {
                    Answer::failed(words, Outcome::Timeout)
                }
            })
        })
    }

    fn schema<'a>(&'a self, tool: &'a Tool) -> Option<&'a Value> {
        match tool.kind {
            ToolKind::Http => tool.parameters.as_ref(),
            ToolKind::Builtin => self
                .builtins
                .iter()
                .find(|builtin| builtin.name == tool.name)
                .map(|builtin| &builtin.parameters),
        }
    }
}

#[cfg(test)]
impl Toolbox {
    /// The built-in tools, and HTTP to the public internet, which no test calls.
    pub(crate) fn for_tests() -> Toolbox {
        let caller = http::Caller::new(guard::Guard::default(), std::collections::BTreeMap::new());
        Toolbox::new(caller.expect("a client"))
    }
}

/// What an answer of a tool over HTTP means, read from a recording: for kept corpora and fuzzing.
/// `media_type` is lower case, without parameters.
pub fn replay(status: u16, media_type: &str, body: &[u8]) -> Answer {
    let media_type = media_type.to_owned();
    let head = reply::Head { status, media_type, encoding: None, length: None };
    let read = &body[..body.len().min(head.bytes_max())];
    let is_cut = read.len() < body.len();
    reply::answer(&head, &reply::Body { bytes: read.to_vec(), is_cut }, &[])
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn tool(name: &str) -> Tool {
        serde_json::from_value(json!({"type": "builtin", "name": name})).expect("a tool")
    }

    #[test]
    fn arguments_that_do_not_fit_are_named_with_their_place() {
        let tools = Toolbox::for_tests();
        let calculator = tool("calculator");
        assert_eq!(tools.check(&calculator, &json!({"expression": "1+1"})), Ok(()));
        let wrong = tools.check(&calculator, &json!({"expression": 3})).expect_err("a number");
        assert!(wrong.contains("/expression"), "{wrong}");
        let absent = tools.check(&calculator, &json!({})).expect_err("nothing");
        assert!(absent.contains("expression"), "{absent}");
        let more = tools.check(&calculator, &json!({"expression": "1", "x": 1}));
        assert!(more.expect_err("a surplus field").contains('x'));
    }

    #[tokio::test]
    async fn a_built_in_tool_answers_or_says_what_was_wrong() {
        let tools = Toolbox::for_tests();
        let calculate = async |expression: &str| {
            let call = Invocation {
                tool: tool("calculator"),
                effect: Effect::Read,
                run_id: "run".to_owned(),
                call_id: CallId("call".to_owned()),
                arguments: json!({"expression": expression}),
                variables: Map::new(),
                traceparent: String::new(),
                try_number: 1,
                until: Instant::now() + Duration::from_secs(30),
                jitter: 0.0,
            };
            match tools.call(&call).await {
                Tried::Answered(answer) => answer,
                Tried::Failed { .. } => panic!("it is not tried again"),
            }
        };
        let answer = calculate("6*7").await;
        assert_eq!((answer.result, answer.is_error), (json!(42), false));
        let answer = calculate("1/0").await;
        assert_eq!((answer.outcome, answer.is_error), (Outcome::Error, true));
    }

    #[test]
    fn a_long_result_is_cut_at_a_character() {
        let answer = Answer::ok(Value::String("é".repeat(limits::TOOL_RESULT_BYTES)));
        assert_eq!(answer.truncated, Some(true));
        let text = answer.result.as_str().expect("a text");
        assert!(text.len() <= limits::TOOL_RESULT_BYTES, "{}", text.len());
        assert!(text.ends_with("after 262044 of 524288 bytes]"), "{}", &text[text.len() - 60..]);
        let answer = Answer::whole(Value::String("short".to_owned()), Some(0));
        assert_eq!(answer.result, "short\n[cut here, after 5 bytes; there is more]");
    }
}
