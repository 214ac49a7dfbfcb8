//! A node's clock is wrong, by minutes or by days: times come out right, and the node says that it is.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::client::spec;
use crate::postgres::Database;
use crate::service::{Service, Setup};
use crate::stub::{Do, Stub, say};

/// What makes a program believe in another time.
fn faketime() -> Option<String> {
    let folders = std::fs::read_dir("/usr/lib").ok()?.flatten();
    let mut found = folders
        .map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"))
        .filter(|it| it.exists());
    found.next().map(|path| path.display().to_string())
}

/// By how much a time may be wrong.
const RIGHT: Duration = Duration::from_secs(2);

/// How long the run may take that is taken over.
const MAX_TIME: f64 = 6.0;

struct Found {
    /// How far the wrong clock is off, by the node's own `Date`.
    skew: f64,
    /// How far the end by `max_time` and the time of a creation were off.
    end_off: f64,
    made_off: f64,
    is_ready: bool,
}

fn now() -> f64 {
    jiff::Timestamp::now().as_millisecond() as f64 / 1000.0
}

/// A run is begun by a node whose clock is right, which dies, and ended by one whose clock is wrong.
async fn through(library: &str, offset: &str) -> Found {
    let stub = Stub::start().await;
    stub.on("slow", |_| vec![Do::Say("Well".into()), Do::Hang]);
    stub.on("quick", |_| say("Done."));
    let url = Database::new().await.url;
    let setup = Setup::default()
        .env("DATABASE_URL", &url)
        .env("RUNLEDGER_LEASE", "1.5")
        .env("OPENAI_BASE_URL", &stub.base_url);
    let wrong = setup
        .clone()
        .env("LD_PRELOAD", library)
        .env("FAKETIME", offset)
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .env("DONT_FAKE_MONOTONIC", "1");
    let start = async |setup: Setup| {
        Service::in_folder(Arc::new(tempfile::tempdir().unwrap()), setup).await
    };
    let right = start(setup).await;
    let mut body = spec("openai/slow", "taken over");
    body["config"] = json!({"max_time": MAX_TIME, "timeout_per_turn": 60});
    let began = Instant::now();
    let run = right.client.create(&body).await;
    right.client.event(&run, "text").await;
    let wrong = start(wrong).await;
    drop(right.kill().await);
    let ended = wrong.client.ended(&run).await;
    let end_off = (began.elapsed().as_secs_f64() - MAX_TIME).abs();
    assert_eq!(ended["stop_reason"], "max_time", "{ended}");
    let ready = wrong.client.get("/readyz").await;
    let date = ready.header("date").to_owned();
    let date = jiff::fmt::rfc2822::parse(&date).unwrap().timestamp();
    let skew = date.as_millisecond() as f64 / 1000.0 - now();
    let made = now();
    let quick = wrong.client.run("openai/quick", "made here").await;
    let quick = wrong.client.ended(&quick).await;
    assert_eq!(quick["status"], "COMPLETED", "{quick}");
    let created: jiff::Timestamp = quick["created_at"].as_str().unwrap().parse().unwrap();
    let made_off = (created.as_millisecond() as f64 / 1000.0 - made).abs();
    Found { skew, end_off, made_off, is_ready: ready.status == 200 }
}

#[tokio::test]
async fn a_run_that_a_node_with_a_wrong_clock_takes_over_ends_in_its_time() {
    let Some(library) = faketime() else {
        println!("row=33 not_possible=no-libfaketime");
        return;
    };
    let offsets = ["+300s", "-300s", "+10d", "-10d"];
    let through = offsets.iter().map(|offset| through(&library, offset));
    let found = futures_util::future::join_all(through).await;
    let is_right = |seconds: f64| seconds <= RIGHT.as_secs_f64();
    let fired = found.iter().filter(|one| one.skew.abs() > 290.0).count();
    let wrong = found
        .iter()
        .filter(|one| one.is_ready || !is_right(one.end_off) || !is_right(one.made_off));
    let worst = found.iter().map(|one| one.end_off.max(one.made_off)).fold(0.0, f64::max);
    let value = wrong.count();
    println!(
        "row=33 faults_fired={fired} ops_ok={} value={value} worst_ms={:.0}",
        2 * found.len(),
        worst * 1000.0
    );
    // The control: by the node's own clock, as its `Date` says it, each of them would be wrong.
    let by_its_clock = found.iter().filter(|one| !is_right(one.skew.abs())).count();
    println!("row=33 control=true faults_fired={fired} value={by_its_clock}");
    assert_eq!((fired, by_its_clock), (offsets.len(), offsets.len()));
    assert!(found.iter().all(|one| !one.is_ready), "a clock that is off is said");
    if crate::scale::scaled(0, 1) == 1 {
        assert_eq!(value, 0);
    }
    assert!(worst < 60.0, "by a wrong clock it would be minutes: {worst}");
}
