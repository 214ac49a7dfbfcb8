//! What happens in a run, row by row of the API's table and of the log's rules.

use serde_json::{Value, json};

use super::*;
use crate::run::event::{Body, RunResult};
use crate::run::notation::{drafts_in_words, log, spec};

#[track_caller]
fn check(story: &str, step: &str) {
    check_with(json!({}), story, step);
}

#[track_caller]
fn check_with(config: Value, story: &str, step: &str) {
    let log = log(story);
    assert_eq!(log.words(&decide(&spec(&config), &log.state, &log.clock)), step, "{story}");
}

/// The events that end the run here, and what it comes to.
#[track_caller]
fn check_end(config: Value, story: &str, drafts: &str, output: Option<&str>) -> RunResult {
    let spec = spec(&config);
    let mut log = log(story);
    let step = decide(&spec, &log.state, &log.clock);
    let Step::Finish(ending) = &step else { panic!("{story}: {}", log.words(&step)) };
    let closing = crate::run::ending::finish(&spec, &log.state, "r", ending, &log.clock, None);
    assert_eq!(drafts_in_words(&closing), drafts, "{story}");
    log.append(closing);
    let result = log.state.result.clone().expect("it has ended");
    assert_eq!(result.final_output.as_deref(), output, "{story}");
    assert_eq!(log.state.final_output().as_deref(), output, "the fold says the same");
    assert_eq!(decide(&spec, &log.state, &log.clock), Step::Stop, "it does nothing more");
    result
}

fn ending_of(config: Value, story: &str) -> Ending {
    let log = log(story);
    match decide(&spec(&config), &log.state, &log.clock) {
        Step::Finish(ending) => ending,
        other => panic!("{story}: {}", log.words(&other)),
    }
}

#[test]
fn a_raised_limit_holds_from_then_on() {
    let one = || json!({"max_turns": 1});
    check_with(one(), "started; called 1 a; returned a", "fail max_turns");
    check_with(one(), "started; called 1 a; returned a; raised max_turns 2", "ask demo/a 2.1");
    check_with(one(), "raised max_turns 2; started; called 1 a; returned a", "ask demo/a 2.1");
    let lowered = "raised max_turns 3; raised max_turns 2; started; called 1 a; returned a; \
                   called 2 a; returned a";
    check_with(one(), lowered, "ask demo/a 3.1");
    check_with(json!({"max_turns": 3}), "raised max_turns 1; started; called 1 a", "call a");
    let some = || json!({"max_total_tokens": 100});
    let used = "started; used 100; called 1 a";
    check_with(some(), &format!("{used}; raised max_total_tokens 101"), "call a");
    check_with(json!({}), "started; raised max_total_tokens 1; used 9; called 1 a", "call a");
    let late = "started; called 1 a; returned a; run 301 s";
    check_with(json!({}), late, "fail max_time");
    check_with(json!({}), &format!("{late}; raised max_time 302"), "ask demo/a 2.1");
    check_with(json!({}), "started; asked; turn 61 s; raised timeout_per_turn 62", "abandon");
    check_with(
        json!({"max_tool_calls": 1}),
        "started; called 1 a b; raised max_tool_calls 2",
        "call a b",
    );
}

#[test]
fn what_a_limit_refused_is_forgotten_where_it_is_raised() {
    let last = || json!({"max_tool_calls": 0, "on_limit": "finalize"});
    let refused = "started; called 1 a; skipped a";
    check_with(last(), refused, "ask demo/a 2.1 without tools");
    check_with(last(), &format!("{refused}; raised max_tool_calls 1"), "ask demo/a 2.1");
    let answered = format!("{refused}; raised max_tool_calls 1; answered 2 x");
    check_with(last(), &answered, "complete end_turn");
    // Another limit that is still met keeps tools away.
    let both = json!({"max_total_tokens": 5, "max_tool_calls": 0, "on_limit": "finalize"});
    let used = "started; used 5; called 1 a; skipped a; raised max_tool_calls 1";
    check_with(both, used, "ask demo/a 2.1 without tools");
}

#[test]
fn what_a_limit_refused_stays_refused_where_another_is_raised_or_none() {
    let last = || json!({"max_tool_calls": 1, "on_limit": "finalize"});
    let refused = "started; called 1 a; returned a; called 2 a; skipped a";
    for nothing in ["max_time 600", "max_turns 99", "max_tool_calls 1", "max_tool_calls 0"] {
        let raised = format!("{refused}; raised {nothing}");
        check_with(last(), &raised, "ask demo/a 3.1 without tools");
        let during = format!("{refused}; asked; raised {nothing}; said x; ended stop");
        check_with(last(), &during, "complete max_tool_calls");
    }
    // Raised before the refusal, it is no raise after.
    let before = "started; raised max_tool_calls 2; called 1 a b c; skipped a; skipped b; \
                  skipped c; raised max_tool_calls 2";
    check_with(last(), before, "ask demo/a 2.1 without tools");
    check_with(last(), &format!("{before}; raised max_tool_calls 3"), "ask demo/a 2.1");
    // The limit that refused is the one to be raised.
    let turns = || json!({"max_turns": 1, "max_tool_calls": 9, "on_limit": "finalize"});
    let refused = "started; called 1 a; skipped a";
    check_with(turns(), &format!("{refused}; raised max_turns 5"), "ask demo/a 2.1");
    let calls = format!("{refused}; raised max_tool_calls 99");
    check_with(turns(), &calls, "ask demo/a 2.1 without tools");
    let tokens = || json!({"max_total_tokens": 5, "on_limit": "finalize"});
    let used = "started; used 5; called 1 a; skipped a";
    check_with(tokens(), &format!("{used}; raised max_total_tokens 99"), "ask demo/a 2.1");
    check_with(tokens(), &format!("{used}; raised max_turns 99"), "ask demo/a 2.1 without tools");
}

#[test]
fn money_is_a_limit_as_tokens_are() {
    let some = || json!({"max_cost_usd": 0.5});
    check_with(some(), "started; paid 0.49; called 1 a", "call a");
    check_end(some(), "started; paid 0.5; called 1 a", "a cancelled; fail max_cost_usd", None);
    check_with(some(), "started; paid 9; answered 1 Hello", "complete end_turn");
    let wasted = "started; paid 0.3; called 1 a; returned a; asked; paid 0.2; broke cut in 1";
    check_with(some(), wasted, "fail max_cost_usd");
    let last = || json!({"max_cost_usd": 0.5, "on_limit": "finalize"});
    let refused = "started; paid 0.5; called 1 a; skipped a";
    check_with(last(), refused, "ask demo/a 2.1 without tools");
    check_with(last(), &format!("{refused}; answered 2 x"), "complete max_cost_usd");
    let passing = "started; called 1 a; returned a; paid 0.5; answered 2 x";
    check_with(last(), passing, "complete end_turn");
}

#[test]
fn a_run_begins_by_asking_the_model() {
    check("", "ask demo/a 1.1");
    check("started", "ask demo/a 1.1");
}

#[test]
fn tools_of_one_turn_are_called_side_by_side() {
    check("started; called 1 a b", "call a b");
}

#[test]
fn a_tool_that_did_not_return_is_called_again_after_a_crash() {
    check("started; called 1 a b; returned a", "call b");
    check("started; called 1 a b; began a; began b; returned a; died 1", "call b");
    check("started; called 1 r; began r; died 1", "call r");
}

#[test]
fn a_tool_that_must_run_once_is_not_called_again_after_a_crash() {
    check("started; called 1 o; began o; died 1", "refuse o");
    check("started; called 1 a o b; began o; began a; died 1", "refuse o");
    check("started; called 1 o b; died 1", "call o b");
    let log = log("started; called 1 o; began o; died 1");
    let call = log.state.open_calls().next().expect("it is open");
    let Body::ToolResult { outcome, is_error, result, .. } = crate::run::ending::closing(call)
    else {
        panic!("it is a result")
    };
    assert_eq!((outcome, is_error), (crate::run::event::Outcome::Unknown, true));
    assert!(result.as_str().is_some_and(|words| words.contains("outcome is not known")));
}

#[test]
fn the_model_is_asked_again_when_every_call_has_its_answer() {
    check("started; called 1 a b; returned b; returned a", "ask demo/a 2.1");
    check("started; called 1 a; failed a", "ask demo/a 2.1");
    check("started; called 1 a b; refused a; returned b", "ask demo/a 2.1");
}

#[test]
fn an_answer_without_calls_completes_the_run() {
    let end = "complete end_turn";
    check_end(json!({}), "started; answered 1 Hello", end, Some("Hello"));
    check_end(json!({}), "started; called 1 a; returned a; answered 2 Done", end, Some("Done"));
}

#[test]
fn an_answer_without_text_is_an_answer() {
    check_end(json!({}), "started; asked; ended stop", "complete end_turn", None);
    let reasoned = "started; asked; thought hmm; ended stop";
    check_end(json!({}), reasoned, "complete end_turn", None);
    // The text of an earlier turn is not the answer.
    let told = "started; asked; said wait; thought hm; ended stop";
    check_end(json!({}), told, "complete end_turn", Some("wait"));
}

#[test]
fn a_committed_answer_needs_no_more_time_and_no_better_node() {
    check("started; answered 1 Hello; run 301 s; turn 61 s", "complete end_turn");
    check("started; answered 1 Hello; died 9", "complete end_turn");
    check("started; answered 1 Hello; cancelled", "cancel");
}

#[test]
fn a_run_may_use_all_its_turns_but_no_tools_in_the_last() {
    let two = || json!({"max_turns": 2});
    check_with(two(), "started; called 1 a", "call a");
    check_with(two(), "started; called 1 a; returned a; answered 2 Done", "complete end_turn");
    let story = "started; called 1 a; returned a; asked; said Hm; ended tool_calls";
    check_with(two(), story, "complete end_turn");
    check_end(
        two(),
        "started; called 1 a; returned a; called 2 a b",
        "a cancelled; b cancelled; fail max_turns",
        None,
    );
}

#[test]
fn at_max_turns_one_last_turn_without_tools_may_finish_the_run() {
    let one = || json!({"max_turns": 1, "on_limit": "finalize"});
    check_with(one(), "started; called 1 a b", "refuse a b");
    let last = "started; called 1 a b; skipped a; skipped b";
    check_with(one(), last, "ask demo/a 2.1 without tools");
    check_with(one(), &format!("{last}; asked; broke crash in 0"), "ask demo/a 2.2 without tools");
    let answered = format!("{last}; answered 2 So far");
    let result = check_end(one(), &answered, "complete max_turns", Some("So far"));
    assert_eq!(result.turn_count, 2, "it may exceed max_turns by one");
}

#[test]
fn a_last_turn_that_asks_for_calls_all_the_same_ends_the_run() {
    let one = json!({"max_turns": 1, "on_limit": "finalize"});
    let story = "started; called 1 a; skipped a; called 2 a b";
    check_end(one, story, "a cancelled; b cancelled; complete max_turns", None);
}

#[test]
fn a_last_turn_may_fail_like_any_other() {
    let one = || json!({"max_turns": 1, "on_limit": "finalize"});
    let last = "started; called 1 a; skipped a; asked";
    check_with(one(), &format!("{last}; broke overloaded 529"), "fail model_error");
    check_with(one(), &format!("{last}; said x; ended length"), "fail max_output_tokens");
}

#[test]
fn tokens_are_checked_before_a_tool_and_before_the_model() {
    let some = || json!({"max_total_tokens": 100});
    check_with(some(), "started; used 99; called 1 a", "call a");
    check_end(some(), "started; used 100; called 1 a", "a cancelled; fail max_total_tokens", None);
    check_with(some(), "started; used 100; answered 1 Hello", "complete end_turn");
    let wasted = "started; used 60; called 1 a; returned a; asked; used 40; broke cut in 1";
    check_with(some(), wasted, "fail max_total_tokens");
}

#[test]
fn a_turn_that_tokens_made_the_last_is_told_by_its_limit() {
    let some = || json!({"max_total_tokens": 100, "on_limit": "finalize"});
    let refused = "started; used 100; called 1 a; skipped a";
    check_with(some(), refused, "ask demo/a 2.1 without tools");
    check_with(some(), &format!("{refused}; answered 2 x"), "complete max_total_tokens");
    // No call had to be refused here: a failed attempt used up the tokens.
    let wasted = "started; called 1 a; returned a; asked; used 100; broke cut in 1";
    check_with(some(), wasted, "ask demo/a 2.2 in 1 s without tools");
    check_with(some(), &format!("{wasted}; answered 2 x"), "complete max_total_tokens");
    let greedy = format!("{wasted}; called 2 a");
    check_end(some(), &greedy, "a cancelled; complete max_total_tokens", None);
    // The attempt that passes the limit was no last turn: its answer is an answer.
    let passing = "started; called 1 a; returned a; used 100; answered 2 x";
    check_with(some(), passing, "complete end_turn");
}

#[test]
fn tokens_that_only_came_as_parts_count_too() {
    use crate::run::event::Usage;
    let mut usage = Usage::default();
    let parts = Usage { input_tokens: Some(7), output_tokens: Some(5), ..Usage::default() };
    usage.add(&parts);
    usage.add(&Usage { total_tokens: Some(30), ..Usage::default() });
    usage.add(&Usage { input_tokens: Some(1), ..Usage::default() });
    assert_eq!(usage.total_tokens, Some(42));
    assert_eq!(usage.cached_input_tokens, None, "unknown is not 0");
}

#[test]
fn a_turns_calls_run_together_or_not_at_all() {
    let two = || json!({"max_tool_calls": 2});
    check_with(two(), "started; called 1 a b", "call a b");
    check_with(two(), "started; called 1 a b; returned a; died 1", "call b");
    check_with(two(), "started; called 1 a b c", "fail max_tool_calls");
    let third = "started; called 1 a b; returned a; returned b; called 2 a";
    check_end(two(), third, "a cancelled; fail max_tool_calls", None);
    check_with(json!({"max_tool_calls": 0}), "started; called 1 a", "fail max_tool_calls");
}

#[test]
fn at_max_tool_calls_one_last_turn_without_tools_may_finish_the_run() {
    let one = || json!({"max_tool_calls": 1, "on_limit": "finalize"});
    check_with(one(), "started; called 1 a b", "refuse a b");
    let last = "started; called 1 a b; skipped a; skipped b";
    check_with(one(), last, "ask demo/a 2.1 without tools");
    check_with(one(), &format!("{last}; answered 2 x"), "complete max_tool_calls");
    check_with(one(), &format!("{last}; called 2 a"), "complete max_tool_calls");
}

#[test]
fn a_run_out_of_time_fails_whatever_it_is_doing() {
    let late = |story: &str| format!("{story}; run 300 s");
    check(&late("started"), "fail max_time");
    check(&late("started; asked; broke overloaded 529 in 9"), "fail max_time");
    let cut = late("started; asked; said Hel");
    check_end(json!({}), &cut, "aborted limit; fail max_time", Some("Hel"));
    let tools = late("started; called 1 a r b; began a; began r");
    check_end(json!({}), &tools, "a unknown; r cancelled; b cancelled; fail max_time", None);
    check("started; called 1 a; returned a; run 299.9 s", "ask demo/a 2.1");
}

#[test]
fn a_turn_out_of_time_fails_the_run() {
    for story in [
        "started; asked; said x",
        "started; asked; broke overloaded 529 in 9",
        "started; asked; died 1; broke crash in 0",
        "started; called 1 a b; began a; returned a",
    ] {
        check(&format!("{story}; turn 60 s"), "fail turn_timeout");
    }
    // Between two turns the old one's time says nothing.
    check("started; called 1 a; returned a; turn 60 s", "ask demo/a 2.1");
    check("started; turn 60 s", "ask demo/a 1.1");
}

#[test]
fn a_cut_answer_is_never_success() {
    let length = "started; asked; said Hel; ended length";
    check_end(json!({}), length, "fail max_output_tokens", Some("Hel"));
    let filtered = "started; asked; said Hel; ended content_filter";
    check_end(json!({}), filtered, "fail content_filter", Some("Hel"));
}

#[test]
fn an_unknown_reason_to_end_is_named_and_no_tool_runs() {
    let story = "started; asked; said Hel; ended other";
    let result = check_end(json!({}), story, "fail model_error", Some("Hel"));
    let error = result.error.expect("it failed");
    assert_eq!(error.code, "model_error");
    assert!(error.message.contains("`odd`"), "{}", error.message);
    let mut log = log("started; asked");
    log.called("a");
    log.ended(crate::run::event::FinishReason::Other);
    let step = decide(&spec(&json!({})), &log.state, &log.clock);
    assert_eq!(log.words(&step), "fail model_error");
}

#[test]
fn a_failed_tool_ends_the_run_only_where_it_shall() {
    let stop = || json!({"stop_on_tool_error": true});
    check("started; called 1 a b; failed a", "call b");
    check_end(stop(), "started; called 1 a b; failed a", "b cancelled; fail tool_error", None);
    let ending = ending_of(stop(), "started; called 1 a; failed a");
    assert!(ending.message.contains("`a`") && ending.message.contains("it broke"), "{ending:?}");
    assert_eq!(ending.details["tool_name"], "a");
    // An unknown tool or bad arguments are the model's error.
    check_with(stop(), "started; called 1 a; refused a", "ask demo/a 2.1");
    check_with(stop(), "started; called 1 a; returned a", "ask demo/a 2.1");
}

#[test]
fn a_failed_tools_words_are_cut_in_the_error() {
    let mut log = log("started; called 1 a");
    log.result("a", &"ß".repeat(100_000), crate::run::event::Outcome::Error);
    let config = json!({"stop_on_tool_error": true});
    let Step::Finish(ending) = decide(&spec(&config), &log.state, &log.clock) else {
        panic!("it ends")
    };
    assert!(ending.message.chars().count() < limits::ERROR_CHARS + 50);
}

#[test]
fn a_failed_model_is_asked_again_and_then_the_next() {
    let failed =
        |times: usize| format!("started{}", "; asked; broke overloaded 529 in 2".repeat(times));
    check(&failed(1), "ask demo/a 1.2 in 2 s");
    check(&failed(3), "ask demo/a 1.4 in 2 s");
    check(&failed(4), "ask demo/b 1.5 in 2 s");
    let both = format!("{}{}", failed(4), "; asked demo/b; broke cut in 1".repeat(4));
    check(&both, "fail model_error");
    // The next turn begins with the first model again.
    let recovered = format!("{}; called 1 a; returned a", failed(2));
    check(&recovered, "ask demo/a 2.1");
}

#[test]
fn failures_count_on_over_crashes_and_drains() {
    let failed = "asked; broke overloaded 529 in 1; ".repeat(3);
    let story = format!("started; {failed} asked; died 1; broke crash in 0");
    check(&story, "ask demo/a 1.5");
    let story = format!("{story}; asked; broke stalled in 1");
    check(&story, "ask demo/b 1.6 in 1 s");
    check("started; asked; drained; broke drain in 0", "ask demo/a 1.2");
}

#[test]
fn a_model_that_will_never_answer_is_asked_once() {
    for status in [401, 403, 404] {
        let story = format!("started; asked; broke provider_error {status} in 0");
        check(&story, "ask demo/b 1.2");
    }
}

#[test]
fn rule_19_the_first_failure_of_a_turn_is_told_beside_the_last() {
    // Through a gateway a wrong key comes back as a rate limit the next time.
    let story =
        "started; asked; broke provider_error 401 in 0; asked demo/b; broke rate_limited 429";
    let details = ending_of(json!({}), story).details;
    let told = (&details["first"]["status"], &details["last"]["status"]);
    assert_eq!(told, (&json!(401), &json!(429)));
    assert_eq!(
        (&details["first"]["model"], &details["last"]["model"]),
        (&json!("demo/a"), &json!("demo/b"))
    );
}

#[test]
fn the_last_failure_is_told_with_its_status_and_words() {
    let story = "started; asked; said Hel; broke provider_error 400";
    let result = check_end(json!({}), story, "fail model_error", None);
    let error = result.error.expect("it failed");
    assert!(error.message.contains("`demo/a`") && error.message.contains("it broke"));
    assert_eq!(error.details["last"]["status"], 400);
    assert!(!error.retryable, "the same request would be refused again");
    let busy = "started; asked; broke overloaded 529";
    let ending = ending_of(json!({}), busy);
    assert!(ending.retryable);
}

#[test]
fn after_a_model_error_there_is_no_output_though_turns_before_had_text() {
    let mut log = log("started; asked; said Let me look");
    log.called("a");
    log.ended(crate::run::event::FinishReason::ToolCalls);
    assert_eq!(log.state.final_output().as_deref(), Some("Let me look"));
    log.result("a", "x", crate::run::event::Outcome::Ok);
    log.asked("demo/a");
    assert_eq!(log.state.final_output(), None);
}

#[test]
fn a_cancel_ends_the_run_in_every_phase() {
    check_end(json!({}), "cancelled", "cancel", None);
    check_end(json!({}), "started; cancelled", "cancel", None);
    let talking = "started; asked; said Hel; said lo; cancelled";
    check_end(json!({}), talking, "aborted cancelled; cancel", Some("Hello"));
    check_end(json!({}), "started; asked; cancelled", "aborted cancelled; cancel", None);
    let waiting = "started; asked; said Hel; broke cut in 9; cancelled";
    check_end(json!({}), waiting, "cancel", None);
    let tools = "started; called 1 a r o b; began a; began r; began o; cancelled";
    check_end(json!({}), tools, "a unknown; r cancelled; o unknown; b cancelled; cancel", None);
    check_end(json!({}), "started; answered 1 Hello; cancelled", "cancel", Some("Hello"));
    let dead = "started; asked; died 9; run 999 s; cancelled";
    check_end(json!({}), dead, "aborted cancelled; cancel", None);
}

#[test]
fn a_cancelled_run_has_no_error_and_is_not_retryable() {
    let result = check_end(json!({}), "started; cancelled", "cancel", None);
    assert_eq!((result.error, result.stop_reason.as_str()), (None, "cancelled"));
}

#[test]
fn a_run_under_which_nodes_keep_dying_is_given_up() {
    check("started; asked; died 5; broke crash in 0", "ask demo/a 1.2");
    check_end(json!({}), "started; asked; died 6", "aborted limit; fail crash_loop", None);
    // A turn that was finished between proves that it gets on.
    check("started; died 5; called 1 a; returned a; asked; died 1", "abandon");
    assert_eq!(log("started; died 5; called 1 a").state.crashes, 0);
}

#[test]
fn a_log_that_is_nearly_full_ends_the_run_while_there_is_room() {
    let mut log = log("started; called 1 a");
    log.state.last_seq.0 = limits::LOG_EVENTS - limits::LOG_RESERVE - 1;
    let spec = spec(&json!({}));
    assert_eq!(log.words(&decide(&spec, &log.state, &log.clock)), "call a");
    log.state.last_seq.0 += 1;
    assert_eq!(log.words(&decide(&spec, &log.state, &log.clock)), "fail log_full");
    // The longest end: an aborted attempt, an answer to each call of a turn, the terminal event.
    let longest = u64::try_from(limits::CALLS_PER_TURN).expect("it is small") + 2;
    assert!(longest < limits::LOG_RESERVE);
}

#[test]
fn an_open_attempt_is_abandoned_by_whoever_takes_over() {
    check("started; asked; said Hel; died 1", "abandon");
    check("started; asked; said Hel; died 1; broke crash in 0", "ask demo/a 1.2");
}
