//! A store to try things on, and short words for what is tried.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use runledger::run::event::kind_of;
use runledger::run::{RunId, Seq, Status};
use runledger::store::memory::{Database as InMemory, Flaws, Sound};
use runledger::store::{
    Append, Appended, BatchNumber, Claimed, Create, Created, InboxNote, Key, KeyKind, Left, Listen,
    NodeId, PostgresOptions, Rescued, RunRow, RunUpdate, Store, StoreError, StoredEvent,
};
use sqlx::postgres::PgConnection;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection};
use uuid::Uuid;

use crate::postgres_server::Database;

pub(crate) const TENANT: &str = "default";

/// So long that no lease ends in a test by itself.
const LEASE: Duration = Duration::from_secs(600);

/// How long a test waits for what takes milliseconds.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A store in a place of its own.
pub(crate) struct Bench {
    pub(crate) store: Store,
    pub(crate) place: Place,
}

/// Where a store is: another process finds it there too, unless it is in memory.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    Folder(PathBuf),
    Url(String),
    Memory(Arc<InMemory>),
}

impl Place {
    pub(crate) async fn open(&self) -> Store {
        match self {
            Place::Folder(folder) => Store::open_sqlite(folder).await.expect("the store opens"),
            Place::Url(url) => Store::open_postgres(options(url)).await.expect("the store opens"),
            Place::Memory(database) => database.open(LEASE, Arc::new(Sound)),
        }
    }

    /// As a word that `parse` reads.
    pub(crate) fn name(&self) -> String {
        match self {
            Place::Folder(folder) => folder.display().to_string(),
            Place::Url(url) => url.clone(),
            Place::Memory(_) => panic!("no other process finds what is in memory"),
        }
    }

    pub(crate) fn parse(name: &str) -> Place {
        if name.contains("://") {
            Place::Url(name.to_owned())
        } else {
            Place::Folder(PathBuf::from(name))
        }
    }
}

pub(crate) fn options(url: &str) -> PostgresOptions {
    PostgresOptions { url: url.to_owned(), listen: Listen::Same, lease: LEASE }
}

impl Bench {
    pub(crate) async fn sqlite() -> Bench {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("runledger-conformance-{}-{number}", std::process::id());
        let place = Place::Folder(std::env::temp_dir().join(name));
        Bench { store: place.open().await, place }
    }

    pub(crate) async fn postgres() -> Bench {
        let place = Place::Url(Database::new().await.url);
        Bench { store: place.open().await, place }
    }

    pub(crate) async fn memory() -> Bench {
        let place = Place::Memory(InMemory::new(Flaws::default()));
        Bench { store: place.open().await, place }
    }

    /// The same store, opened anew, when nothing of before is under way any more.
    pub(crate) async fn reopen(&mut self) {
        self.store.close().await;
        if let Place::Url(_) = &self.place {
            nobody_is_connected_beside(&mut self.session().await).await;
        }
        self.store = self.place.open().await;
    }

    /// The same, beside a session that goes on.
    pub(crate) async fn reopen_beside(&mut self, session: &mut PgConnection) {
        self.store.close().await;
        nobody_is_connected_beside(session).await;
        self.store = self.place.open().await;
    }

    /// A session of its own at the database.
    pub(crate) async fn session(&self) -> PgConnection {
        let Place::Url(url) = &self.place else { panic!("only PostgreSQL has sessions") };
        PgConnection::connect(url).await.expect("it connects")
    }

    /// Changes words of a function of the database: for controls. How often they were there.
    pub(crate) async fn change(&self, function: &str, words: &str, by: &str) -> usize {
        let mut session = self.session().await;
        let body: String = sqlx::query_scalar("select pg_get_functiondef($1::regproc)")
            .bind(function)
            .fetch_one(&mut session)
            .await
            .expect("there is such a function");
        let changed = sqlx::AssertSqlSafe(body.replace(words, by));
        sqlx::raw_sql(changed).execute(&mut session).await.expect("it is a function still");
        session.close().await.expect("it is closed");
        body.matches(words).count()
    }

    /// A new node. Where only one can live, those before it die.
    pub(crate) async fn node(&self) -> Node {
        let (id, _rescued) = self.store.register("bench").await.expect("it registers");
        Node { store: self.store.clone(), id, number: BatchNumber::default() }
    }

    /// A new node, after all those before it have died; and what it took over.
    pub(crate) async fn successor(&self) -> (Node, Rescued) {
        match &self.place {
            Place::Folder(_) => {}
            Place::Url(_) => {
                sqlx::query("update node_leases set lease_until = '-infinity'")
                    .execute(&mut self.session().await)
                    .await
                    .expect("their leases end");
            }
            Place::Memory(database) => database.end_leases(),
        }
        let (id, found) = self.store.register("bench").await.expect("it registers");
        let rescued = self.store.rescue(id).await.expect("it looks for dead nodes");
        let node = Node { store: self.store.clone(), id, number: BatchNumber::default() };
        let crashed = found.crashed + rescued.crashed;
        (node, Rescued { crashed, handed_over: found.handed_over })
    }

    pub(crate) async fn create_one(&self, create: Create) -> Created {
        self.store.create(vec![create]).await.expect("it is asked").remove(0)
    }

    /// A run that waits, created at this time.
    pub(crate) async fn queued_at(&self, created_at_ms: i64) -> RunId {
        let create = Create { created_at_ms, ..intent("queued") };
        let run = create.id;
        assert_eq!(self.create_one(create).await, Created::New);
        run
    }

    /// Puts a run that waits off until then.
    pub(crate) async fn put_off(&self, run: RunId, until_ms: i64) {
        match &self.place {
            Place::Folder(folder) => {
                let file = SqliteConnectOptions::new().filename(folder.join("runledger.db"));
                let mut session = file.connect().await.expect("it connects");
                sqlx::query("update queue set run_at = $2 where run_id = $1")
                    .bind(run.0.as_bytes().to_vec())
                    .bind(until_ms)
                    .execute(&mut session)
                    .await
                    .expect("it is put off");
                session.close().await.expect("it is closed");
            }
            Place::Url(_) => {
                sqlx::query("update queue set run_at = $2 where run_id = $1")
                    .bind(run.0)
                    .bind(until_ms)
                    .execute(&mut self.session().await)
                    .await
                    .expect("it is put off");
            }
            Place::Memory(database) => database.put_off(run, until_ms),
        }
    }

    pub(crate) async fn queued(&self) -> RunId {
        self.queued_at(self.store.now_ms()).await
    }

    pub(crate) async fn owned(&self, node: NodeId) -> Vec<RunId> {
        self.store.heartbeat(node, 1, 0).await.expect("the node lives").owned
    }

    pub(crate) async fn row(&self, run: RunId) -> RunRow {
        self.store.load(run).await.expect("it is read").expect("it is there")
    }

    pub(crate) async fn seqs(&self, run: RunId) -> Vec<u64> {
        let log = self.store.events(run, Seq(0), 100_000).await.expect("the log is read");
        log.iter().map(|event| event.seq.0).collect()
    }

    pub(crate) async fn leave(&self, run: RunId, kind: &'static str, key: &str) -> Left {
        let note = InboxNote { kind, dedupe_key: key.to_owned(), body: "{}".to_owned() };
        self.store.leave(TENANT, run, note).await.expect("it is left")
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if let Place::Folder(folder) = &self.place {
            // What is left behind lies in the folder for temporary files.
            let _ = std::fs::remove_dir_all(folder);
        }
    }
}

/// A server that was sent something by a process that was killed goes on with it.
async fn nobody_is_connected_beside(session: &mut PgConnection) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (others,): (i64,) = sqlx::query_as(
            "select count(*) from pg_stat_activity
              where datname = current_database() and backend_type = 'client backend'
                and pid <> pg_backend_pid()",
        )
        .fetch_one(&mut *session)
        .await
        .expect("it is counted");
        if others == 0 {
            return;
        }
        assert!(Instant::now() < deadline, "{others} sessions do not end");
        tokio::task::yield_now().await;
    }
}

/// A node and the number of its last batch.
pub(crate) struct Node {
    pub(crate) store: Store,
    pub(crate) id: NodeId,
    pub(crate) number: BatchNumber,
}

impl Node {
    /// A run that this node owns from its birth; its log has one event.
    pub(crate) async fn born(&self) -> RunId {
        let create = Create { owner: Some(self.id), ..intent("born") };
        let run = create.id;
        let created = self.store.create(vec![create]).await.expect("it is asked");
        assert_eq!(created, [Created::New]);
        run
    }

    /// A run that this node owns and has started; its log has two events.
    pub(crate) async fn started(&mut self) -> RunId {
        let run = self.born().await;
        self.start(run).await;
        run
    }

    pub(crate) async fn start(&mut self, run: RunId) {
        let from = self.store.load(run).await.expect("it is read").expect("it is there").last_seq;
        let update = Some(update(Status::Running));
        let append = Append { events: vec![event(from.0 + 1, "run.started")], update, ..to(run) };
        assert_eq!(self.append(vec![append]).await, Ok(vec![Appended::All]));
    }

    pub(crate) async fn append(&mut self, batch: Vec<Append>) -> Result<Vec<Appended>, String> {
        self.number = self.number.next();
        self.send(self.number, batch).await.map_err(|error| error.to_string())
    }

    pub(crate) async fn send(
        &self,
        number: BatchNumber,
        batch: Vec<Append>,
    ) -> Result<Vec<Appended>, StoreError> {
        self.store.append(self.id, number, Arc::new(batch)).await
    }

    pub(crate) async fn claim(&self, slots: u32) -> Vec<Claimed> {
        self.store.claim(self.id, slots).await.expect("the queue is read").runs
    }

    pub(crate) async fn claim_runs(&self, slots: u32) -> Vec<RunId> {
        self.claim(slots).await.into_iter().map(|claimed| claimed.run).collect()
    }
}

/// A run to create, with an id of its own and no keys.
pub(crate) fn intent(digest: &str) -> Create {
    let id = RunId(Uuid::now_v7());
    Create {
        id,
        public_id: id.to_string(),
        tenant: TENANT.to_owned(),
        keys: Vec::new(),
        digest: digest.to_owned(),
        owner: None,
        agent: None,
        model: "demo/assistant".to_owned(),
        created_by: "local".to_owned(),
        created_at_ms: 1_700_000_000_000,
        input_preview: String::new(),
        metadata: "{}".to_owned(),
        spec: r#"{"input":"Hi\u0000"}"#.to_owned(),
        events: vec![event(1, "run.queued")],
    }
}

pub(crate) fn key(name: &str) -> Key {
    Key { kind: KeyKind::Idempotency, key: name.to_owned() }
}

pub(crate) fn client_id(name: &str) -> Key {
    Key { kind: KeyKind::RunId, key: name.to_owned() }
}

pub(crate) fn event(seq: u64, name: &str) -> StoredEvent {
    let data = format!(r#"{{"seq":{seq},"at":"2026-11-22T10:00:00.000Z","type":"{name}"}}"#);
    let kind = kind_of(name).expect("there is such a type");
    StoredEvent { seq: Seq(seq), kind, data: Arc::from(data) }
}

pub(crate) fn to(run: RunId) -> Append {
    Append::to(run)
}

/// An append of texts at these places.
pub(crate) fn texts(run: RunId, places: std::ops::RangeInclusive<u64>) -> Append {
    Append { events: places.map(|seq| event(seq, "text")).collect(), ..to(run) }
}

pub(crate) fn update(status: Status) -> RunUpdate {
    RunUpdate { status, stop_reason: None, output_preview: None, at_ms: 1_700_000_000_001 }
}

/// The end of a run at this place.
pub(crate) fn ending(run: RunId, seq: u64) -> Append {
    let update = Some(update(Status::Completed));
    Append { events: vec![event(seq, "run.completed")], update, ..to(run) }
}
