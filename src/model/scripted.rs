//! `demo/assistant`: plays a script, so that everything can be tried without a key. It finds
//! arithmetic and questions for the time in the input, asks the tools that are offered for them and
//! works their results into its answer. Told to answer "at length" or "slowly", it does.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{Delta, Failure, ProposedCall, Reply, failure};
use crate::run::event::{AbortReason, FinishReason, Usage};
use crate::run::{Message, Request};

/// The pause between two words: about what a fast model takes.
const PAUSE: Duration = Duration::from_millis(15);

/// The pause when it is told to speak slowly: time enough to hang up, resume, or cancel by hand.
const SLOW_PAUSE: Duration = Duration::from_millis(200);

/// Words of an answer "at length", and the most that can be asked for ("in 2000 words").
const WORDS_AT_LENGTH: usize = 300;
const WORDS_MAX: usize = 5000;

/// The most expressions that are looked for in one input.
const EXPRESSIONS_MAX: usize = 4;

/// Who is speaking: the answer always says it.
const INTRODUCTION: &str = "This is demo/assistant, a script and not a language model. ";

/// What it says when it has to say much.
const SENTENCES: [&str; 5] = [
    "Every event of this run was committed to the log before you saw it.",
    "Hang up and resume with Last-Event-ID: not a word will be missing, and none will come twice.",
    "Kill the service and start it again: the run goes on from its last committed event.",
    "Cancel the run, and the model's connection is closed, wherever it runs.",
    "Read the same log again tomorrow: it will be the same, byte for byte.",
];

/// The scripted model.
#[derive(Clone, Copy, Debug)]
pub struct Scripted {
    script: Script,
}

#[derive(Clone, Copy, Debug)]
enum Script {
    /// `demo/assistant`.
    Assistant,
    /// `demo/by_input`: the input is the script, a list of `[TEXT, [TOOL, …]]` for each turn.
    #[cfg(test)]
    ByInput,
}

impl Scripted {
    /// The name of the one script.
    pub const ASSISTANT: &str = "assistant";

    /// The script of this name.
    pub fn named(name: &str) -> Option<Scripted> {
        let script = match name {
            Scripted::ASSISTANT => Script::Assistant,
            #[cfg(test)]
            "by_input" => Script::ByInput,
            _ => return None,
        };
        Some(Scripted { script })
    }

    /// Plays the script: see [`super::Model::call`].
    pub(super) async fn call(
        self,
        request: &Request,
        deltas: mpsc::Sender<Delta>,
    ) -> Result<Reply, Failure> {
        let Play { text, calls, pause } = match self.script {
            Script::Assistant => play(request),
            #[cfg(test)]
            Script::ByInput => tests::by_input(request),
        };
        let most = request.settings.max_output_tokens.map_or(usize::MAX, |most| most as usize);
        let words: Vec<&str> = text.split_inclusive(' ').collect();
        let said = words.len().min(most);
        for word in &words[..said] {
            tokio::time::sleep(pause).await;
            let gone = |_closed| failure::transport(AbortReason::Cut, "nobody listens any more");
            deltas.send(Delta::Text((*word).to_owned())).await.map_err(gone)?;
        }
        let is_cut = said < words.len();
        let calls = if is_cut { Vec::new() } else { calls };
        let finish_reason = match (is_cut, calls.is_empty()) {
            (true, _) => FinishReason::Length,
            (false, true) => FinishReason::Stop,
            (false, false) => FinishReason::ToolCalls,
        };
        Ok(Reply {
            finish_reason,
            finish_reason_raw: String::new(),
            calls,
            usage: usage(request, said),
            model: Scripted::ASSISTANT.to_owned(),
            provider_request_id: None,
        })
    }
}

/// What is said and asked for in one turn.
#[derive(Debug, PartialEq)]
struct Play {
    text: String,
    calls: Vec<ProposedCall>,
    pause: Duration,
}

fn play(request: &Request) -> Play {
    let asked_at = request.messages.iter().rposition(|one| matches!(one, Message::User { .. }));
    let asked = match asked_at.map(|place| &request.messages[place]) {
        Some(Message::User { content }) => content.text(),
        Some(Message::Assistant { .. } | Message::Tool { .. }) | None => String::new(),
    };
    let since = asked_at.map_or(&[][..], |place| &request.messages[place + 1..]);
    let pause = if asked.to_lowercase().contains("slow") { SLOW_PAUSE } else { PAUSE };
    let wishes = wishes(&asked);
    if since.is_empty() {
        let (calls, refused): (Vec<_>, Vec<_>) = wishes.into_iter().partition(|wish| {
            let offered = |tool: &str| request.tools.iter().any(|offer| offer.name == tool);
            offered(wish.tool)
        });
        if !calls.is_empty() {
            let tools: Vec<&str> = calls.iter().map(|wish| wish.tool).collect();
            let text = format!("{INTRODUCTION}I ask {}. ", tools.join(" and "));
            return Play { text, calls: calls.into_iter().map(Wish::call).collect(), pause };
        }
        return Play { text: answer(&asked, &without_tools(&refused)), calls: Vec::new(), pause };
    }
    let told: Vec<String> = since.iter().filter_map(told).collect();
    Play { text: answer(&asked, &told.join(" ")), calls: Vec::new(), pause }
}

/// Something that a tool could find out.
#[derive(Debug, PartialEq)]
struct Wish {
    tool: &'static str,
    arguments: Value,
}

impl Wish {
    fn call(self) -> ProposedCall {
        ProposedCall {
            provider_call_id: None,
            tool_name: self.tool.to_owned(),
            arguments_raw: self.arguments.to_string(),
            provider_metadata: None,
        }
    }
}

fn wishes(asked: &str) -> Vec<Wish> {
    let sums = expressions(asked).into_iter().map(|expression| Wish {
        tool: "calculator",
        arguments: json!({"expression": expression}),
    });
    let lower = asked.to_lowercase();
    let mut words = lower.split(|c: char| !c.is_alphabetic());
    let asks_time = words.any(|word| ["time", "date", "clock", "today"].contains(&word));
    let zone = asked.split_whitespace().map(trimmed).find(|word| is_zone(word));
    let arguments = zone.map_or_else(|| json!({}), |zone| json!({ "timezone": zone }));
    sums.chain(asks_time.then_some(Wish { tool: "current_time", arguments })).collect()
}

fn trimmed(word: &str) -> &str {
    word.trim_matches(|c: char| !c.is_alphanumeric())
}

/// `Europe/Berlin`, `America/Argentina/Salta`.
fn is_zone(word: &str) -> bool {
    word.contains('/')
        && word.split('/').all(|part| {
            part.starts_with(|c: char| c.is_ascii_uppercase())
                && part.chars().all(|c| c.is_ascii_alphabetic() || "_-".contains(c))
        })
}

/// Stretches of the text that are arithmetic: numbers with an operator between them.
fn expressions(text: &str) -> Vec<String> {
    let is_part = |c: char| c.is_ascii_digit() || " .+-*/%^()×÷".contains(c);
    text.split(|c: char| !is_part(c))
        .map(|part| part.trim_end_matches([' ', '.', '+', '-', '*', '/', '%', '^', '(']).trim())
        .map(|part| part.trim_start_matches(['.', '*', '/', '%', '^', ')', '+', ' ']))
        .filter(|part| {
            let mut numbers = part.split(|c: char| !(c.is_ascii_digit() || c == '.'));
            let has_two = numbers.by_ref().filter(|number| !number.is_empty()).nth(1).is_some();
            has_two && part.contains(['+', '-', '*', '/', '%', '^', '×', '÷'])
        })
        .take(EXPRESSIONS_MAX)
        .map(str::to_owned)
        .collect()
}

/// What a tool has told, in a sentence.
fn told(message: &Message) -> Option<String> {
    let Message::Tool { content, is_error, .. } = message else { return None };
    let text = content.text();
    if *is_error {
        return Some(format!("A tool failed: {text}."));
    }
    let time = serde_json::from_str::<Value>(&text).ok();
    let time = time.as_ref().and_then(|value| value.get("time")?.as_str());
    Some(match time {
        Some(time) => format!("The time is {time}."),
        None => format!("The result is {text}."),
    })
}

fn without_tools(wishes: &[Wish]) -> String {
    match wishes.first() {
        None => "Ask me for a sum or for the time, and offer me the tools calculator and \
                 current_time. Add \"at length\" or \"slowly\" to try streams, resume and cancel."
            .to_owned(),
        Some(wish) => format!("Offer me the tool {}, and I ask it.", wish.tool),
    }
}

/// The answer: who speaks, what is known, and as much more as was asked for.
fn answer(asked: &str, known: &str) -> String {
    let mut text = format!("{INTRODUCTION}{known}");
    let lower = asked.to_lowercase();
    let words: Vec<&str> = lower.split_whitespace().map(trimmed).collect();
    let counted = words.windows(2).find(|pair| pair[1] == "words").and_then(|p| p[0].parse().ok());
    let most = match counted {
        Some(number) => std::cmp::min(number, WORDS_MAX),
        None if lower.contains("at length") => WORDS_AT_LENGTH,
        None => return text,
    };
    let missing = most.saturating_sub(text.split_whitespace().count());
    let words = SENTENCES.iter().cycle().flat_map(|sentence| sentence.split(' '));
    for word in words.take(missing) {
        text.push(' ');
        text.push_str(word);
    }
    text
}

/// A word counts as a token, in and out.
fn usage(request: &Request, said: usize) -> Usage {
    let read = request.canonical_json().split([' ', '"']).filter(|word| !word.is_empty()).count();
    let (input, output) = (read as u64, said as u64);
    Usage {
        input_tokens: Some(input),
        output_tokens: Some(output),
        total_tokens: Some(input + output),
        ..Usage::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::spec::ModelSettings;

    /// The turn that the input tells to play; calls have no arguments but the calculator's.
    pub(super) fn by_input(request: &Request) -> Play {
        let asked = request.messages.iter().rposition(|one| matches!(one, Message::User { .. }));
        let asked = asked.expect("somebody asked");
        let Message::User { content } = &request.messages[asked] else { unreachable!("see above") };
        let turns: Vec<(String, Vec<String>)> =
            serde_json::from_str(&content.text()).expect("the input is a script");
        let answers = request.messages[asked..].iter();
        let turn = answers.filter(|one| matches!(one, Message::Assistant { .. })).count();
        let (text, tools) = turns[turn].clone();
        let calls = tools.into_iter().map(|tool_name| ProposedCall {
            provider_call_id: None,
            arguments_raw: match tool_name.as_str() {
                "calculator" => r#"{"expression":"6*7"}"#.to_owned(),
                _ => String::new(),
            },
            tool_name,
            provider_metadata: None,
        });
        Play { text, calls: calls.collect(), pause: Duration::ZERO }
    }

    fn request(messages: Value, tools: &[&str]) -> Request {
        let offers = tools.iter().map(|name| json!({"name": name, "parameters": {}}));
        Request {
            instructions: None,
            messages: serde_json::from_value(messages).expect("messages"),
            tools: offers
                .map(|offer| crate::run::request::ToolOffer {
                    name: offer["name"].as_str().unwrap_or_default().to_owned(),
                    description: None,
                    parameters: json!({}),
                })
                .collect(),
            settings: ModelSettings::default(),
            output_schema: None,
        }
    }

    #[test]
    fn arithmetic_and_questions_for_the_time_become_calls_of_offered_tools() {
        let both = ["calculator", "current_time"];
        let asked = json!([{"role": "user",
            "content": "What is (2+3)*4, 10 / 4 - 1? And the time in Europe/Berlin, on 3 May?"}]);
        let played = play(&request(asked.clone(), &both));
        let calls: Vec<(&str, &str)> = played
            .calls
            .iter()
            .map(|call| (call.tool_name.as_str(), call.arguments_raw.as_str()))
            .collect();
        assert_eq!(
            calls,
            [
                ("calculator", r#"{"expression":"(2+3)*4"}"#),
                ("calculator", r#"{"expression":"10 / 4 - 1"}"#),
                ("current_time", r#"{"timezone":"Europe/Berlin"}"#),
            ]
        );
        let alone = play(&request(asked, &[]));
        assert!(alone.calls.is_empty() && alone.text.contains("Offer me the tool calculator"));
    }

    #[test]
    fn results_are_worked_into_the_answer() {
        let played = play(&request(
            json!([
                {"role": "user", "content": "6*7 and the time"},
                {"role": "assistant", "tool_calls": [
                    {"call_id": "call_1", "tool_name": "calculator", "arguments": {}},
                    {"call_id": "call_2", "tool_name": "current_time", "arguments": {}},
                    {"call_id": "call_3", "tool_name": "calculator", "arguments": {}}]},
                {"role": "tool", "call_id": "call_1", "content": "42"},
                {"role": "tool", "call_id": "call_2", "content": "{\"time\":\"12:00\"}"},
                {"role": "tool", "call_id": "call_3", "content": "no", "is_error": true},
            ]),
            &["calculator"],
        ));
        assert!(played.text.contains("script and not a language model"));
        for part in ["The result is 42.", "The time is 12:00.", "A tool failed: no."] {
            assert!(played.text.contains(part), "{part} in {}", played.text);
        }
        assert!(played.calls.is_empty());
    }

    #[test]
    fn it_speaks_at_length_and_slowly_where_told_to() {
        let told = |text: &str| play(&request(json!([{"role": "user", "content": text}]), &[]));
        let long = told("Tell me something at length, slowly");
        assert_eq!(long.pause, SLOW_PAUSE);
        assert_eq!(long.text.split_whitespace().count(), WORDS_AT_LENGTH);
        assert_eq!(told("a story in 1000 words").text.split_whitespace().count(), 1000);
        assert_eq!(told("hello").pause, PAUSE);
    }

    #[test]
    fn what_only_looks_like_arithmetic_is_none() {
        for text in ["I have 3 cats", "2026-", "- 5", "room 12.", "call me...", "(7)"] {
            assert_eq!(expressions(text), Vec::<String>::new(), "{text}");
        }
        assert_eq!(expressions("it is -3 + 5."), ["-3 + 5"]);
    }
}
