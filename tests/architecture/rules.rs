//! The rules over the source's text, and a planted sin for each.

use std::fs;
use std::path::PathBuf;

use super::source::{self, Token};

/// A room of `src/` and what of ours it may name beside itself: a room, or one thing of a room.
/// Rooms that have no files yet stand here so that their place is known.
const ROOMS: &[(&str, &[&str])] = &[
    ("run", &[]),
    // docs/adr/0015: the named steps at which a test ends the process.
    ("failpoint", &[]),
    ("projection", &["run"]),
    ("model", &["run"]),
    ("tool", &["run"]),
    ("store", &["run", "failpoint"]),
    ("hub", &["run", "store"]),
    ("journal", &["run", "store", "hub", "failpoint"]),
    ("admission", &["run", "store"]),
    ("outbox", &["run", "store", "tool::guard"]),
    ("worker", &["run", "journal", "store", "model", "tool", "admission", "failpoint"]),
    // docs/adr/0006: a key stays hidden up to the place that compares it.
    (
        "api",
        &[
            "run",
            "projection",
            "journal",
            "store",
            "hub",
            "admission",
            "failpoint",
            "config::Secret",
        ],
    ),
    ("client", &["run", "model::sse_decoder"]),
    // docs/adr/0006: a setting is parsed to the type that it sets.
    ("config", &["run", "telemetry::LogFormat"]),
    ("telemetry", &["run"]),
    ("app", &["*"]),
    ("main", &["app", "client", "config", "telemetry"]),
];

/// Rooms that know nothing of the world.
const PURE: &[&str] = &["run", "projection"];

/// Who may name an outside crate.
#[derive(Clone, Copy)]
enum Who {
    /// Every room.
    All,
    /// Every room but the pure ones.
    Impure,
    /// These rooms.
    Only(&'static [&'static str]),
}
use Who::{All, Impure, Only};

/// Every dependency has a row: a new one begins with the question of who may know of it.
const OUTSIDE: &[(&str, Who)] = &[
    ("serde", All),
    ("serde_json", All),
    ("thiserror", All),
    ("uuid", All),
    ("bytes", Impure),
    ("futures_util", Impure),
    ("jiff", Impure),
    ("metrics", Impure),
    ("sha2", Impure),
    ("tokio", Impure),
    ("tokio_util", Impure),
    ("tracing", Impure),
    ("sqlx", Only(&["store"])),
    ("axum", Only(&["api"])),
    // docs/adr/0006: `store` tells the operator why it can't open.
    ("anyhow", Only(&["main", "app", "store"])),
    ("http_body_util", Only(&["api"])),
    ("hyper", Only(&["api"])),
    ("hyper_util", Only(&["api"])),
    ("socket2", Only(&["api"])),
    ("subtle", Only(&["api"])),
    ("hmac", Only(&["api"])),
    ("base64", Only(&["api"])),
    ("tower", Only(&["api"])),
    ("tower_http", Only(&["api"])),
    // docs/adr/0006: `config` checks URLs and headers with the types that will be sent.
    ("reqwest", Only(&["model", "tool", "outbox", "client", "config", "app"])),
    ("rustls", Only(&["model", "tool"])),
    // docs/adr/0010: a lease is counted by the clock that goes on while the machine sleeps.
    ("rustix", Only(&["main", "admission"])),
    ("webpki_root_certs", Only(&["model", "tool"])),
    // docs/adr/0008: the core checks a tool's URL and schema with the code that will read them.
    ("jsonschema", Only(&["run"])),
    ("url", Only(&["run", "tool"])),
    ("ipnet", Only(&["config", "tool", "app"])),
    ("clap", Only(&["config", "main"])),
    ("toml", Only(&["config"])),
    ("tracing_subscriber", Only(&["config", "telemetry"])),
    ("metrics_exporter_prometheus", Only(&["telemetry", "app", "api"])),
    ("mimalloc", Only(&["main"])),
    ("fail", Only(&["failpoint"])),
];

/// Calls that only one room makes of another, as the code writes them; caller and called.
const ONE_DOOR: &[(&[&str], [&str; 2], &str)] = &[
    (&["store", ".", "create", "("], ["journal", "store"], "only the journal writes events"),
    (&["store", ".", "create_batch", "("], ["journal", "store"], "only the journal writes events"),
    (&["store", ".", "append", "("], ["journal", "store"], "only the journal writes events"),
    (&["hub", ".", "advance", "("], ["journal", "hub"], "the hub advances after a commit"),
];

/// Where a task may be spawned by hand: the store joins each write at once, so that no caller can
/// drop it half-way. Everywhere else a `JoinSet` or a `TaskTracker` owns its tasks.
const SPAWNS: &[&str] =
    &["src/store/sqlite/mod.rs", "src/store/postgres/edge.rs", "src/store/memory/mod.rs"];

/// A file is read in one sitting.
const FILE_LINES_MAX: usize = 500;

/// A function is seen at one glance.
const FUNCTION_LINES_MAX: usize = 70;

/// Longer functions that are lists, of parts or of events: cut in two, they would only be harder to
/// read.
const LISTS: &[(&str, &str)] = &[("src/run/state.rs", "apply_turn")];

/// Everything that is wrong with one file, `path` from the project's root.
fn sins(path: &str, text: &str) -> Vec<String> {
    let tokens = source::tokens(text);
    let mut found = form(path, text, &tokens);
    found.extend(habits(path, &tokens));
    // A room's tests play its neighbours.
    if let Some(inside) = path.strip_prefix("src/").filter(|_| !is_test_file(path)) {
        found.extend(imports(inside, &tokens));
    }
    found.into_iter().map(|sin| format!("{path}: {sin}")).collect()
}

fn form(path: &str, text: &str, tokens: &[Token<'_>]) -> Vec<String> {
    let mut found = Vec::new();
    for pair in [["{", "}"], ["(", ")"], ["[", "]"]] {
        let [open, close] = pair.map(|sign| tokens.iter().filter(|t| t.text == sign).count());
        if open != close {
            found.push(format!("can't be read here: {open} `{}`, {close} `{}`", pair[0], pair[1]));
        }
    }
    if !text.starts_with("//! ") {
        found.push("a file opens with `//!` and what it is for".to_owned());
    }
    let lines = text.lines().count();
    if lines > FILE_LINES_MAX {
        found.push(format!("has {lines} lines, at most {FILE_LINES_MAX}"));
    }
    for function in source::functions(tokens) {
        let is_list = LISTS.contains(&(path, function.name));
        if function.lines > FUNCTION_LINES_MAX && !is_list {
            let (name, lines) = (function.name, function.lines);
            found.push(format!("`{name}` has {lines} lines, at most {FUNCTION_LINES_MAX}"));
        }
    }
    found
}

fn is_test_file(path: &str) -> bool {
    !path.starts_with("src/") || path.ends_with("/tests.rs") || path.contains("/tests/")
}

fn habits(path: &str, tokens: &[Token<'_>]) -> Vec<String> {
    let mut found = Vec::new();
    let is_test_file = is_test_file(path);
    let mut refuse = |line: usize, why: &str| found.push(format!("line {line}: {why}"));
    for three in tokens.windows(3) {
        let [before, word, behind] = [three[0].text, three[1].text, three[2].text];
        if ["[", ","].contains(&before) && word == "allow" && behind == "(" {
            refuse(three[1].line, "`allow`: say `#[expect(…, reason)]`");
        }
        if ["unbounded_channel", "UnboundedSender"].contains(&word) {
            refuse(three[1].line, "every channel has a bound");
        }
    }
    if let Some(line) = source::find(tokens, &[".", "unwrap", "("]).filter(|_| !is_test_file) {
        refuse(line, "`unwrap`: say with `expect` why it can't happen");
    }
    for path_in in source::paths(tokens) {
        let is_test = is_test_file || path_in.is_test;
        if path_in.segments.windows(2).any(|pair| pair == ["super", "super"]) {
            refuse(path_in.line, "`super::super`: name it from `crate`");
        }
        let is_spawn = matches!(path_in.segments.as_slice(),
            ["tokio" | "task" | "thread" | "std", .., last]
                if ["spawn", "spawn_blocking", "spawn_local"].contains(last));
        if is_spawn && !is_test && !SPAWNS.contains(&path) {
            refuse(path_in.line, "spawns a task that nobody joins");
        }
    }
    found
}

fn imports(inside: &str, tokens: &[Token<'_>]) -> Vec<String> {
    let file = inside.strip_suffix(".rs").unwrap_or(inside);
    if file == "lib" {
        return Vec::new();
    }
    let room = file.split('/').next().unwrap_or_default();
    let Some((_, may)) = ROOMS.iter().find(|(name, _)| *name == room) else {
        return vec![format!("stands in no known room: `{room}`")];
    };
    let is_root = file == room || file == format!("{room}/mod");
    let mut found = Vec::new();
    for path in source::paths(tokens) {
        let refuse = |why: String| format!("line {}: {why}", path.line);
        match path.segments.as_slice() {
            // The binary is a crate of its own.
            ["crate", ..] if room == "main" => {}
            ["crate" | "runledger", ours @ ..] if !is_allowed(room, may, ours) => {
                found.push(refuse(format!("{room} may not name {}", ours.join("::"))));
            }
            ["super", ..] if is_root && !path.is_test => {
                found.push(refuse("`super` is the crate here: name it from `crate`".to_owned()));
            }
            [outside, ..] if is_refused(room, outside) => {
                found.push(refuse(format!("{room} may not name the crate {outside}")));
            }
            _ => {}
        }
    }
    for (call, rooms, why) in ONE_DOOR {
        if let Some(line) = source::find(tokens, call).filter(|_| !rooms.contains(&room)) {
            found.push(format!("line {line}: {why}"));
        }
    }
    found
}

fn is_allowed(room: &str, may: &[&str], ours: &[&str]) -> bool {
    ours.first() == Some(&room)
        || may.iter().any(|one| {
            let one: Vec<&str> = one.split("::").collect();
            one == ["*"] || ours.starts_with(&one)
        })
}

fn is_refused(room: &str, outside: &str) -> bool {
    match OUTSIDE.iter().find(|(name, _)| *name == outside) {
        None | Some((_, All)) => false,
        Some((_, Impure)) => PURE.contains(&room),
        Some((_, Only(rooms))) => !rooms.contains(&room),
    }
}

/// Where the project is.
pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file of these folders: its path from the root, and its text.
pub(crate) fn files(folders: &[&str]) -> Vec<(String, String)> {
    let mut open: Vec<PathBuf> = folders.iter().map(|folder| root().join(folder)).collect();
    let mut found = Vec::new();
    while let Some(path) = open.pop() {
        if path.is_dir() {
            let entries = fs::read_dir(&path).expect("a folder of the project can be read");
            open.extend(entries.map(|entry| entry.expect("so can its entries").path()));
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            let text = fs::read_to_string(&path).expect("source is UTF-8");
            let inside = path.strip_prefix(root()).expect("it stands in the project");
            found.push((inside.display().to_string(), text));
        }
    }
    found.sort();
    found
}

#[test]
fn every_file_keeps_the_rules() {
    let files = files(&["src", "tests", "bench"]);
    assert!(files.len() > 60, "only {} files were looked at", files.len());
    let found: Vec<String> = files.iter().flat_map(|(path, text)| sins(path, text)).collect();
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

#[test]
fn every_dependency_has_a_row_and_every_row_is_a_dependency() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("it is there");
    let manifest: toml::Table = manifest.parse().expect("cargo has read it");
    let mut have: Vec<String> = manifest["dependencies"]
        .as_table()
        .expect("it is a table")
        .keys()
        .map(|name| name.replace('-', "_"))
        .collect();
    let mut rows: Vec<String> = OUTSIDE.iter().map(|(name, _)| (*name).to_owned()).collect();
    have.sort();
    rows.sort();
    assert_eq!(have, rows);
}

/// Finds exactly these sins, each by a part of its words, in a file that is sound but for `code`.
#[track_caller]
fn check(path: &str, code: &str, expected: &[&str]) {
    let found = sins(path, &format!("//! A planted file.\n{code}\n"));
    let all = found.iter().zip(expected).all(|(sin, part)| sin.contains(part));
    assert!(all && found.len() == expected.len(), "{code}\n{found:#?}\nexpected {expected:?}");
}

#[test]
fn a_forbidden_import_is_found_however_it_is_written() {
    let refused = &["run may not name api"][..];
    check("src/run/x.rs", "use crate::api;", refused);
    check("src/run/x.rs", "use crate::{api, run};", refused);
    check("src/run/x.rs", "use crate::{run::{self, Seq}, api::{problem}};", refused);
    check("src/run/x.rs", "use crate :: /* why */ api::Problem as P;", refused);
    check("src/run/x.rs", "fn f() { let _ = crate::api::problem::x(); }", refused);
    check("src/run/x.rs", "fn f() { g(&crate::api::X, || runledger::api::Y) }", &refused.repeat(2));
    check("src/run/x.rs", "macro_rules! m { () => { $crate::api::x() } }", refused);
    check("src/run/x.rs", "#[cfg(test)]\nmod tests { use crate::api::x; }", refused);
    check("src/run/x.rs", "pub(in crate::api) fn f() {}", refused);
    check("src/main.rs", "use runledger::run::Seq;", &["main may not name run::Seq"]);
    check("src/worker/x.rs", "use crate::{api, hub::Hub};", &["name api", "name hub::Hub"]);
    check("src/run/x.rs", "use crate::*;", &["run may not name *"]);
    check("src/run/x.rs", "use crate as c;", &["run may not name"]);
    check("src/run/mod.rs", "use super::api;", &["`super` is the crate here"]);
    check("src/run.rs", "fn f() { super::api::x() }", &["`super` is the crate here"]);
    check("src/api/x.rs", "use crate::config::{Config, Secret};", &["name config::Config"]);
    check("src/api/x.rs", "use crate::config;", &["api may not name config"]);
}

#[test]
fn a_forbidden_crate_is_found_however_it_is_written() {
    let refused = &["store may not name the crate axum"][..];
    check("src/store/x.rs", "use axum::Router;", refused);
    check("src/store/x.rs", "use axum;", refused);
    check("src/store/x.rs", "extern crate axum;", refused);
    check("src/store/x.rs", "use {axum::Router, sqlx::Row};", refused);
    check("src/store/x.rs", "fn f(_: ::axum::Router<axum::A>) {}", &refused.repeat(2));
    check("src/store/x.rs", "#[axum::debug_handler]\nfn f() {}", refused);
    check("src/api/x.rs", "use sqlx::Row;", &["api may not name the crate sqlx"]);
    check("src/run/x.rs", "use tokio::sync::mpsc;", &["run may not name the crate tokio"]);
    check("src/run/x.rs", "fn f() { tracing::info!(\"\") }", &["the crate tracing"]);
    check("src/hub/x.rs", "use reqwest::Url;", &["hub may not name the crate reqwest"]);
}

#[test]
fn what_the_table_allows_passes() {
    check("src/worker/x.rs", "use crate::{journal::Pen, run::Seq, worker::Pool};", &[]);
    check("src/api/x.rs", "use crate::config::Secret;\nuse axum::{Json, Router};", &[]);
    check("src/store/x.rs", "use sqlx::Row;\npub(in crate::store) fn f() {}", &[]);
    check("src/run/x.rs", "use super::Seq;\nuse serde::Serialize;", &[]);
    check("src/run/mod.rs", "#[cfg(test)]\nmod tests { use super::*; }", &[]);
    check("src/app.rs", "use crate::{api, worker};", &[]);
    check("src/main.rs", "use crate::Cli;\nuse runledger::app;", &[]);
    let words = "// crate::api::x\n/* /* axum::x */ sqlx::y */\n\
        fn f<'a>(_: &'a str) -> (char, char) { g(\"crate::api \\\" axum::x\", r#\"\"sqlx::x\"#); \
        ('\"', '\\'') }";
    check("src/run/x.rs", words, &[]);
    check("src/run/x.rs", "fn f() { state.axum(); health::sqlx::x() }", &[]);
}

#[test]
fn a_file_in_no_room_is_found() {
    check("src/utils.rs", "", &["no known room: `utils`"]);
    check("src/helpers/mod.rs", "use crate::api;", &["no known room: `helpers`"]);
    check("tests/anything.rs", "use runledger::api;", &[]);
}

#[test]
fn a_bad_form_is_found() {
    for headless in ["use crate::run;\n", "// A comment.\n", "\n//! Too late.\n", ""] {
        let found = sins("src/hub/x.rs", headless);
        assert_eq!(found, ["src/hub/x.rs: a file opens with `//!` and what it is for"]);
    }
    check("src/hub/x.rs", &"\n".repeat(FILE_LINES_MAX - 2), &[]);
    check("src/hub/x.rs", &"\n".repeat(FILE_LINES_MAX - 1), &["has 501 lines, at most 500"]);
    check("tests/x.rs", &"\n".repeat(FILE_LINES_MAX - 1), &["has 501 lines"]);
    let long = |lines: usize| {
        format!("fn short() {{}}\nfn f<T: G<[u8; 2]>>() {{\n{}}}", "g();\n".repeat(lines - 2))
    };
    check("src/hub/x.rs", &long(FUNCTION_LINES_MAX), &[]);
    check("src/hub/x.rs", &long(FUNCTION_LINES_MAX + 1), &["`f` has 71 lines, at most 70"]);
}

#[test]
fn source_that_is_not_understood_is_told() {
    check("src/hub/x.rs", "fn f() { g(\"}\", '}', r#\"\"}\"#, b'{') /* } */ } // }", &[]);
    check("src/hub/x.rs", "fn f() { { }", &["2 `{`, 1 `}`"]);
}

#[test]
fn a_bad_habit_is_found() {
    let path = "src/hub/x.rs";
    let found = |code: &str, part: &str| check(path, code, &[part]);
    found("#[allow(dead_code)]\nfn f() {}", "say `#[expect(…, reason)]`");
    found("#![allow(clippy::all)]", "say `#[expect(…, reason)]`");
    found("#[cfg_attr(test, allow(dead_code))]\nfn f() {}", "say `#[expect(…, reason)]`");
    found("fn f() { tokio::sync::mpsc::unbounded_channel(); }", "every channel has a bound");
    found("fn f() { g().unwrap(); }", "say with `expect` why it can't happen");
    found("fn f() { super::super::g(); }", "name it from `crate`");
    found("use super::super::g;", "name it from `crate`");
    for spawn in ["tokio::spawn(g())", "std::thread::spawn(g)", "tokio::task::spawn_blocking(g)"] {
        found(&format!("fn f() {{ {spawn}; }}"), "spawns a task that nobody joins");
    }
    found("use tokio::task::spawn;", "spawns a task that nobody joins");
    let test = "#[cfg(test)]\nmod tests { fn f() { g().unwrap(); tokio::spawn(h()); } }";
    check(path, test, &[]);
    check("src/hub/tests.rs", "fn f() { g().unwrap(); tokio::spawn(h()); }", &[]);
    check(path, "fn f() { tasks.spawn(g()); x.unwrap_or(1); allow(1); }", &[]);
    check(path, &format!("{test}\nfn f() {{ g().unwrap(); }}"), &["say with `expect`"]);
}

#[test]
fn a_second_door_is_found() {
    let append = "async fn f(self) { self.store.append(node, batch).await }";
    check("src/worker/x.rs", append, &["only the journal writes events"]);
    check("src/journal/x.rs", append, &[]);
    check("src/api/x.rs", "fn f() { api.hub.advance([]) }", &["the hub advances after a commit"]);
    check("src/worker/x.rs", "fn f() { self.pen.append(drafts) }", &[]);
}
