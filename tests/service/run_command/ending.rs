//! How a command ends early: by Ctrl-C, by somebody else's cancel, or by a reader who goes away.

use tokio::io::{AsyncBufReadExt, BufReader};

use super::{Running, command, interrupt};
use crate::service::Service;
use crate::stub::{Do, Stub};
use crate::waiting::within;

#[tokio::test]
async fn a_run_that_somebody_cancels_is_code_130() {
    let stub = Stub::start().await;
    stub.on("m", |_| vec![Do::Say("half".into()), Do::Hang]);
    let service = Service::start(&stub).await;
    let mut running = Running::start(&["--url", &service.client.url, "--model", "openai/m", "x"]);
    let run = running.run().await;
    service.client.event(&run, "text").await;
    service.client.delete(&format!("/runs/{run}")).await.expect(202);
    let said = running.end().await;
    let told = (said.code, said.out.as_str(), said.err.as_str());
    assert_eq!(told, (130, "half\n", "runledger: cancelled\n"));
}

#[tokio::test]
async fn ctrl_c_cancels_the_run_on_the_server_and_says_so() {
    let stub = Stub::start().await;
    stub.on("m", |_| vec![Do::Say("half".into()), Do::Hang]);
    let service = Service::start(&stub).await;
    let mut running = Running::start(&["--url", &service.client.url, "--model", "openai/m", "x"]);
    let run = running.run().await;
    service.client.event(&run, "text").await;
    running.interrupt();
    let said = running.end().await;
    assert_eq!((said.code, said.out.as_str()), (130, "half\n"), "{said:?}");
    assert!(said.err.ends_with("runledger: cancelled\n"), "{said:?}");
    stub.hung_up("m", 1).await;
    assert_eq!(service.client.ended(&run).await["status"], "CANCELLED");
}

#[tokio::test]
async fn ctrl_c_ends_a_private_run_and_its_folder_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = command(folder.path(), &["--json", "speak slowly"]).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    while !lines.next_line().await.unwrap().unwrap().contains("\"type\":\"text\"") {}
    interrupt(&child);
    let mut last = String::new();
    while let Some(line) = within("the end", lines.next_line()).await.unwrap() {
        last = line;
    }
    assert!(last.contains("\"type\":\"run.cancelled\""), "{last}");
    assert_eq!(within("its end", child.wait()).await.unwrap().code(), Some(130));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_second_ctrl_c_leaves_at_once() {
    let stub = Stub::start().await;
    stub.on("m", |_| vec![Do::Hang]);
    let service = Service::start(&stub).await;
    let mut running = Running::start(&["--url", &service.client.url, "--model", "openai/m", "x"]);
    running.run().await;
    stub.called("m", 1).await;
    // A server that hangs: it neither cancels nor says that it doesn't.
    service.signal("STOP");
    running.interrupt();
    assert_eq!(running.err().await, "cancelling; Ctrl-C again leaves at once");
    running.interrupt();
    let said = running.end().await;
    service.signal("CONT");
    assert_eq!((said.code, said.err.as_str()), (130, ""));
}

#[tokio::test]
async fn a_closed_pipe_ends_it_quietly() {
    let mut running = Running::start(&["--json", "speak at length"]);
    running.out().await;
    let Running { mut child, out, mut err, _folder } = running;
    drop(out);
    let status = within("its end", child.wait()).await.unwrap();
    assert_eq!(status.code(), Some(141));
    assert_eq!(err.next_line().await.unwrap(), None);

    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut command = command(folder.path(), &["hello"]);
    let output = within("its end", command.stdout(full).spawn().unwrap().wait_with_output());
    let output = output.await.unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(141), "{err}");
    assert!(err.starts_with("runledger: can't write to standard output: "), "{err}");
}

#[tokio::test]
async fn ctrl_c_while_the_server_hangs_is_heard_and_the_run_is_cancelled_once_there_is_one() {
    let stub = Stub::start().await;
    stub.on("m", |_| vec![Do::Hang]);
    let service = Service::start(&stub).await;
    service.signal("STOP");
    let mut running = Running::start(&["--url", &service.client.url, "--model", "openai/m", "x"]);
    running.listens().await;
    interrupt(&running.child);
    assert_eq!(running.err().await, "cancelling; Ctrl-C again leaves at once");
    service.signal("CONT");
    let said = running.end().await;
    assert_eq!(said.code, 130, "{said:?}");
    assert!(said.err.starts_with("run ") && said.err.ends_with("runledger: cancelled\n"));
}
