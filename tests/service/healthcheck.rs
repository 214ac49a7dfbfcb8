//! `runledger healthcheck`: what it asks, where it looks for the service, and what it says.

use std::path::Path;
use std::process::Stdio;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::process::Command;

use crate::postgres::Cluster;
use crate::service::{Service, Setup, binary};
use crate::waiting::within;

#[derive(Debug)]
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Said {
    #[track_caller]
    fn is_well(&self, words: &str) {
        let expected = (Some(0), format!("{words}\n"), String::new());
        assert_eq!((self.code, self.out.clone(), self.err.clone()), expected);
    }

    /// It says so in one line.
    #[track_caller]
    fn is_not_well(&self, words: &str) {
        assert_eq!((self.code, self.out.as_str()), (Some(1), ""), "{self:?}");
        assert!(self.err.starts_with(&format!("runledger: {words}")), "{self:?}");
        assert_eq!(self.err.lines().count(), 1, "{self:?}");
    }
}

/// Asks with these settings alone.
async fn check(folder: &Path, arguments: &[&str], env: &[(&str, &str)]) -> Said {
    let mut command = Command::new(binary());
    command.env_clear().envs(env.iter().copied()).arg("healthcheck").args(arguments);
    command.current_dir(folder).stdin(Stdio::null()).kill_on_drop(true);
    let output = within("the answer", command.output()).await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Said { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

#[tokio::test]
async fn a_service_is_found_by_its_settings_and_asked_without_a_key() {
    let keyed = Setup { key: Some("alpha".into()), ..Setup::default() };
    let keyed = keyed.env("RUNLEDGER_API_KEYS", "alpha");
    let folder = tempfile::tempdir().unwrap();
    let service = Service::in_folder(tempfile::tempdir().unwrap().into(), keyed).await;
    let url = service.client.url.clone();
    let address = url.strip_prefix("http://").unwrap();
    let port = address.rsplit(':').next().unwrap();
    let (alive, ready) = (format!("{url} is alive"), format!("{url} is ready"));

    let listen = [("RUNLEDGER_LISTEN", address)];
    check(folder.path(), &[], &listen).await.is_well(&alive);
    check(folder.path(), &["--ready"], &listen).await.is_well(&ready);
    check(folder.path(), &["--url", &url], &[("RUNLEDGER_LISTEN", "no")]).await.is_well(&alive);
    let all = format!("0.0.0.0:{port}");
    let others = [("RUNLEDGER_LISTEN", all.as_str()), ("RUNLEDGER_SLOTS", "as wrong as this")];
    check(folder.path(), &[], &others).await.is_well(&alive);
    // A proxy of the environment is for other machines.
    let proxied = [listen[0], ("http_proxy", "http://127.0.0.1:1")];
    check(folder.path(), &[], &proxied).await.is_well(&alive);
    std::fs::write(folder.path().join("own.toml"), format!("listen = \"{address}\"\n")).unwrap();
    check(folder.path(), &["--config", "own.toml"], &[]).await.is_well(&alive);
    check(folder.path(), &[], &[("RUNLEDGER_CONFIG", "own.toml")]).await.is_well(&alive);

    service.terminate().await;
    check(folder.path(), &[], &listen).await.is_not_well(&format!("{url} is not alive: "));
}

#[tokio::test]
async fn a_process_that_does_not_answer_is_not_alive() {
    let service = Service::demo().await;
    let url = service.client.url.clone();
    let folder = service.folder();
    let listen = ["--url", url.as_str()];
    service.signal("STOP");
    let said = check(&folder, &listen, &[]).await;
    service.signal("CONT");
    said.is_not_well(&format!("{url} is not alive: no answer within 4 s"));
    check(&folder, &listen, &[]).await.is_well(&format!("{url} is alive"));
}

/// Answers one request with this, and gives the request's first line.
async fn answers(listener: &TcpListener, answer: &str) -> String {
    let (mut stream, _peer) = listener.accept().await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    stream.write_all(answer.as_bytes()).await.unwrap();
    String::from_utf8(head).unwrap().lines().next().unwrap().to_owned()
}

#[tokio::test]
async fn a_node_that_may_not_take_work_lives_all_the_same() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let away = "{\"detail\":\"the store did not answer within 2 s\"}";
    let away = format!(
        "HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\ncontent-length: {}\r\n\r\n{away}",
        away.len()
    );
    let ready = ["--ready", "--url", url.as_str()];
    let (said, asked) = tokio::join!(check(folder.path(), &ready, &[]), answers(&listener, &away));
    assert_eq!(asked, "GET /readyz HTTP/1.1");
    said.is_not_well(&format!("{url} is not ready: the store did not answer within 2 s"));

    let lives = "HTTP/1.1 200 OK\r\ncontent-length: 15\r\n\r\n{\"status\":\"ok\"}";
    let (said, asked) =
        tokio::join!(check(folder.path(), &ready[1..], &[]), answers(&listener, lives));
    assert_eq!(asked, "GET /healthz HTTP/1.1");
    said.is_well(&format!("{url} is alive"));

    let elsewhere = "HTTP/1.1 302 Found\r\nlocation: /login\r\ncontent-length: 0\r\n\r\n";
    let (said, _asked) =
        tokio::join!(check(folder.path(), &ready[1..], &[]), answers(&listener, elsewhere));
    said.is_not_well(&format!("{url} is not alive: the server answers with status 302"));
}

/// No restart of a container brings its database back.
#[tokio::test]
async fn a_node_whose_database_is_away_lives_and_is_not_ready() {
    let mut cluster = tokio::task::spawn_blocking(Cluster::start).await.unwrap();
    let setup = Setup::default().env("DATABASE_URL", cluster.url());
    let service = Service::in_folder(tempfile::tempdir().unwrap().into(), setup).await;
    let (folder, url) = (service.folder(), service.client.url.clone());
    let ready = ["--ready", "--url", url.as_str()];
    check(&folder, &ready, &[]).await.is_well(&format!("{url} is ready"));
    cluster.stop();
    check(&folder, &ready, &[]).await.is_not_well(&format!("{url} is not ready: "));
    check(&folder, &ready[1..], &[]).await.is_well(&format!("{url} is alive"));
    cluster.go_on();
    service.ready().await;
    check(&folder, &ready, &[]).await.is_well(&format!("{url} is ready"));
}

#[tokio::test]
async fn what_can_not_be_asked_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let said = check(folder.path(), &["--url", "nowhere"], &[]).await;
    said.is_not_well("\"nowhere\" is no URL of a server; give e.g. http://127.0.0.1:8080");
    for (listen, part) in [("8080", "is no address with a port"), ("127.0.0.1:0", "--url")] {
        let said = check(folder.path(), &[], &[("RUNLEDGER_LISTEN", listen)]).await;
        assert_eq!((said.code, said.out.as_str()), (Some(1), ""), "{said:?}");
        assert!(said.err.contains(part), "{said:?}");
    }
    let said = check(folder.path(), &["--config", "absent.toml"], &[]).await;
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains("absent.toml: "), "{said:?}");
}
