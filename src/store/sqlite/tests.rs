//! What only SQLite can do wrong: its pragmas, its files, its codes, its plans.

mod lists;

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::FutureExt;
use sqlx::Row;

use super::journal::{OWNED, UPDATE_RUNS};
use super::ownership::DUE;
use super::*;
use crate::run::Seq;
use crate::store::{Append, BatchNumber, Create, NodeId, Store, StoredEvent};

/// A folder for a store, which goes at the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("runledger-sqlite-{}-{number}", std::process::id());
        Folder(std::env::temp_dir().join(name))
    }

    async fn open(&self) -> Sqlite {
        Sqlite::open(&self.0).await.expect("the store opens")
    }

    /// What is said where it can't be opened.
    async fn refusal(&self) -> String {
        let error = Sqlite::open(&self.0).await.expect_err("the store must not open");
        format!("{error:#}")
    }

    fn database(&self) -> PathBuf {
        self.0.join("runledger.db")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left behind lies in the folder for temporary files.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

async fn execute(store: &Sqlite, sql: &'static str) -> Result<(), StoreError> {
    store
        .write(move |connection| {
            async move {
                sqlx::raw_sql(sql).execute(connection).await.map_err(store_error)?;
                Ok(())
            }
            .boxed()
        })
        .await
}

/// A run of 1 event, owned by the node.
async fn born(store: &Sqlite, node: NodeId) -> RunId {
    let id = RunId(uuid::Uuid::now_v7());
    let create = Create {
        id,
        public_id: id.to_string(),
        tenant: "default".to_owned(),
        keys: Vec::new(),
        digest: String::new(),
        owner: Some(node),
        agent: None,
        model: String::new(),
        created_by: String::new(),
        created_at_ms: 0,
        input_preview: String::new(),
        metadata: "{}".to_owned(),
        spec: "{}".to_owned(),
        events: vec![event(1, "{}".to_owned())],
    };
    store.create(vec![create]).await.expect("it is created");
    id
}

fn event(seq: u64, data: String) -> StoredEvent {
    StoredEvent { seq: Seq(seq), kind: 3, data: Arc::from(data) }
}

async fn append(store: &Sqlite, node: NodeId, run: RunId, seq: u64, bytes: usize) {
    let data = format!("\"{}\"", "x".repeat(bytes));
    let batch = vec![Append { events: vec![event(seq, data)], ..Append::to(run) }];
    store.append(node, BatchNumber(seq), Arc::new(batch)).await.expect("it is committed");
}

#[tokio::test]
async fn what_is_acknowledged_is_on_disk() {
    let folder = Folder::new();
    let store = folder.open().await;
    // The second connection is the one that is made after something went wrong.
    for is_again in [false, true] {
        if is_again {
            store.faults().fail_commits(1);
            execute(&store, "select 1").await.expect_err("it fails");
            execute(&store, "select 1").await.expect("it is connected anew");
        }
        let mut writer = store.writer.lock().await;
        for (pragma, expected) in [
            ("pragma synchronous", "2"),
            ("pragma journal_mode", "wal"),
            ("pragma foreign_keys", "1"),
        ] {
            let row = sqlx::query(pragma).fetch_one(writer.connection()).await.expect("it is told");
            let value = row
                .try_get::<String, _>(0)
                .or_else(|_| row.try_get::<i64, _>(0).map(|number| number.to_string()))
                .expect("it is a word or a number");
            assert_eq!(value, expected, "{pragma}");
        }
    }
}

#[tokio::test]
async fn errors_are_told_apart_by_what_helps_against_them() {
    let folder = Folder::new();
    let store = folder.open().await;
    for of_the_data in [
        "insert into run_keys values (null, '', '', x'', '')",
        "update runs set node_id = 77 where id in (select x'00') or node_id = 77; \
         insert into runs (id, public_id, tenant, status, node_id, last_seq, model, created_by, \
         created_at, metadata) values (x'00', '', '', '', 77, 0, '', '', 0, '')",
        "select value from json_each('{')",
        "select zeroblob(2000000000)",
        "insert into queue (run_id) values (x'00')",
    ] {
        let error = execute(&store, of_the_data).await.expect_err("it is refused");
        assert!(matches!(error, StoreError::Data(_)), "{of_the_data}: {error:?}");
    }
    let mut readers = store.readers.acquire().await.expect("there is one");
    let written = sqlx::raw_sql("delete from runs").execute(&mut *readers).await.map(|_| ());
    let error = store_error(written.expect_err("readers only read"));
    assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
    let full = execute(
        &store,
        "pragma max_page_count = 1; create table more (x); \
        insert into more values (zeroblob(10000000))",
    )
    .await
    .expect_err("there is no room");
    assert!(matches!(full, StoreError::Unavailable(_)), "{full:?}");
    execute(&store, "select 1").await.expect("it goes on when there is room");
}

#[tokio::test]
async fn a_panic_in_a_transaction_is_one_failure_and_nothing_of_it_stays() {
    let folder = Folder::new();
    let store = folder.open().await;
    let (node, _) = store.register("node").await.expect("it registers");
    let run = born(&store, node).await;
    let panicked = store
        .write::<(), _>(|connection| {
            async move {
                sqlx::raw_sql("delete from events")
                    .execute(connection)
                    .await
                    .map_err(store_error)?;
                panic!("as a bug would")
            }
            .boxed()
        })
        .await;
    assert!(matches!(panicked, Err(StoreError::Data(_))), "{panicked:?}");
    append(&store, node, run, 2, 1).await;
    assert_eq!(store.events(run, Seq(0), 9, usize::MAX).await.expect("it is read").len(), 2);
}

#[tokio::test]
async fn one_process_has_the_folder_until_it_closes_the_store() {
    let folder = Folder::new();
    let store = folder.open().await;
    assert!(folder.refusal().await.contains("another process has the data folder"));
    store.close().await;
    let again = folder.open().await;
    let error = execute(&store, "select 1").await.expect_err("it is closed");
    assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
    again.close().await;
}

#[tokio::test]
async fn every_reader_is_there_before_descriptors_are_scarce() {
    let folder = Folder::new();
    let store = folder.open().await;
    assert_eq!((store.readers.size(), store.drivers.size()), (READERS, DRIVERS));
    store.close().await;
}

#[tokio::test]
async fn clients_that_read_keep_no_driver_waiting() {
    let folder = Folder::new();
    let store = Store::Sqlite(folder.open().await);
    let Store::Sqlite(of_readers) = &store else { unreachable!("it is SQLite") };
    let run = RunId(uuid::Uuid::nil());
    let mut taken = Vec::new();
    for _ in 0..READERS {
        taken.push(of_readers.readers.acquire().await.expect("there is one"));
    }
    assert_eq!(store.load(run).await.expect("it is read").map(|row| row.id), None);
    assert_eq!(store.log_for_fold(run).await.expect("it is read"), []);
    assert_eq!(store.load_for_client(run).now_or_never().map(drop), None, "the control waits");
    drop(taken);
    store.close().await;
}

#[tokio::test]
async fn nobody_else_reads_what_people_ask() {
    let folder = Folder::new();
    let mode =
        |path: &Path| std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    let store = folder.open().await;
    let (node, _) = store.register("node").await.expect("it registers");
    born(&store, node).await;
    assert_eq!(mode(&folder.0), 0o700);
    for entry in std::fs::read_dir(&folder.0).expect("it is a folder") {
        let path = entry.expect("it is there").path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
    store.close().await;
    let readable = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(folder.database(), readable).expect("it is ours");
    folder.open().await;
    assert_eq!(mode(&folder.database()), 0o600, "a file of an older start is closed too");
}

#[tokio::test]
async fn a_folder_that_can_not_be_had_is_told_as_what_it_is() {
    let folder = Folder::new();
    std::fs::write(&folder.0, "").expect("it is written");
    assert!(folder.refusal().await.contains("is not a folder"));
    std::fs::remove_file(&folder.0).expect("it was there");
    let beneath = Folder(PathBuf::from("/proc/nowhere/data"));
    assert!(beneath.refusal().await.contains("can't make the data folder /proc/nowhere/data"));
    std::fs::create_dir(&folder.0).expect("it is made");
    std::fs::write(folder.database(), "no database".repeat(1000)).expect("it is written");
    let refusal = folder.refusal().await;
    assert!(refusal.contains("is damaged, or not ours (") && refusal.contains("--data-dir"));
}

#[tokio::test]
async fn a_database_of_a_newer_release_is_left_alone() {
    let folder = Folder::new();
    let store = folder.open().await;
    execute(
        &store,
        "insert into _sqlx_migrations (version, description, success, checksum, execution_time)
         values (999, 'of the future', true, x'00', 0)",
    )
    .await
    .expect("it is written");
    store.close().await;
    let refusal = folder.refusal().await;
    assert!(refusal.contains("newer release (schema 999; this one knows 2)"), "{refusal}");
}

#[tokio::test]
async fn the_write_ahead_log_is_emptied_at_the_end() {
    let folder = Folder::new();
    let store = folder.open().await;
    let (node, _) = store.register("node").await.expect("it registers");
    let run = born(&store, node).await;
    append(&store, node, run, 2, 100_000).await;
    let wal = folder::wal(&folder.database());
    assert!(std::fs::metadata(&wal).expect("it is there").len() > 100_000);
    store.close().await;
    assert!(!wal.exists(), "the file alone is the store");
    let store = folder.open().await;
    assert_eq!(store.events(run, Seq(0), 9, usize::MAX).await.expect("it is read").len(), 2);
}

#[tokio::test]
async fn a_reader_that_stands_in_the_way_only_delays_the_cutting_of_the_log() {
    const LIMIT: u64 = 1024 * 1024;
    let folder = Folder::new();
    let store = Sqlite::open_with(&folder.0, LIMIT).await.expect("the store opens");
    let (node, _) = store.register("node").await.expect("it registers");
    let run = born(&store, node).await;
    let size = || std::fs::metadata(folder::wal(&folder.database())).map_or(0, |file| file.len());
    let mut reader = store.readers.begin().await.expect("it begins");
    sqlx::query("select count(*) from runs").fetch_one(&mut *reader).await.expect("it reads");
    for seq in 2..=40 {
        append(&store, node, run, seq, 200_000).await;
    }
    assert!(size() > 5 * LIMIT, "the reader keeps the log from being cut: {}", size());
    reader.rollback().await.expect("it ends");
    let began = std::time::Instant::now();
    let mut seq = 41;
    while size() >= 2 * LIMIT {
        let waited = began.elapsed();
        assert!(waited.as_secs() < 30, "it is cut when the reader has gone: {}", size());
        append(&store, node, run, seq, 20_000).await;
        seq += 1;
    }
    let read = store.events(run, Seq(40), 100_000, usize::MAX).await.expect("it is read");
    assert_eq!(read.len() as u64, seq - 41);
}

/// The steps in which SQLite carries out a statement.
async fn plan(store: &Sqlite, sql: &str) -> Vec<String> {
    let mut writer = store.writer.lock().await;
    sqlx::query(sqlx::AssertSqlSafe(format!("explain query plan {sql}")))
        .fetch_all(writer.connection())
        .await
        .expect("it is explained")
        .iter()
        .map(|row| row.get("detail"))
        .collect()
}

#[tokio::test]
async fn an_append_finds_its_runs_by_their_ids() {
    let folder = Folder::new();
    let store = folder.open().await;
    for sql in [OWNED, UPDATE_RUNS] {
        let steps = plan(&store, sql).await;
        let of_runs: Vec<&String> =
            steps.iter().filter(|step| step.starts_with("SEARCH runs")).collect();
        assert!(of_runs.len() == 1 && of_runs[0].contains("(id=?)"), "{steps:?}");
    }
}

#[tokio::test]
async fn a_claim_goes_along_the_queue_once_and_not_to_its_end() {
    let folder = Folder::new();
    let store = folder.open().await;
    let steps = plan(&store, DUE).await;
    let along: Vec<&String> = steps.iter().filter(|step| step.contains("queue_order")).collect();
    assert!(along.len() == 1 && steps[0] == *along[0], "{steps:?}");
    assert!(steps.iter().any(|step| step.contains("INDEX runs_suspect")), "{steps:?}");
    let sorts = steps.iter().filter(|step| step.contains("TEMP B-TREE")).count();
    assert_eq!(sorts, 1, "only the suspects are sorted, and those are few: {steps:?}");
}
