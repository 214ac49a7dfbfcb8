//! What people see of a run: text and answers for standard output, everything else for standard
//! error. Pure: events go in, pieces of output come out.

use std::fmt::Write;

use serde_json::Value;

use super::following::Told;

/// What is shown of a tool's arguments or result; the whole stands in the log.
const SHOWN_CHARS_MAX: usize = 500;

/// Clears the line that the progress stands in.
const CLEAR_LINE: &str = "\r\u{1b}[2K";

/// How a run is shown.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// The raw events instead of text.
    pub is_json: bool,
    /// Standard output is a terminal: text comes as it is said.
    pub out_is_terminal: bool,
    /// Standard error is a terminal: there is a progress line.
    pub err_is_terminal: bool,
    /// Whether standard error may have colours.
    pub has_colour: bool,
}

/// A piece of output, and where it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// To standard output.
    Out(String),
    /// To standard error.
    Err(String),
}

/// How a line looks.
#[derive(Clone, Copy)]
enum Tone {
    Quiet,
    Loud,
}

/// What is on the screen.
#[derive(Debug)]
pub(super) struct Screen {
    look: Look,
    /// What is being waited for, and since how many seconds.
    progress: Option<(String, u64)>,
    is_drawn: bool,
    /// Text was shown since the attempt began.
    has_said: bool,
    /// The text's last line is open.
    is_mid_line: bool,
    pieces: Vec<Piece>,
}

impl Screen {
    pub(super) fn new(look: Look) -> Screen {
        Screen {
            look,
            progress: None,
            is_drawn: false,
            has_said: false,
            is_mid_line: false,
            pieces: Vec::new(),
        }
    }

    /// What there is to write.
    pub(super) fn take(&mut self) -> Vec<Piece> {
        std::mem::take(&mut self.pieces)
    }

    /// The next event of the log.
    pub(super) fn event(&mut self, told: &Told) {
        let event: Value = serde_json::from_str(&told.text).unwrap_or_default();
        if self.look.is_json {
            self.pieces.push(Piece::Out(format!("{}\n", told.text)));
            self.verdict(&told.kind, &event["result"]);
            return;
        }
        let word = |name: &str| event[name].as_str().unwrap_or_default();
        match told.kind.as_str() {
            "run.queued" => self.wait("queued".to_owned()),
            "run.started" => self.wait("started".to_owned()),
            "turn.started" => {
                self.has_said = false;
                self.wait(format!("waiting for {}", word("model")));
            }
            "reasoning" => self.wait("the model is thinking".to_owned()),
            "text" => self.text(word("content")),
            "tool_call" => {
                self.note(&format!("-> {} {}", word("tool_name"), shown(&event["arguments"])));
            }
            "tool.started" => self.wait("waiting for tools".to_owned()),
            "tool_result" => self.result(&event),
            "turn.aborted" => self.aborted(&event),
            "cancel.requested" => self.wait("cancelling".to_owned()),
            "run.completed" | "run.failed" | "run.cancelled" => {
                self.ended(&told.kind, &event["result"]);
            }
            // New releases add types; the others say nothing that a reader needs.
            _ => {}
        }
    }

    /// The run's id, for whoever wants to find it again. The raw events have it.
    pub(super) fn name(&mut self, run: &str) {
        if !self.look.is_json {
            self.note(&format!("run {run}"));
        }
    }

    /// A line beside the run's own.
    pub(super) fn note(&mut self, line: &str) {
        self.line(line, Tone::Quiet);
    }

    /// A line that says what is wrong.
    pub(super) fn complain(&mut self, line: &str) {
        self.line(&format!("runledger: {line}"), Tone::Loud);
    }

    /// Something is waited for.
    pub(super) fn wait(&mut self, what: String) {
        if self.look.is_json {
            return;
        }
        if self.progress.as_ref().is_none_or(|(before, _)| *before != what) {
            self.progress = Some((what, 0));
        }
        self.draw();
    }

    /// A second has passed.
    pub(super) fn tick(&mut self) {
        if let Some((_, seconds)) = &mut self.progress {
            *seconds += 1;
            self.draw();
        }
    }

    /// Nothing comes any more: the cursor is left where a prompt may begin.
    pub(super) fn end(&mut self) {
        self.progress = None;
        self.settle();
    }

    fn draw(&mut self) {
        // In the middle of a line of text there is no room, and no need: something was said.
        if !self.look.err_is_terminal || self.is_mid_line {
            return;
        }
        let Some((what, seconds)) = &self.progress else { return };
        let time = if *seconds > 0 { format!(" ({seconds} s)") } else { String::new() };
        let line = format!("{} ...{time}", harmless(what));
        let line = self.toned(&line, Tone::Quiet);
        self.pieces.push(Piece::Err(format!("{CLEAR_LINE}{line}")));
        self.is_drawn = true;
    }

    fn text(&mut self, content: &str) {
        if !self.look.out_is_terminal || content.is_empty() {
            self.wait("the model is answering".to_owned());
            return;
        }
        self.progress = None;
        self.clear();
        self.pieces.push(Piece::Out(harmless(content)));
        self.has_said = true;
        self.is_mid_line = !content.ends_with('\n');
    }

    fn result(&mut self, event: &Value) {
        let name = event["tool_name"].as_str().unwrap_or_default();
        let result = shown(&event["result"]);
        if event["is_error"] == true {
            let outcome = event["outcome"].as_str().unwrap_or_default();
            self.line(&format!("<- {name} ({outcome}) {result}"), Tone::Loud);
        } else {
            self.note(&format!("<- {name} {result}"));
        }
    }

    /// After `limit` and `cancelled` the text stands, and the end says why.
    fn aborted(&mut self, event: &Value) {
        let reason = event["reason"].as_str().unwrap_or_default();
        if ["limit", "cancelled"].contains(&reason) {
            return;
        }
        let mut line = match self.has_said {
            true => format!("-- void: what was just said does not count ({reason}"),
            false => format!("-- the attempt failed ({reason}"),
        };
        if let Some(message) = event["message"].as_str() {
            let _ = write!(line, ": {message}");
        }
        line.push(')');
        if let Some(seconds) = event["retry_in"].as_f64() {
            let _ = write!(line, "; again in {seconds:.1} s");
        }
        self.has_said = false;
        self.line(&line, Tone::Loud);
        self.wait("waiting for the next attempt".to_owned());
    }

    fn ended(&mut self, kind: &str, result: &Value) {
        self.progress = None;
        self.settle();
        let output = result["final_output"].as_str().unwrap_or_default();
        if !self.look.out_is_terminal && !output.is_empty() {
            let end = if output.ends_with('\n') { "" } else { "\n" };
            self.pieces.push(Piece::Out(format!("{output}{end}")));
        }
        self.verdict(kind, result);
    }

    /// How the run ended, where that was not well.
    fn verdict(&mut self, kind: &str, result: &Value) {
        match kind {
            "run.failed" => {
                let error = &result["error"];
                let word = |name: &str| error[name].as_str().unwrap_or("unknown");
                self.complain(&format!("FAILED, {}: {}", word("code"), word("message")));
            }
            "run.cancelled" => self.complain("cancelled"),
            _ => {}
        }
    }

    fn line(&mut self, line: &str, tone: Tone) {
        self.settle();
        let line = self.toned(&harmless(line), tone);
        self.pieces.push(Piece::Err(format!("{line}\n")));
        self.draw();
    }

    fn toned(&self, line: &str, tone: Tone) -> String {
        if !self.look.has_colour {
            return line.to_owned();
        }
        let code = match tone {
            Tone::Quiet => 2,
            Tone::Loud => 31,
        };
        format!("\u{1b}[{code}m{line}\u{1b}[0m")
    }

    /// Neither progress nor an open line of text is in the way.
    fn settle(&mut self) {
        self.clear();
        if std::mem::take(&mut self.is_mid_line) {
            self.pieces.push(Piece::Out("\n".to_owned()));
        }
    }

    fn clear(&mut self) {
        if std::mem::take(&mut self.is_drawn) {
            self.pieces.push(Piece::Err(CLEAR_LINE.to_owned()));
        }
    }
}

/// Without what a terminal takes for commands: a model's text must not move the cursor.
fn harmless(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() || ['\n', '\t'].contains(c)).collect()
}

/// A value in a line: a string as it is, anything else as JSON, the beginning of what is long.
fn shown(value: &Value) -> String {
    let text = value.as_str().map_or_else(|| value.to_string(), |text| text.replace('\n', "\\n"));
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests;
