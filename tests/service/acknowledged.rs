//! What was acknowledged is kept though the process is killed at once: cancels, changes, erasures.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{ConnectOptions, Connection};

use crate::bulk;
use crate::chance::Chance;
use crate::client::{Client, of, spec};
use crate::scale::scaled;
use crate::service::Service;
use crate::stub::{Do, Stub};
use crate::waiting::until;

/// Runs that are asked for something before one kill.
const RUNS: usize = 27;

/// What a run is asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Ask {
    Cancel,
    Raise,
    Purge,
}

fn asked_of(n: usize) -> Ask {
    [Ask::Cancel, Ask::Raise, Ask::Purge][n % 3]
}

/// Runs that hang in their turn; each third has ended.
async fn prepare(client: &Client, stub: &Stub, round: usize) -> Vec<String> {
    stub.forget();
    let bodies: Vec<Value> = (0..RUNS)
        .map(|n| {
            let is_over = asked_of(n) == Ask::Purge;
            let model = if is_over { "openai/over" } else { "openai/hang" };
            spec(model, &format!("{round} {n}"))
        })
        .collect();
    let ids = bulk::create(client, &bodies).await;
    for (n, id) in ids.iter().enumerate() {
        match asked_of(n) {
            Ask::Purge => drop(bulk::ended(client, id).await),
            Ask::Cancel | Ask::Raise => drop(client.event(id, "turn.started").await),
        }
    }
    ids
}

/// Asks, and counts the answer as soon as it is there. None: there was none.
async fn ask(client: &Client, id: &str, what: Ask, acks: &AtomicUsize) -> Option<u16> {
    let (method, path, body) = match what {
        Ask::Cancel => (Method::DELETE, format!("/runs/{id}"), Value::Null),
        Ask::Raise => {
            let body = json!({"config": {"max_turns": 77}, "metadata": {"kept": "1"}});
            (Method::PATCH, format!("/runs/{id}"), body)
        }
        Ask::Purge => (Method::POST, format!("/runs/{id}/purge"), Value::Null),
    };
    let (status, _) = bulk::try_ask(client, method, &path, &body, &[]).await.ok()?;
    acks.fetch_add(1, Ordering::SeqCst);
    Some(status)
}

/// Whether what was acknowledged is still so. A change more, behind it, shows that all before it was
/// read: its event comes after theirs.
async fn is_kept(client: &Client, id: &str, what: Ask) -> bool {
    let path = format!("/runs/{id}");
    if what == Ask::Purge {
        return bulk::ask(client, Method::GET, &path, &Value::Null).await.0 == 404;
    }
    let fence = json!({"metadata": {"fence": "1"}});
    let (status, told) = bulk::ask(client, Method::PATCH, &path, &fence).await;
    assert!([202, 409].contains(&status), "{told}");
    let log = until("what the run was asked for", || async {
        let log = bulk::log(client, id).await;
        let is_read = of(&log, "run.updated").iter().any(|one| one["metadata"]["fence"] == "1");
        (is_read || log.last().unwrap()["result"].is_object()).then_some(log)
    })
    .await;
    match what {
        Ask::Cancel => of(&log, "cancel.requested").len() == 1,
        Ask::Raise | Ask::Purge => {
            let raised = of(&log, "run.updated").iter().any(|one| one["limits"]["max_turns"] == 77);
            raised && bulk::get(client, &path).await["config"]["max_turns"] == 77
        }
    }
}

async fn stub() -> Stub {
    let stub = Stub::start().await;
    stub.on("hang", |_| vec![Do::Hang]);
    stub
}

/// reliability.md, row 35.
#[tokio::test]
async fn what_was_acknowledged_survives_the_kill_that_comes_at_once() {
    let enough = scaled(50, 500);
    let chance = Chance::given(35);
    let stub = stub().await;
    let mut service = Service::start(&stub).await;
    let (mut acknowledged, mut kills, mut found) = (0, 0, Vec::new());
    while acknowledged < enough {
        let ids = prepare(&service.client, &stub, kills).await;
        let (client, acks) = (service.client.clone(), AtomicUsize::new(0));
        let asks = ids.iter().enumerate().map(|(n, id)| ask(&client, id, asked_of(n), &acks));
        // The kill comes when so many are answered, others under way, and others not yet sent.
        let most = RUNS / 2 + chance.of(kills).below(RUNS / 2 + 1);
        let kill = async {
            let come = || async { (acks.load(Ordering::SeqCst) >= most).then_some(()) };
            until("acknowledgements", come).await;
            service.kill().await
        };
        let (answers, stopped) = tokio::join!(join_all(asks), kill);
        kills += 1;
        service = stopped.start().await;
        for (n, (id, status)) in ids.iter().zip(answers).enumerate() {
            let what = asked_of(n);
            if status.is_some() {
                acknowledged += 1;
                assert_eq!(status, Some(if what == Ask::Purge { 204 } else { 202 }), "{what:?}");
                if !is_kept(&service.client, id, what).await {
                    found.push(format!("{what:?} of {id} is lost"));
                }
            }
            // No run is hit by a second kill: that would count as crashes of its own.
            if what != Ask::Purge {
                bulk::ask(&service.client, Method::DELETE, &format!("/runs/{id}"), &Value::Null)
                    .await;
                let run = bulk::ended(&service.client, id).await;
                assert_eq!(run["status"], "CANCELLED");
            }
        }
    }
    println!(
        "row=35 seed={} faults_fired={kills} ops_ok={acknowledged} value={}",
        chance.seed(),
        found.len()
    );
    assert_eq!(found, Vec::<String>::new());
    assert!(kills >= enough / 27, "{kills} kills");
}

/// The control: a disk that forgets what it had acknowledged.
#[tokio::test]
async fn an_acknowledgement_that_the_disk_forgot_is_found() {
    let stub = stub().await;
    let service = Service::start(&stub).await;
    let ids = prepare(&service.client, &stub, 0).await;
    let stopped = service.kill().await;
    let path = stopped.folder().join("runledger.db");
    // As it was before the process was asked for anything.
    let kept = stopped.folder().join("kept.db");
    let options = || sqlx::sqlite::SqliteConnectOptions::new().filename(&path);
    let mut connection = options().connect().await.unwrap();
    sqlx::query("vacuum into $1")
        .bind(kept.display().to_string())
        .execute(&mut connection)
        .await
        .unwrap();
    connection.close().await.unwrap();
    let service = stopped.start().await;
    let acks = AtomicUsize::new(0);
    let client = service.client.clone();
    let asks = ids.iter().enumerate().map(|(n, id)| ask(&client, id, asked_of(n), &acks));
    join_all(asks).await;
    let stopped = service.kill().await;
    for end in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(stopped.folder().join(format!("runledger.db{end}")));
    }
    std::fs::rename(&kept, &path).unwrap();
    let service = stopped.start().await;
    let mut found = 0;
    for (n, id) in ids.iter().enumerate() {
        found += usize::from(!is_kept(&service.client, id, asked_of(n)).await);
    }
    println!("row=35 control=true faults_fired=1 value={found}");
    assert_eq!((found, acks.load(Ordering::SeqCst)), (RUNS, RUNS));
}
