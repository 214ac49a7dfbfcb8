//! PostgreSQL is stopped and started under load: what was acknowledged is there, and the store is back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use runledger::run::{RunId, Seq};
use runledger::store::{Append, BatchNumber, Create, Created, Store, StoreError, StoredEvent};

use sqlx::Connection;
use sqlx::postgres::PgConnection;

use crate::bench::{event, intent, options, to};
use crate::postgres_server::{Cluster, Database};
use crate::scale::scaled;

/// Within so long of the server's start a store writes again.
const BACK: Duration = Duration::from_secs(3);

/// What one node has written and been told.
struct Load {
    store: Store,
    node: runledger::store::NodeId,
    number: BatchNumber,
    /// Up to where each run was acknowledged.
    acked: BTreeMap<RunId, u64>,
    errors: u64,
    /// The most that any reader has seen of a run.
    seen: BTreeMap<RunId, Vec<StoredEvent>>,
}

impl Load {
    async fn on(store: Store) -> Load {
        let (node, _) = store.register("load").await.expect("it registers");
        let (number, acked, seen) = (BatchNumber::default(), BTreeMap::new(), BTreeMap::new());
        Load { store, node, number, acked, errors: 0, seen }
    }

    /// Readers look while the newest runs are written to; what they see is never taken back.
    async fn look(&mut self) {
        let runs: Vec<RunId> = self.acked.keys().rev().take(8).copied().collect();
        for run in runs {
            if let Ok(log) = self.store.events(run, Seq(0), 100_000).await {
                self.saw(run, log);
            }
        }
    }

    fn saw(&mut self, run: RunId, log: Vec<StoredEvent>) {
        let most = self.seen.entry(run).or_default();
        if log.len() > most.len() {
            *most = log;
        }
    }

    /// Creates a run, and appends to all there are; each is sent again until it is acknowledged, which
    /// is the store's contract, or until the deadline.
    async fn step(&mut self, deadline: Instant) -> Result<(), StoreError> {
        let create = Create { owner: Some(self.node), ..intent("restart") };
        let store = self.store.clone();
        let created = self.again(deadline, || store.create(vec![create.clone()])).await?;
        assert_eq!(created, [Created::New]);
        self.acked.insert(create.id, 1);
        let runs: Vec<(RunId, u64)> =
            self.acked.iter().rev().take(8).map(|(r, s)| (*r, *s)).collect();
        let batch: Vec<Append> = runs
            .iter()
            .map(|(run, last)| Append { events: vec![event(last + 1, "text")], ..to(*run) })
            .collect();
        self.number = self.number.next();
        let (node, number, batch) = (self.node, self.number, Arc::new(batch));
        let store = self.store.clone();
        // A reader looks meanwhile, at what is just being committed too.
        let watched = runs[0].0;
        let appending = self.again(deadline, || store.append(node, number, Arc::clone(&batch)));
        let (appended, seen) = tokio::join!(appending, store.events(watched, Seq(0), 100_000));
        appended?;
        if let Ok(log) = seen {
            self.saw(watched, log);
        }
        for (run, last) in runs {
            self.acked.insert(run, last + 1);
        }
        Ok(())
    }

    async fn again<T, F>(&mut self, deadline: Instant, ask: impl Fn() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        loop {
            match ask().await {
                Err(StoreError::Unavailable(_)) if Instant::now() < deadline => {
                    self.errors += 1;
                    tokio::task::yield_now().await;
                }
                done => return done,
            }
        }
    }
}

/// How many runs have not all of what was acknowledged, or have more, or not what was seen of them.
async fn wrong(load: &Load) -> u64 {
    let mut wrong = 0;
    for (run, seq) in &load.acked {
        let log = load.store.events(*run, Seq(0), 100_000).await.expect("the log is read");
        wrong += u64::from(!log.iter().map(|event| event.seq.0).eq(1..=*seq));
        let seen = load.seen.get(run).map(Vec::as_slice).unwrap_or_default();
        wrong += u64::from(!log.starts_with(seen));
    }
    wrong
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_when_sessions_are_killed() {
    let url = Database::new().await.url;
    let store = Store::open_postgres(options(&url)).await.expect("it opens");
    let mut load = Load::on(store).await;
    let mut killer = PgConnection::connect(&url).await.expect("it connects");
    let (mut killed, mut slowest) = (0, Duration::ZERO);
    for _ in 0..60 {
        let began = Instant::now();
        let kill = sqlx::query_scalar::<_, i64>(
            "select count(pg_terminate_backend(pid)) from pg_stat_activity
              where datname = current_database() and application_name like 'runledger %'",
        )
        .fetch_one(&mut killer);
        let deadline = began + BACK;
        let steps = async {
            for _ in 0..3 {
                load.step(deadline).await.expect("it comes back");
            }
        };
        let (kills, ()) = tokio::join!(kill, steps);
        killed += kills.expect("they are killed");
        slowest = slowest.max(began.elapsed());
        load.look().await;
    }
    let (wrong, acks) = (wrong(&load).await, load.acked.values().sum::<u64>());
    println!(
        "row=7 fault=killed-sessions faults_fired={killed} ops_ok={acks} value={wrong} \
         back_ms={} errors={} seen={}",
        slowest.as_millis(),
        load.errors,
        load.seen.len()
    );
    assert!(killed >= 60 && load.errors >= 20 && acks >= 500, "too little to prove anything");
    assert_eq!(wrong, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_by_restarts_of_the_database() {
    let mut cluster = Cluster::start();
    let store = Store::open_postgres(options(&cluster.url())).await.expect("it opens");
    let restarts = scaled(4, 10);
    let mut load = Load::on(store).await;
    let (mut slowest, mut hit) = (Duration::ZERO, 0);
    for _ in 0..restarts {
        for _ in 0..20 {
            load.step(Instant::now()).await.expect("the database is there");
        }
        load.look().await;
        let before = load.errors;
        let writing = tokio::spawn(async move {
            let deadline = Instant::now() + Duration::from_secs(60);
            while load.errors == before {
                load.step(deadline).await.expect("it comes back");
            }
            (load, Instant::now())
        });
        let stopped = tokio::task::spawn_blocking(move || {
            cluster.stop();
            cluster.go_on();
            (cluster, Instant::now())
        });
        let started;
        (cluster, started) = stopped.await.expect("it is started again");
        let back;
        (load, back) = writing.await.expect("it writes again");
        slowest = slowest.max(back.saturating_duration_since(started));
        hit += u64::from(load.errors > before);
    }
    let lost = wrong(&load).await;
    let acks = load.acked.values().sum::<u64>();
    println!(
        "row=7 fault=restarts faults_fired={hit} ops_ok={acks} value={lost} back_ms={} seen={}",
        slowest.as_millis(),
        load.seen.len()
    );
    assert!(hit == restarts as u64 && acks >= 100 * hit, "too little to prove anything");
    assert_eq!(lost, 0);
    assert!(slowest < BACK, "{slowest:?}");
}

/// The control: an event that was acknowledged and is gone, and one that a reader was shown and that
/// was never committed, are found.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_event_and_one_that_was_shown_before_its_commit_are_found_out() {
    let url = Database::new().await.url;
    let mut load = Load::on(Store::open_postgres(options(&url)).await.expect("it opens")).await;
    for _ in 0..20 {
        load.step(Instant::now()).await.expect("the database is there");
    }
    load.look().await;
    assert_eq!(wrong(&load).await, 0);
    let mut runs = load.acked.iter().map(|(run, seq)| (*run, *seq));
    let ((lost, last), (shown, next)) = (runs.next().unwrap(), runs.next().unwrap());
    let mut session = PgConnection::connect(&url).await.expect("it connects");
    sqlx::query("delete from events where run_id = $1 and seq = $2")
        .bind(lost.0)
        .bind(i64::try_from(last).expect("it is small"))
        .execute(&mut session)
        .await
        .expect("it is lost");
    // Shown by a session that dies before its commit.
    let mut log = load.store.events(shown, Seq(0), 100_000).await.expect("the log is read");
    log.push(event(next + 1, "text"));
    load.saw(shown, log);
    let found = wrong(&load).await;
    let acks = load.acked.values().sum::<u64>();
    println!("row=7 control=true faults_fired=2 ops_ok={acks} value={found}");
    assert!(found >= 2, "{found}");
}
