//! Streams of runs that wait, and then go on at another node, without notifications.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::Nodes;
use crate::client::{Client, of};
use crate::scale::scaled;
use crate::service::Service;
use crate::stub::Do;

/// One event as its reader got it: its lines, and how many milliseconds after its commit.
type Got = (Value, f64);

async fn follow(client: Client, run: String) -> Vec<Got> {
    let mut stream = client.stream(&format!("/runs/{run}/stream"), &[]).await;
    let mut got = Vec::new();
    while let Some(block) = stream.next().await.expect("the stream was cut") {
        let event = block.data();
        let at: jiff::Timestamp = event["at"].as_str().unwrap().parse().unwrap();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let late = now.as_secs_f64() * 1000.0 - at.as_millisecond() as f64;
        got.push((event, late));
    }
    got
}

/// What is missing, repeated or other than in the log.
fn wrongs(got: &[Got], log: &[Value]) -> usize {
    let wrong = got.iter().zip(log).filter(|((event, _), other)| event != *other).count();
    wrong + got.len().abs_diff(log.len())
}

/// reliability.md, row 32.
#[tokio::test]
async fn a_stream_follows_a_run_that_waits_to_another_node_without_notifications() {
    let runs = scaled(6, 60);
    let nodes = Nodes::new().await.with("DATABASE_LISTEN_URL", "off").with("RUNLEDGER_LEASE", "5");
    nodes.stub.on("busy", |_| vec![Do::Hang]);
    nodes.stub.on("waits", |call| match call.attempt {
        1 => vec![Do::Refuse(429, &[("retry-after-ms", "3000")], "{}".into())],
        _ => vec![Do::Words(20, Duration::from_millis(25)), Do::Finish("stop")],
    });
    // The reader's node has one slot, and that is taken.
    let setup = nodes.setup.clone().env("RUNLEDGER_SLOTS", "1");
    let reader = Service::in_folder(Arc::new(tempfile::tempdir().unwrap()), setup).await;
    reader.client.run("openai/busy", "busy").await;
    nodes.stub.called("busy", 1).await;
    let [leaves] = nodes.start_many::<1>().await;
    let mut streams = Vec::new();
    for n in 0..runs {
        let run = leaves.client.run("openai/waits", &format!("waits {n}")).await;
        streams.push((run.clone(), tokio::spawn(follow(reader.client.clone(), run))));
    }
    nodes.stub.called("waits", runs).await;
    for (run, _) in &streams {
        leaves.client.event(run, "turn.aborted").await;
    }
    let [_goes_on] = nodes.start_many::<1>().await;
    let (status, _) = leaves.terminate().await;
    assert!(status.success(), "{status}");
    let (mut late, mut value, mut moved, mut control) = (Vec::new(), 0, 0, 0);
    for (run, stream) in streams {
        let got = crate::waiting::within("a stream's end", stream).await.unwrap();
        assert_eq!(reader.client.ended(&run).await["status"], "COMPLETED");
        let log = reader.client.log(&run).await;
        value += wrongs(&got, &log);
        control += wrongs(&got[1..], &log);
        let starts = of(&log, "run.started");
        moved += usize::from(starts[0]["node"] != starts.last().unwrap()["node"]);
        late.extend(got.iter().map(|(_, late)| *late));
    }
    late.sort_by(f64::total_cmp);
    let at = |part: usize| late[(late.len() - 1) * part / 100];
    println!(
        "row=32 faults_fired={moved} ops_ok={} value={value} late_p50_ms={:.0} late_p99_ms={:.0} \
         late_max_ms={:.0}",
        late.len(),
        at(50),
        at(99),
        at(100)
    );
    println!("row=32 control=true faults_fired={moved} value={control}");
    assert_eq!((value, moved), (0, runs));
    assert!(control >= runs, "a stream that lacks an event was not found");
    assert!(late.len() >= 10 * runs, "too little was read: {} events", late.len());
    // A look each second, and a second.
    assert!(scaled(1, 0) == 1 || at(99) <= 2000.0, "{} ms", at(99));
}
