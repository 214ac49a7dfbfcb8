//! What the screen shows, event by event.

use serde_json::json;

use super::*;

const FILE: Look =
    Look { is_json: false, out_is_terminal: false, err_is_terminal: false, has_colour: false };
const TERMINAL: Look =
    Look { is_json: false, out_is_terminal: true, err_is_terminal: true, has_colour: false };

/// What standard output and standard error have got after these events, clears as `~`.
#[track_caller]
fn check(look: Look, events: &[Value], out: &str, err: &str) {
    let mut screen = Screen::new(look);
    for event in events {
        let kind = event["type"].as_str().unwrap().to_owned();
        screen.event(&Told { kind, text: event.to_string() });
    }
    screen.end();
    let (mut got_out, mut got_err) = (String::new(), String::new());
    for piece in screen.take() {
        match piece {
            Piece::Out(text) => got_out.push_str(&text),
            Piece::Err(text) => got_err.push_str(&text.replace(CLEAR_LINE, "~")),
        }
    }
    assert_eq!((got_out.as_str(), got_err.as_str()), (out, err));
}

fn text(content: &str) -> Value {
    json!({"type": "text", "content": content})
}

fn completed(output: &str) -> Value {
    json!({"type": "run.completed", "result": {"final_output": output}})
}

fn aborted(reason: &str) -> Value {
    json!({"type": "turn.aborted", "reason": reason, "message": "it broke", "retry_in": 0.25})
}

#[test]
fn a_file_gets_the_answer_once_and_nothing_that_was_taken_back() {
    let events = [text("wrong"), aborted("cut"), text("I look. "), text("Now: "), completed("42")];
    check(FILE, &events, "42\n", "-- the attempt failed (cut: it broke); again in 0.2 s\n");
    check(FILE, &[text("a\n"), completed("a\n")], "a\n", "");
    check(FILE, &[json!({"type": "run.completed", "result": {"final_output": null}})], "", "");
}

#[test]
fn on_a_terminal_text_comes_as_it_is_said_and_void_text_is_called_void() {
    let events = [text("wr"), text("ong"), aborted("cut"), text("right"), completed("right")];
    let void = "-- void: what was just said does not count (cut: it broke); again in 0.2 s\n";
    check(
        TERMINAL,
        &events,
        "wrong\nright\n",
        &format!("{void}~waiting for the next attempt ...~"),
    );
}

#[test]
fn text_stands_where_a_limit_or_a_cancel_ended_the_run() {
    for reason in ["limit", "cancelled"] {
        let end = json!({"type": "run.cancelled", "result": {"final_output": "half"}});
        let events = [text("half"), aborted(reason), end];
        check(TERMINAL, &events, "half\n", "runledger: cancelled\n");
        check(FILE, &events, "half\n", "runledger: cancelled\n");
    }
}

#[test]
fn calls_and_results_are_lines_and_long_ones_are_cut() {
    let call =
        |arguments: Value| json!({"type": "tool_call", "tool_name": "t", "arguments": arguments});
    let result = |result: Value, is_error: bool| {
        json!({"type": "tool_result", "tool_name": "t", "result": result, "is_error": is_error,
               "outcome": "timeout"})
    };
    let long = "é".repeat(SHOWN_CHARS_MAX + 1);
    let events = [
        call(json!({"a": 1})),
        call(json!("no {object")),
        result(json!("two\nlines"), false),
        result(json!("late"), true),
        result(json!(long), false),
    ];
    let cut = "é".repeat(SHOWN_CHARS_MAX);
    let lines = format!(
        "-> t {{\"a\":1}}\n-> t no {{object\n<- t two\\nlines\n<- t (timeout) late\n<- t {cut}...\n"
    );
    check(FILE, &events, "", &lines);
}

#[test]
fn what_a_terminal_takes_for_commands_is_left_out() {
    let events = [text("a\u{1b}[2J\u{7}\tb\r\n\u{9b}c"), completed("")];
    check(TERMINAL, &events, "a[2J\tb\nc\n", "");
    let evil = json!({"type": "tool_call", "tool_name": "\u{1b}[1m", "arguments": "\u{9b}x"});
    check(FILE, &[evil], "", "-> [1m x\n");
}

#[test]
fn a_progress_line_is_cleared_before_anything_else_is_written() {
    let events = [
        json!({"type": "run.queued"}),
        json!({"type": "turn.started", "model": "demo/x"}),
        text("Hi"),
        completed("Hi"),
    ];
    check(TERMINAL, &events, "Hi\n", "~queued ...~waiting for demo/x ...~".trim_end());
    check(FILE, &events, "Hi\n", "");
}

#[test]
fn the_seconds_of_waiting_are_counted() {
    let mut screen = Screen::new(TERMINAL);
    screen.wait("queued".to_owned());
    screen.tick();
    screen.wait("queued".to_owned());
    screen.tick();
    let last = screen.take().pop();
    assert_eq!(last, Some(Piece::Err(format!("{CLEAR_LINE}queued ... (2 s)"))));
}

#[test]
fn a_failure_is_told_with_its_code_and_message_and_raw_events_are_left_raw() {
    let failed = json!({"type": "run.failed",
        "result": {"final_output": "half", "error": {"code": "max_time", "message": "too slow"}}});
    let line = "runledger: FAILED, max_time: too slow\n";
    check(FILE, std::slice::from_ref(&failed), "half\n", line);
    let raw = format!("{}\n{failed}\n", text("half"));
    check(Look { is_json: true, ..TERMINAL }, &[text("half"), failed], &raw, line);
}

#[test]
fn events_of_later_releases_are_passed_over() {
    check(FILE, &[json!({"type": "new.thing", "content": 7}), completed("ok")], "ok\n", "");
}
