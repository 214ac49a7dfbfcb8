//! Logs of every release fold to what they folded to when they were written, byte for byte.

use std::fs;
use std::path::{Path, PathBuf};

use runledger::run::{Body, Clock, Draft, Event, Seq, Spec, State, Status, decide};
use serde_json::{Value, json};

/// A stored log with what belongs to it.
struct Log {
    path: PathBuf,
    lines: Vec<String>,
    events: Vec<Event>,
    spec: Spec,
}

fn logs() -> Vec<Log> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/logs");
    let folder = |path: &Path| -> Vec<PathBuf> {
        let entries = fs::read_dir(path).expect("the folder can be read");
        let mut paths: Vec<PathBuf> =
            entries.map(|entry| entry.expect("an entry can be read").path()).collect();
        paths.sort();
        paths
    };
    let releases = folder(&root).into_iter().filter(|path| path.is_dir());
    let logs: Vec<Log> = releases
        .flat_map(|release| folder(&release))
        .filter(|path| path.extension().is_some_and(|extension| extension == "jsonl"))
        .map(read)
        .collect();
    assert!(!logs.is_empty(), "the logs are where they belong");
    logs
}

fn read(path: PathBuf) -> Log {
    let text = fs::read_to_string(&path).expect("a log can be read");
    // Not `lines()`: it also ends a line at what is no line feed.
    let lines: Vec<String> = text.trim_end_matches('\n').split('\n').map(str::to_owned).collect();
    let events = lines
        .iter()
        .map(|line| match serde_json::from_str(line) {
            Ok(event) => event,
            Err(error) => panic!("{}: {error} in {line}", path.display()),
        })
        .collect();
    let spec = fs::read_to_string(path.with_extension("spec.json")).expect("its spec is beside it");
    let spec = serde_json::from_str(&spec).expect("its spec can be read");
    Log { path, lines, events, spec }
}

/// What a fold comes to, as far as it is promised for ever.
fn told(spec: &Spec, state: &State) -> Value {
    let open: Vec<&str> = state.open_calls().map(|call| call.call_id.0.as_str()).collect();
    json!({
        "status": state.status,
        "stop_reason": state.result.as_ref().map(|result| &result.stop_reason),
        "error": state.result.as_ref().and_then(|result| result.error.as_ref()),
        "turn_count": state.turn_count(),
        "final_output": state.final_output(),
        "history": state.history(spec),
        "variables": state.variables(spec),
        "open_calls": open,
        "usage": state.usage,
        "last_item": state.last_item,
        "started_at": state.started_at,
        "finished_at": state.finished_at,
    })
}

/// What a prefix comes to, in a line.
fn told_briefly(state: &State) -> String {
    let attempt = match &state.open {
        None => String::new(),
        Some(open) => format!(", {} bytes of {}", open.text.len(), open.model),
    };
    let tokens = state.usage.total_tokens.map_or("?".to_owned(), |tokens| tokens.to_string());
    format!(
        "{} {} {}.{}: {} turns, {} failures, {} crashes, {} items, {} calls open, \
         {tokens} tokens{attempt}",
        state.last_seq,
        state.status.name(),
        state.turn,
        state.attempt,
        state.turn_count(),
        state.failures.len(),
        state.crashes,
        state.last_item,
        state.open_calls().count(),
    )
}

fn fold_of(log: &Log) -> Value {
    let mut state = State::default();
    let mut prefixes = Vec::new();
    for event in &log.events {
        state.apply(event);
        prefixes.push(told_briefly(&state));
    }
    json!({"fold": told(&log.spec, &state), "prefixes": prefixes})
}

#[test]
fn every_log_and_every_prefix_folds_to_what_it_always_has() {
    let mut recorded = Vec::new();
    for log in logs() {
        let path = log.path.with_extension("fold.json");
        let folded = fold_of(&log);
        if !path.exists() {
            let text = serde_json::to_string_pretty(&folded).expect("plain data");
            fs::write(&path, text + "\n").expect("a fold can be written");
            recorded.push(path);
            continue;
        }
        let text = fs::read_to_string(&path).expect("a fold can be read");
        let expected: Value = serde_json::from_str(&text).expect("a fold is JSON");
        assert_eq!(folded, expected, "{}", log.path.display());
    }
    assert!(recorded.is_empty(), "new logs have their folds now; read and commit {recorded:?}");
}

#[test]
fn every_event_is_written_again_as_it_was_stored() {
    for log in logs() {
        for (line, event) in log.lines.iter().zip(&log.events) {
            let Event { seq, at, turn, attempt, body } = event.clone();
            let rest = Draft { turn, attempt, body }.to_text();
            // A later release may add fields, never change those that are there.
            let written = format!(r#"{{"seq":{seq},"at":"{at}",{rest}"#);
            assert_eq!(&written, line, "{}", log.path.display());
        }
    }
}

#[test]
fn logs_have_no_gaps_and_end_at_their_terminal_event() {
    for log in logs() {
        let (last, before) = log.events.split_last().expect("a log has events");
        assert!(matches!(log.events[0].body, Body::RunQueued { .. }));
        for (seq, event) in (1..).map(Seq).zip(&log.events) {
            assert_eq!(event.seq, seq, "{}", log.path.display());
        }
        assert!(before.iter().all(|event| !event.body.is_terminal()));
        let status = State::fold(&log.events).status;
        assert_eq!(last.body.is_terminal(), status.is_terminal());
    }
}

#[test]
fn every_prefix_of_every_log_can_be_gone_on_from() {
    for log in logs() {
        let mut state = State::default();
        for event in &log.events {
            state.apply(event);
            let step = decide(&log.spec, &state, &Clock::default());
            let stops = step == runledger::run::Step::Stop;
            assert_eq!(stops, state.status.is_terminal(), "{}", log.path.display());
        }
    }
}

#[test]
fn the_logs_of_this_release_have_every_type_that_it_writes() {
    let logs = logs();
    let has = |name: &str| logs.iter().flat_map(|log| &log.events).any(|e| e.body.name() == name);
    for name in runledger::run::event::KINDS {
        assert!(has(name), "no log has `{name}`");
    }
    let ends = |status: Status| logs.iter().any(|log| State::fold(&log.events).status == status);
    for status in [Status::Running, Status::Completed, Status::Failed, Status::Cancelled] {
        assert!(ends(status), "no log ends {status:?}");
    }
}
