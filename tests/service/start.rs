//! Starting and stopping, as a newcomer and an operator see it.

use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use crate::client::{Client, spec};
use crate::nodes::Nodes;
use crate::service::{Service, Setup, binary, command};
use crate::stub::Stub;
use crate::waiting::within;

#[tokio::test]
async fn the_curl_line_that_is_printed_works() {
    let stub = Stub::start().await;
    let keyed = Setup { key: Some("alpha".into()), ..Setup::default() }
        .env("RUNLEDGER_API_KEYS", "alpha,beta")
        .env("RUNLEDGER_DEFAULT_MODEL", "demo/assistant");
    let services = [Service::demo().await, Service::start_with(&stub, keyed).await];
    for service in services {
        let line = service.greeting.lines().find_map(|line| line.strip_prefix("try")).unwrap();
        let curl = Command::new("sh")
            .args(["-c", line.trim()])
            .env("RUNLEDGER_API_KEYS", "alpha,beta")
            .stdout(Stdio::piped())
            .output();
        let output = within("curl", curl).await.unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let order =
            ["event: text", "event: tool_call", "event: tool_result", "event: run.completed"];
        let places: Vec<Option<usize>> = order.iter().map(|event| text.find(event)).collect();
        assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{places:?} in {text}");
        assert!(text.contains("The result is 42."), "{text}");
    }
}

#[tokio::test]
async fn the_greeting_tells_store_models_address_and_auth() {
    let stub = Stub::start().await;
    let service = Service::start(&stub).await;
    for part in [
        "store    SQLite, ",
        "models   openai/*, demo/assistant (scripted",
        "default demo/assistant",
        "address  http://127.0.0.1:",
        "auth     off; only this machine can connect",
        "try      curl -N ",
    ] {
        assert!(service.greeting.contains(part), "{part} in {}", service.greeting);
    }
    assert!(!service.greeting.contains("PostgreSQL"));
}

async fn fails(command: &mut Command) -> (i32, String) {
    let output = within("the end", command.stdout(Stdio::null()).stderr(Stdio::piped()).output());
    let output = output.await.unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

#[tokio::test]
async fn wrong_settings_are_all_listed_and_nothing_starts() {
    let folder = tempfile::tempdir().unwrap();
    let mut wrong = command(folder.path());
    wrong.env("RUNLEDGER_SLOTS", "many").env("RUNLEDGER_LOG_FORMAT", "xml");
    wrong.env("OPENAI_BASE_URL", "not a url").env("RUNLEDGER_DEFAULT_MODEL", "gpt");
    let (code, words) = fails(&mut wrong).await;
    assert_eq!(code, 2, "{words}");
    for part in [
        "4 settings are wrong",
        "RUNLEDGER_SLOTS",
        "\"many\"",
        "1 to 100000",
        "xml",
        "OPENAI_BASE_URL",
    ] {
        assert!(words.contains(part), "{part} in {words}");
    }
    assert!(!folder.path().join("runledger.db").exists());

    let mut open = std::process::Command::new(binary());
    open.env_clear().args(["--listen", "0.0.0.0:0", "--data-dir"]).arg(folder.path());
    let (code, words) = fails(&mut Command::from(open)).await;
    assert_eq!(code, 2, "{words}");
    assert!(
        words.contains("--insecure-no-auth") && words.contains("RUNLEDGER_API_KEYS"),
        "{words}"
    );
    let mut unknown = command(folder.path());
    let (code, words) = fails(unknown.arg("--lisen")).await;
    assert_eq!(code, 2, "{words}");
    assert!(words.contains("--listen"), "a hint: {words}");
}

#[tokio::test]
async fn a_second_process_on_the_same_data_is_told_what_to_do() {
    let service = Service::demo().await;
    let (code, words) = fails(&mut command(&service.folder())).await;
    assert_eq!(code, 1, "{words}");
    assert!(words.contains("another process has the data folder"), "{words}");
    let address = service.client.url.trim_start_matches("http://").to_owned();
    let other = tempfile::tempdir().unwrap();
    let mut taken = std::process::Command::new(binary());
    taken.env_clear().args(["--listen", &address, "--data-dir"]).arg(other.path());
    let (code, words) = fails(&mut Command::from(taken)).await;
    assert_eq!(code, 1, "{words}");
    assert!(words.contains("can't listen on"), "{words}");
    assert_eq!(service.client.get("/readyz").await.status, 200, "the first goes on");
}

#[tokio::test]
async fn an_idle_service_stops_at_once_and_cleanly() {
    let service = Service::demo().await;
    service.client.get("/healthz").await.expect(200);
    let (status, stopped) = service.terminate().await;
    assert!(status.success());
    let service = stopped.start().await;
    assert_eq!(service.client.get("/readyz").await.status, 200);
}

/// The servers of the tests are such.
#[tokio::test]
async fn a_database_that_forgets_at_a_loss_of_power_is_warned_of() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let mut nodes = Nodes::new().await.with("RUNLEDGER_LOG", "warn");
    nodes.setup.log = Some(log.clone());
    let _node = nodes.start().await;
    let words = std::fs::read_to_string(log).unwrap();
    assert!(words.contains("has fsync off"), "{words}");
}

#[tokio::test]
async fn a_service_whose_log_nobody_takes_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut service = command(folder.path());
    service.env("RUNLEDGER_LOG", "debug").stdout(Stdio::piped()).stderr(writer);
    let mut service = service.spawn().unwrap();
    let mut lines = BufReader::new(service.stdout.take().unwrap()).lines();
    let address = async {
        loop {
            let line = lines.next_line().await.unwrap().expect("it goes on");
            if let Some(address) = line.strip_prefix("address  ") {
                return address.to_owned();
            }
        }
    };
    let http = Client::new(&within("the address", address).await, None);
    let run = http.create(&spec("demo/assistant", "Hello")).await;
    assert_eq!(http.ended(&run).await["status"], "COMPLETED");
}
