//! `runledger run`: what it writes where, how it ends, and what it survives.

use std::path::Path;
use std::process::Stdio;

use runledger::client::Outcome;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};

use crate::client::of;
use crate::door::Door;
use crate::service::{Service, Setup, binary};
use crate::stub::{Do, Gate, Stub, say};
use crate::waiting::{until, within};

mod ending;

/// What a process said that has ended.
#[derive(Debug)]
struct Said {
    code: i32,
    out: String,
    err: String,
}

/// `runledger run` with nothing of this machine's settings in its environment.
fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command
        .env_clear()
        .env("TMPDIR", folder)
        .env("RUST_BACKTRACE", "1")
        .arg("run")
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

async fn said(command: &mut Command) -> Said {
    let output = within("the command's end", command.output()).await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let code = output.status.code().expect("no signal ended it");
    Said { code, out: text(output.stdout), err: text(output.stderr) }
}

/// Runs it against nothing, in a folder of its own.
async fn alone(arguments: &[&str]) -> Said {
    let folder = tempfile::tempdir().unwrap();
    let said = said(&mut command(folder.path(), arguments)).await;
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert!(left.is_empty(), "its folder is gone: {left:?}");
    said
}

/// Runs it against this server.
async fn against(url: &str, arguments: &[&str]) -> Said {
    let arguments = [&["--url", url], arguments].concat();
    alone(&arguments).await
}

/// Ctrl-C.
fn interrupt(child: &Child) {
    let line = format!("kill -INT {}", child.id().unwrap());
    let sent = std::process::Command::new("sh").args(["-c", &line]).status().unwrap();
    assert!(sent.success());
}

/// One that is under way.
struct Running {
    child: Child,
    out: Lines<BufReader<ChildStdout>>,
    err: Lines<BufReader<ChildStderr>>,
    _folder: tempfile::TempDir,
}

impl Running {
    fn start(arguments: &[&str]) -> Running {
        let folder = tempfile::tempdir().unwrap();
        let mut child = command(folder.path(), arguments).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap()).lines();
        let err = BufReader::new(child.stderr.take().unwrap()).lines();
        Running { child, out, err, _folder: folder }
    }

    async fn out(&mut self) -> String {
        within("a line", self.out.next_line()).await.unwrap().expect("it goes on")
    }

    async fn err(&mut self) -> String {
        within("a line beside", self.err.next_line()).await.unwrap().expect("it goes on")
    }

    /// The run's id, which it says first.
    async fn run(&mut self) -> String {
        self.err().await.strip_prefix("run ").unwrap().to_owned()
    }

    /// Waits until SIGINT no longer ends it by itself: its bit is set among what it catches.
    async fn listens(&self) {
        let path = format!("/proc/{}/status", self.child.id().unwrap());
        let look = || async {
            let status = std::fs::read_to_string(&path).unwrap();
            let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
            let caught = u64::from_str_radix(caught.trim(), 16).unwrap();
            (caught & 0b10 != 0).then_some(())
        };
        until("its signals", look).await;
    }

    fn interrupt(&self) {
        interrupt(&self.child);
    }

    async fn end(mut self) -> Said {
        let mut said = Said { code: 0, out: String::new(), err: String::new() };
        let lines = async {
            while let Some(line) = self.out.next_line().await.unwrap() {
                said.out.push_str(&line);
                said.out.push('\n');
            }
            while let Some(line) = self.err.next_line().await.unwrap() {
                said.err.push_str(&line);
                said.err.push('\n');
            }
        };
        within("the command's output", lines).await;
        said.code = within("its end", self.child.wait()).await.unwrap().code().unwrap();
        said
    }
}

/// The data of a run's whole stream, a line each.
async fn log(service: &Service, run: &str) -> String {
    let mut stream = service.client.stream(&format!("/runs/{run}/stream"), &[]).await;
    let blocks = stream.rest().await;
    let line = |block: &crate::client::Block| {
        let (_, data) = block.lines.split_once("\ndata: ").unwrap();
        format!("{data}\n")
    };
    blocks.iter().map(line).collect()
}

#[tokio::test]
async fn a_private_run_writes_the_answer_and_leaves_nothing_behind() {
    let said = alone(&["What is 6*7?"]).await;
    let answer = "This is demo/assistant, a script and not a language model. The result is 42.\n";
    assert_eq!((said.code, said.out.as_str()), (0, answer));
    assert_eq!(said.err, "-> calculator {\"expression\":\"6*7\"}\n<- calculator 42\n");
}

#[tokio::test]
async fn only_the_tools_that_are_named_are_offered() {
    let said = alone(&["--tool", "current_time", "What is 6*7?"]).await;
    assert_eq!((said.code, said.err.as_str()), (0, ""));
    assert!(said.out.contains("Offer me the tool calculator"), "{}", said.out);
}

#[tokio::test]
async fn raw_events_are_the_log_byte_for_byte() {
    let service = Service::demo().await;
    let door = Door::open(&service.client.url).await;
    door.cut_streams_after(1000);
    let said = against(&door.url, &["--json", "What is 6*7?"]).await;
    assert_eq!((said.code, said.err.as_str()), (0, ""));
    assert!(door.cuts() > 1, "over several connections");
    let first: Value = serde_json::from_str(said.out.lines().next().unwrap()).unwrap();
    assert_eq!(said.out, log(&service, first["run_id"].as_str().unwrap()).await);
}

#[tokio::test]
async fn a_failed_run_is_code_1_with_the_code_and_the_message() {
    let stub = Stub::start().await;
    stub.on("no", |_| vec![Do::Refuse(400, &[], json!({"error": {"message": "bad"}}).to_string())]);
    let service = Service::start(&stub).await;
    for arguments in [&["--model", "openai/no", "x"][..], &["--json", "--model", "openai/no", "x"]]
    {
        let said = against(&service.client.url, arguments).await;
        assert_eq!(said.code, 1, "{said:?}");
        let last = said.err.lines().last().unwrap();
        assert!(last.starts_with("runledger: FAILED, model_error: "), "{last}");
        assert!(last.contains("bad"), "{last}");
    }
    let said = against(&service.client.url, &["--max-time", "0.3", "speak slowly"]).await;
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.err.contains("runledger: FAILED, max_time: "), "{said:?}");
    assert!(said.out.starts_with("This "), "what there is of an answer is kept: {said:?}");
}

#[tokio::test]
async fn the_client_goes_on_when_the_server_is_killed_and_started_again() {
    let stub = Stub::start().await;
    stub.on("m", |call| match call.attempt {
        1 => vec![Do::Say("one ".into()), Do::Hang],
        _ => say("one two three"),
    });
    let service = Service::start(&stub).await;
    let door = Door::open(&service.client.url).await;
    let start = |more: &[&str]| {
        Running::start(&[&["--url", &door.url, "--model", "openai/m"], more].concat())
    };
    let (mut plain, mut raw) = (start(&["plain"]), start(&["--json", "raw"]));
    let run = plain.run().await;
    service.client.event(&run, "text").await;
    let mut seen = String::new();
    while !seen.contains("\"type\":\"text\"") {
        seen.push_str(&raw.out().await);
        seen.push('\n');
    }
    let service = service.kill().await.start().await;
    door.leads_to(&service.client.url);
    let plain = plain.end().await;
    assert_eq!((plain.code, plain.out.as_str()), (0, "one two three\n"), "{plain:?}");
    assert!(plain.err.starts_with("-- the attempt failed (crash"), "{plain:?}");
    let raw = raw.end().await;
    assert_eq!((raw.code, raw.err.as_str()), (0, ""));
    seen.push_str(&raw.out);
    let first: Value = serde_json::from_str(seen.lines().next().unwrap()).unwrap();
    assert_eq!(seen, log(&service, first["run_id"].as_str().unwrap()).await);
    assert!(seen.contains("\"type\":\"turn.aborted\""), "{seen}");
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_again_and_starts_no_second_run() {
    let stub = Stub::start().await;
    stub.on("m", |_| say("once"));
    let service = Service::start(&stub).await;
    let door = Door::open(&service.client.url).await;
    door.swallow_answers(2);
    let said = against(&door.url, &["--model", "openai/m", "lost"]).await;
    assert_eq!((said.code, said.out.as_str()), (0, "once\n"), "{said:?}");
    assert_eq!(door.swallowed(), 2, "both were lost");
    assert_eq!(stub.calls("m").len(), 1);
}

#[tokio::test]
async fn no_server_is_code_3() {
    let said = against("http://127.0.0.1:1", &["x"]).await;
    assert_eq!((said.code, said.out.as_str()), (3, ""));
    assert!(said.err.starts_with("runledger: can't reach http://127.0.0.1:1: "), "{}", said.err);
    assert_eq!(said.err.lines().count(), 1);
}

#[tokio::test]
async fn a_server_that_stays_away_is_code_3_once_patience_ends() {
    let stub = Stub::start().await;
    stub.on("m", |_| vec![Do::Say("half".into()), Do::Hang]);
    let service = Service::start(&stub).await;
    let url = service.client.url.clone();
    let mut running =
        Running::start(&["--url", &url, "--patience", "0.3", "--model", "openai/m", "x"]);
    let run = running.run().await;
    service.client.event(&run, "text").await;
    service.kill().await;
    let said = running.end().await;
    assert_eq!((said.code, said.out.as_str()), (3, ""), "{said:?}");
    assert!(said.err.starts_with(&format!("runledger: can't reach {url}: ")), "{said:?}");
    assert!(said.err.ends_with(&format!("run {run} may go on without us\n")), "{said:?}");
}

#[tokio::test]
async fn what_the_server_refuses_is_code_2_with_every_mistake() {
    let said = alone(&["--model", "nobody/x", "--max-time", "0", "x"]).await;
    assert_eq!((said.code, said.out.as_str()), (2, ""));
    let lines: Vec<&str> = said.err.lines().collect();
    assert_eq!(lines[0], "runledger: the server refuses the request:");
    for pointer in ["  /agent/model: ", "  /config/max_time: "] {
        assert!(lines[1..].iter().any(|line| line.starts_with(pointer)), "{}", said.err);
    }
}

#[tokio::test]
async fn wrong_usage_is_code_2_and_says_what_would_be_right() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("list.json"), "[1]").unwrap();
    std::fs::write(folder.path().join("half.json"), "{").unwrap();
    for (arguments, part) in [
        (&["--agent", "absent.json", "x"][..], "can't read absent.json"),
        (&["--agent", "list.json", "x"], "list.json is no agent: it must be a JSON object"),
        (&["--agent", "half.json", "x"], "half.json is no agent: EOF"),
        (&["--agent", "-"], "can't be both"),
        (&["--var", "novalue", "x"], "give KEY=VALUE"),
        (&["--url", "nowhere", "x"], "is no URL of a server; give e.g. http://127.0.0.1:8080"),
        (&["--url", "http://127.0.0.1:1", "--api-key", "a b", "x"], "visible ASCII"),
        (&["--patience=-1", "x"], "give seconds from 0 to 86400"),
        (&["--tool", "calculator", "--agent", "half.json", "x"], "cannot be used with"),
    ] {
        let said = said(&mut command(folder.path(), arguments)).await;
        assert_eq!((said.code, said.out.as_str()), (2, ""), "{arguments:?} {said:?}");
        assert!(said.err.contains(part), "{part} in {}", said.err);
    }
    let wrong = said(command(folder.path(), &["x"]).env("RUNLEDGER_SLOTS", "none")).await;
    assert_eq!(wrong.code, 2);
    assert!(wrong.err.contains("RUNLEDGER_SLOTS"), "{}", wrong.err);
}

#[tokio::test]
async fn a_private_service_that_can_not_start_is_code_1() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = command(folder.path(), &["x"]);
    let said = said(command.env("TMPDIR", folder.path().join("absent"))).await;
    assert_eq!((said.code, said.out.as_str()), (1, ""));
    assert!(said.err.starts_with("runledger: can't make the folder "), "{said:?}");
    assert_eq!(said.err.lines().count(), 1);
}

async fn fed(mut command: Command, text: &[u8]) -> Said {
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let mut to = child.stdin.take().unwrap();
    to.write_all(text).await.unwrap();
    drop(to);
    let output = within("the command's end", child.wait_with_output()).await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Said { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
}

#[tokio::test]
async fn agent_input_and_variables_arrive_as_they_were_given() {
    let stub = Stub::start().await;
    let service = Service::start(&stub).await;
    let folder = tempfile::tempdir().unwrap();
    let agent = json!({"instructions": "You help {{user}}.", "model": "openai/other"});
    let path = folder.path().join("agent.json");
    std::fs::write(&path, agent.to_string()).unwrap();
    let url = service.client.url.as_str();
    let path = path.to_str().unwrap();
    let base = ["--url", url, "--model", "openai/m", "--var", "user=A=b"];
    let with = |more: &[&str]| command(folder.path(), &[&base[..], more].concat());

    let first = fed(with(&["--agent", path]), b"two\nlines\n").await;
    let second = fed(with(&["--agent", path, "-"]), b"two\nlines").await;
    let third = fed(with(&["--agent", "-", "two\nlines"]), agent.to_string().as_bytes()).await;
    for said in [first, second, third] {
        assert_eq!((said.code, said.out.as_str()), (0, "Hello.\n"), "{said:?}");
    }
    let calls = stub.calls("m");
    assert_eq!(calls.len(), 3);
    for call in calls {
        assert_eq!(call.input, "two\nlines");
        let messages = call.request["messages"].as_array().unwrap();
        assert!(messages[0]["content"].as_str().unwrap().contains("You help A=b."), "{messages:?}");
    }
    let no_text = fed(with(&[]), b"\xff").await;
    assert_eq!(no_text.code, 2);
    assert!(no_text.err.contains("standard input is not UTF-8"), "{no_text:?}");
}

#[tokio::test]
async fn a_key_comes_from_the_environment_or_a_flag() {
    let stub = Stub::start().await;
    let setup = Setup { key: Some("alpha".into()), ..Setup::default() };
    let setup = setup.env("RUNLEDGER_API_KEYS", "alpha").env("RUNLEDGER_DEFAULT_MODEL", "openai/m");
    let service = Service::start_with(&stub, setup).await;
    let url = service.client.url.clone();
    let without = against(&url, &["x"]).await;
    assert_eq!(without.code, 2);
    assert!(without.err.contains("Authorization: Bearer"), "{without:?}");
    assert_eq!(against(&url, &["--api-key", "alpha", "x"]).await.code, 0);
    let folder = tempfile::tempdir().unwrap();
    let mut by_env = command(folder.path(), &["x"]);
    by_env.env("RUNLEDGER_URL", &url).env("RUNLEDGER_API_KEY", "alpha");
    assert_eq!(said(&mut by_env).await.code, 0);
    let mut help = command(folder.path(), &["--help"]);
    let help = said(help.env("RUNLEDGER_API_KEY", "hunter2")).await;
    assert!(!help.out.contains("hunter2"), "{}", help.out);
}

#[tokio::test]
async fn help_tells_every_exit_code() {
    let help = alone(&["--help"]).await;
    let all = [
        Outcome::Completed,
        Outcome::Failed,
        Outcome::Refused,
        Outcome::Unreachable,
        Outcome::Cancelled,
        Outcome::Unread,
    ];
    for code in all.map(Outcome::code) {
        assert!(help.out.contains(&format!("\n  {code:<4} ")), "{code} in {}", help.out);
    }
}

#[tokio::test]
async fn a_proxy_is_not_asked_for_this_machine() {
    let service = Service::demo().await;
    let folder = tempfile::tempdir().unwrap();
    for arguments in [&["hello"][..], &["--url", &service.client.url, "hello"]] {
        let mut command = command(folder.path(), arguments);
        command.env("HTTP_PROXY", "http://127.0.0.1:1").env("ALL_PROXY", "http://127.0.0.1:1");
        let said = said(&mut command).await;
        assert_eq!(said.code, 0, "{said:?}");
    }
}

/// On a terminal of its own, which `script` plays.
async fn on_a_terminal(env: &[(&str, &str)], arguments: &[&str]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let quoted: Vec<String> = arguments.iter().map(|word| format!("'{word}'")).collect();
    let line = format!("'{}' run {}", binary().display(), quoted.join(" "));
    let mut command = Command::new("script");
    command.args(["-qec", &line, "/dev/null"]).env("TERM", "xterm");
    command.env_remove("NO_COLOR").envs(env.iter().copied());
    command.env("TMPDIR", folder.path()).current_dir(folder.path());
    let output = within("script", command.stdin(Stdio::null()).output()).await;
    String::from_utf8(output.expect("`make setup` installs script").stdout).unwrap()
}

#[tokio::test]
async fn on_a_terminal_text_comes_at_once_and_void_text_is_called_void() {
    let stub = Stub::start().await;
    let gate = Gate::new();
    let opened = gate.clone();
    stub.on("m", move |call| match call.attempt {
        1 => vec![Do::Say("wrong".into()), Do::Wait(opened.clone()), Do::Cut],
        _ => say("right"),
    });
    let service = Service::start(&stub).await;
    let arguments = ["--url", &service.client.url, "--model", "openai/m", "x"];
    let shown = async {
        stub.called("m", 1).await;
        gate.open();
    };
    let (plain, ()) = tokio::join!(on_a_terminal(&[("NO_COLOR", "1")], &arguments), shown);
    let places = ["run ", "wrong\r\n", "-- void: ", "right\r\n"].map(|part| plain.find(part));
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{places:?} in {plain:?}");
    assert!(plain.contains("\r\u{1b}[2Kwaiting for openai/m ..."), "{plain:?}");
    assert!(!plain.contains("\u{1b}[31m"), "{plain:?}");
    let coloured = on_a_terminal(&[], &["--url", &service.client.url, "What is 6*7?"]).await;
    assert!(coloured.contains("\u{1b}[2m<- calculator 42\u{1b}[0m"), "{coloured:?}");
}

#[tokio::test]
async fn the_log_of_a_private_run_says_which_key_made_it() {
    let said = alone(&["--json", "hello"]).await;
    let log: Vec<Value> =
        said.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(of(&log, "run.queued")[0]["by"], "key:static-1", "nobody else can use it");
}
