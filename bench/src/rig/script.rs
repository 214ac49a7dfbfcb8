//! What the stub does with a model of a name: `d20` says twenty deltas, `t1-d20-g10` calls the tool
//! first and then says them ten milliseconds apart.
//!
//! | word | means |
//! |---|---|
//! | `dN` | the answer has N deltas of text: `w1 `, `w2 `, … |
//! | `gN` | they come N milliseconds apart, each in a write of its own; without it, all in one write |
//! | `fN` | the first comes N milliseconds after the request |
//! | `tN` | before the answer N turns call the HTTP tool `echo`, one call each |
//! | `cN` | the same with the built-in tool `calculator` |
//! | `hang` | behind its deltas the answer does not end |

use std::fmt::Write;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// The head of every stream of the stub.
const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\
                    transfer-encoding: chunked\r\n\r\n";

/// What the stub's answers count.
const USAGE: &str =
    r#"{"choices":[],"usage":{"prompt_tokens":10,"completion_tokens":5,"total_tokens":15}}"#;

/// The answers of a model, ready to be sent.
#[derive(Debug)]
pub(crate) struct Script {
    /// Turns that call a tool.
    pub(crate) tool_turns: usize,
    pub(crate) first: Duration,
    pub(crate) gap: Duration,
    pub(crate) hangs: bool,
    /// The head of a stream.
    pub(crate) head: &'static str,
    /// The deltas, each a chunk.
    pub(crate) deltas: Vec<String>,
    /// What ends a stream of text.
    pub(crate) tail: String,
    /// The whole stream of a turn that calls the tool.
    pub(crate) call: String,
    /// The whole stream of an answer whose deltas come at once.
    pub(crate) whole: String,
}

impl Script {
    pub(crate) fn parse(model: &str) -> Result<Script> {
        let mut deltas = 0;
        let (mut first, mut gap) = (Duration::ZERO, Duration::ZERO);
        let (mut tool_turns, mut call) = (0, String::new());
        let mut hangs = false;
        for word in model.split('-') {
            if word == "hang" {
                hangs = true;
                continue;
            }
            let (letter, number) = word.split_at_checked(1).context("a word has a letter")?;
            let number: usize = number.parse().with_context(|| format!("model {model}: {word}"))?;
            let ms = Duration::from_millis(u64::try_from(number)?);
            match letter {
                "d" => deltas = number,
                "g" => gap = ms,
                "f" => first = ms,
                "t" => (tool_turns, call) = (number, calling("echo", r#"{\"n\":1}"#)),
                "c" => {
                    (tool_turns, call) =
                        (number, calling("calculator", r#"{\"expression\":\"1+1\"}"#));
                }
                _ => bail!("model {model}: {word} is no word of the stub"),
            }
        }
        let deltas: Vec<String> = (1..=deltas)
            .map(|n| chunk(&data(&format!(r#"{{"content":"w{n} "}}"#), "null")))
            .collect();
        let tail = finish("stop");
        let whole = format!("{HEAD}{}{tail}", deltas.concat());
        Ok(Script { tool_turns, first, gap, hangs, head: HEAD, deltas, tail, call, whole })
    }
}

/// The text that a model of so many deltas says.
pub(crate) fn text(deltas: usize) -> String {
    let mut text = String::new();
    for n in 1..=deltas {
        write!(text, "w{n} ").expect("a string takes all");
    }
    text
}

fn calling(tool: &str, arguments: &str) -> String {
    let call = format!(
        r#"{{"tool_calls":[{{"index":0,"id":"call-1","type":"function","function":{{"name":"{tool}","arguments":"{arguments}"}}}}]}}"#
    );
    format!("{HEAD}{}{}", chunk(&data(&call, "null")), finish("tool_calls"))
}

fn finish(reason: &str) -> String {
    let end = data("{}", &format!("\"{reason}\""));
    format!("{}0\r\n\r\n", chunk(&format!("{end}data: {USAGE}\n\ndata: [DONE]\n\n")))
}

fn data(delta: &str, finish_reason: &str) -> String {
    format!(
        "data: {{\"id\":\"c\",\"model\":\"stub\",\"choices\":[{{\"index\":0,\"delta\":{delta},\
         \"finish_reason\":{finish_reason}}}]}}\n\n"
    )
}

/// A chunk of HTTP's chunked coding.
fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_script() {
        let script = Script::parse("t1-d3-g10-f5").expect("it is one");
        assert_eq!((script.tool_turns, script.deltas.len()), (1, 3));
        assert_eq!((script.gap.as_millis(), script.first.as_millis()), (10, 5));
        assert!(!script.hangs && script.call.contains("\"name\":\"echo\""));
        assert!(Script::parse("d2-hang").expect("so is this").hangs);
        for wrong in ["", "x1", "d", "gpt-5"] {
            assert!(Script::parse(wrong).is_err(), "{wrong:?}");
        }
        assert_eq!(text(3), "w1 w2 w3 ");
    }
}
