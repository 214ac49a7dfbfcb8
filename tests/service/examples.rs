//! The files of `examples/`, run as their readers would run them, over a door that cuts streams.

use std::path::PathBuf;
use std::process::Stdio;

use axum::Router;
use axum::extract::State;
use axum::response::Html;
use axum::routing::{get, post};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::door::Door;
use crate::service::{Service, Setup};
use crate::stub::{Do, Stub, calculate, say};
use crate::waiting::within;

/// After so many bytes of events a stream is cut: several times in each run.
const CUT_AFTER: usize = 2500;

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples").join(name)
}

/// What a program writes that must end well.
async fn output(program: &str, name: &str, url: &str) -> String {
    let mut command = Command::new(program);
    command.arg(file(name)).env("RUNLEDGER_URL", url).env_remove("RUNLEDGER_API_KEY");
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = within(name, command.output()).await;
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}; run `make setup`"));
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let (out, err) = (text(output.stdout), text(output.stderr));
    assert!(output.status.success(), "{name}: {}\n{out}\n{err}", output.status);
    out
}

/// What the two Runners say, in whichever language.
const RUNNER: &str = r#"run_sync: This is demo/assistant, a script and not a language model. The result is 42.
run_async: This is demo/assistant, a script and not a language model. The result is 5.
run_stream: tool_call calculator 6*7
run_stream: tool_result 42
run_stream: text This is demo/assistant, a script and not a language model. The result is 42.
RunConfig: max_turns 5 metadata {"user_id": "123"}
RunContext: variables {"user": "Alice"} history 4
RunResult: COMPLETED turns 2 tool_calls 1
conversation: 8 messages: This is demo/assistant, a script and not a language model. The result is 84.
gather: This is demo/assistant, a script and not a language model. The result is 4.
gather: This is demo/assistant, a script and not a language model. The result is 9.
gather: This is demo/assistant, a script and not a language model. The result is 16.
TimeoutError: max_time
AgentError: max_turns
AgentError: unknown_model
"#;

#[tokio::test]
async fn the_runners_of_python_and_node_work_also_where_answers_and_streams_break_off() {
    let service = Service::demo().await;
    let works = async |program: &str, name: &str| {
        let door = Door::open(&service.client.url).await;
        door.swallow_answers(2);
        door.cut_streams_after(CUT_AFTER);
        assert_eq!(output(program, name, &door.url).await, RUNNER, "{name}");
        assert_eq!(door.swallowed(), 2, "{name}: answers were lost");
        assert!(door.cuts() > 1, "{name}: streams were cut");
    };
    tokio::join!(works("python3", "runner.py"), works("node", "runner.mjs"));
}

#[tokio::test]
async fn the_curl_lines_work() {
    let service = Service::demo().await;
    let out = output("sh", "runner.sh", &service.client.url).await;
    let part = |title: &str| {
        let part = out.split("# ").find(|part| part.starts_with(title));
        part.unwrap_or_else(|| panic!("{title} in {out}"))
    };
    let runs = |title: &str| -> Vec<Value> {
        let lines = part(title).lines().filter(|line| line.starts_with('{'));
        lines.map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let answer = "This is demo/assistant, a script and not a language model. The result is ";
    let (first, again) = (&runs("run_sync")[0], &runs("the same again")[0]);
    assert_eq!(first["final_output"], format!("{answer}42."));
    assert_eq!(first["created_at"], again["created_at"], "one intent, one run");
    assert_eq!(runs("run_async")[1]["final_output"], format!("{answer}5."));
    assert!(part("run_stream").contains("event: tool_result\ndata: {"));
    let later = part("the same stream later");
    assert!(later.contains("\nevent: run.completed\n") && !later.contains("tool_call"), "{later}");
    let limited = &runs("RunConfig")[0];
    assert_eq!(
        (&limited["stop_reason"], &limited["metadata"]["user_id"]),
        (&json!("max_time"), &json!("123"))
    );
    let gathered: Vec<Value> = runs("gather")[3..].to_vec();
    let outputs: Vec<&Value> = gathered.iter().map(|run| &run["final_output"]).collect();
    assert_eq!(outputs, [4, 9, 16].map(|n| json!(format!("{answer}{n}."))).each_ref());
    assert_eq!(runs("cancel")[1]["status"], "CANCELLED");
}

/// What the page shows once its run has ended: a look that is added behind the page itself.
const LOOK: &str = r##"<script>
  const shown = (id) => document.getElementById(id).textContent;
  const look = () => {
    if (["", "RUNNING", "connecting again"].includes(shown("status"))) return;
    const verdict = { answer: shown("answer"), tools: shown("tools"), status: shown("status") };
    navigator.sendBeacon("/verdict", JSON.stringify(verdict));
  };
  new MutationObserver(look).observe(document.getElementById("status"), { childList: true });
  // A browser may pause between two scripts of a page, and the run may end meanwhile.
  look();
</script>"##;

/// Serves the page, and hears what it shows at its end.
struct Site {
    origin: String,
    verdicts: mpsc::Receiver<String>,
    _server: JoinSet<()>,
}

impl Site {
    async fn open() -> Site {
        let page = std::fs::read_to_string(file("page.html")).unwrap() + LOOK;
        let (heard, verdicts) = mpsc::channel(1);
        let verdict = |State(heard): State<mpsc::Sender<String>>, text: String| async move {
            heard.send(text).await.unwrap();
        };
        let router = Router::new()
            .route("/", get(move || async move { Html(page) }))
            .route("/verdict", post(verdict))
            .with_state(heard);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        let mut server = JoinSet::new();
        server.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Site { origin, verdicts, _server: server }
    }

    /// What a real browser shows of a run of this service at its end.
    async fn shows(&mut self, url: &str) -> Value {
        self.shown_at(&format!("{}/?url={url}&input=What%20is%206*7%3F", self.origin)).await
    }

    /// What a real browser shows at this address at the end of a run.
    async fn shown_at(&mut self, address: &str) -> Value {
        let folder = tempfile::tempdir().unwrap();
        let mut browser = Command::new("chromium");
        browser
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
            .args(["--disable-quic", "--no-first-run", "--disable-background-networking"])
            .args(["--disable-component-update", "--disable-sync", "--no-proxy-server"])
            .args(["--remote-debugging-port=0"])
            .arg(format!("--user-data-dir={}", folder.path().display()))
            .arg(address)
            .env("HOME", folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true);
        let mut browser = browser.spawn().expect("`make setup` installs chromium");
        let verdict = within("the page's end", self.verdicts.recv()).await.unwrap();
        browser.kill().await.unwrap();
        serde_json::from_str(&verdict).unwrap()
    }
}

#[tokio::test]
async fn the_page_shows_a_run_in_a_browser_also_where_its_stream_breaks_off() {
    let stub = Stub::start().await;
    stub.on("m", |call| match (call.turn, call.attempt) {
        (1, 1) => vec![Do::Say("Wrong. ".into()), Do::Cut],
        (1, _) => [vec![Do::Say("I ask. ".into())], calculate(1)].concat(),
        _ => say("It is 2."),
    });
    let mut site = Site::open().await;
    let setup = Setup::default()
        .env("RUNLEDGER_DEFAULT_MODEL", "openai/m")
        .env("RUNLEDGER_CORS_ORIGINS", &site.origin);
    let service = Service::start_with(&stub, setup).await;
    let door = Door::open(&service.client.url).await;
    door.cut_streams_after(CUT_AFTER);
    let shown = site.shows(&door.url).await;
    let expected = json!({"answer": "I ask. It is 2.", "status": "COMPLETED, end_turn",
        "tools": "calculator {\"expression\":\"1+1\"}\n= 2\n"});
    assert_eq!(shown, expected);
    assert!(door.cuts() > 0, "the stream was cut");
}

#[tokio::test]
async fn the_page_says_so_where_the_service_does_not_know_its_origin() {
    let mut site = Site::open().await;
    let service = Service::demo().await;
    let url = &service.client.url;
    let shown = site.shows(url).await;
    let expected = json!({"answer": "", "tools": "", "status": format!("Failed to fetch: {url}")});
    assert_eq!(shown, expected);
}

#[tokio::test]
async fn a_page_without_a_key_reads_its_stream_with_the_token_of_its_back_end() {
    let mut site = Site::open().await;
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("page.html");
    let look = LOOK.replace("\"/verdict\"", &format!("\"{}/verdict\"", site.origin));
    std::fs::write(&page, std::fs::read_to_string(file("page.html")).unwrap() + &look).unwrap();
    let stub = Stub::start().await;
    stub.on("m", |call| if call.turn == 1 { calculate(1) } else { say("It is 2.") });
    // A port for the back end, which the service must know before it starts.
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let setup = Setup { key: Some("alpha".into()), ..Setup::default() }
        .env("RUNLEDGER_API_KEYS", "alpha")
        .env("RUNLEDGER_DEFAULT_MODEL", "openai/m")
        .env("RUNLEDGER_CORS_ORIGINS", format!("http://127.0.0.1:{port}"));
    let service = Service::start_with(&stub, setup).await;
    let mut back_end = Command::new("python3");
    back_end.arg(file("page.py")).arg(port.to_string()).arg(&page).kill_on_drop(true);
    back_end.env("RUNLEDGER_URL", &service.client.url).env("RUNLEDGER_API_KEY", "alpha");
    let mut back_end = back_end.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(back_end.stdout.take().unwrap()).lines();
    let address = within("the back end", lines.next_line()).await.unwrap().unwrap();
    let shown = site.shown_at(&format!("{address}&input=What%20is%201%2B1%3F")).await;
    let expected = json!({"answer": "It is 2.", "status": "COMPLETED, end_turn",
        "tools": "calculator {\"expression\":\"1+1\"}\n= 2\n"});
    assert_eq!(shown, expected);
    back_end.kill().await.unwrap();
}
