//! A process that may open few files: clients that only hold connections leave it enough to work with.

use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::client::Client;
use crate::service::binary;
use crate::stub::{Stub, say};
use crate::waiting::within;

#[tokio::test]
async fn more_connections_than_files_leave_enough_for_the_model_and_the_store() {
    const FILES: usize = 256;
    let stub = Stub::start().await;
    stub.on("few", |_| say("Done."));
    let folder = tempfile::tempdir().unwrap();
    let mut service = Command::new("sh")
        .args(["-c", &format!("ulimit -n {FILES} && exec \"$@\""), "sh"])
        .arg(binary())
        .args(["--listen", "127.0.0.1:0", "--data-dir"])
        .arg(folder.path())
        .env_clear()
        .env("RUNLEDGER_LOG", "error")
        .env("OPENAI_BASE_URL", &stub.base_url)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(service.stdout.take().unwrap()).lines();
    let mut address = None;
    while address.is_none() {
        let line = within("the address", lines.next_line()).await.unwrap().expect("it starts");
        address = line.strip_prefix("address  http://").map(str::to_owned);
    }
    let address = address.unwrap();
    let client = Client::new(&format!("http://{address}"), None);
    client.get("/healthz").await.expect(200);
    let mut idle = Vec::new();
    for _ in 0..FILES {
        idle.push(TcpStream::connect(&address).await.unwrap());
    }
    // By the connection that it has.
    let run = client.run("openai/few", "few files").await;
    let ended = client.ended(&run).await;
    assert_eq!(ended["status"], "COMPLETED", "{ended}");
    let log = client.log(&run).await;
    let tries = crate::client::of(&log, "turn.started").len();
    assert_eq!(tries, 1, "the model could be called at once");
    drop(idle);
    Client::new(&format!("http://{address}"), None).get("/healthz").await.expect(200);
}
