//! The embedded store: one SQLite file in one folder, locked for one process.
//!
//! One connection writes, a few read. WAL with `synchronous=FULL`: what is acknowledged is on disk.
//! Every write is one `begin immediate` transaction in a task of its own, so that no caller can drop
//! it half-way.

mod create;
mod journal;
mod ownership;
mod read;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use futures_util::future::BoxFuture;
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
    SqliteSynchronous,
};
use sqlx::{ConnectOptions, Connection, SqlSafeStr};
use tokio::sync::Mutex;

use super::StoreError;
use crate::run::RunId;

/// How many connections read. Reads are short; more would only wait for the two cores of a small
/// machine.
const READERS: u32 = 4;

/// How long a connection waits for SQLite's own lock, which only checkpoints take here.
const BUSY: std::time::Duration = std::time::Duration::from_secs(5);

/// The embedded store.
#[derive(Clone, Debug)]
pub struct Sqlite {
    path: PathBuf,
    writer: Arc<Mutex<SqliteConnection>>,
    readers: SqlitePool,
    /// SQLite lets two processes in; this lock doesn't. Held as long as the store is.
    _lock: Arc<File>,
}

impl Sqlite {
    /// Opens the store in `folder`, makes it where there is none, and brings its schema up to date.
    pub(super) async fn open(folder: &Path) -> anyhow::Result<Sqlite> {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("can't make the data folder {}", folder.display()))?;
        let lock_path = folder.join("runledger.lock");
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .with_context(|| format!("can't open {}", lock_path.display()))?;
        if lock.try_lock().is_err() {
            bail!(
                "another process has the data folder {}; SQLite is for one node, so stop that one \
                 or choose another --data-dir",
                folder.display()
            );
        }
        let path = folder.join("runledger.db");
        let options = SqliteConnectOptions::new()
            .filename(&path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(BUSY)
            .statement_cache_capacity(64);
        let mut writer =
            options.connect().await.with_context(|| format!("can't open {}", path.display()))?;
        migrations().run(&mut writer).await.context("can't bring the schema up to date")?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .test_before_acquire(false)
            .connect_with(options.read_only(true).create_if_missing(false))
            .await
            .with_context(|| format!("can't read {}", path.display()))?;
        Ok(Sqlite { path, writer: Arc::new(Mutex::new(writer)), readers, _lock: Arc::new(lock) })
    }

    pub(super) fn describe(&self) -> String {
        format!("SQLite, {} (one node)", self.path.display())
    }

    pub(super) async fn close(&self) {
        self.readers.close().await;
        // Waits for the transaction under way; SQLite needs no farewell.
        drop(self.writer.lock().await);
    }

    /// Runs one write transaction to its end, whatever becomes of the caller.
    async fn write<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T, StoreError>>
            + Send
            + 'static,
    {
        let writer = Arc::clone(&self.writer);
        let task = tokio::spawn(async move {
            let mut connection = writer.lock().await;
            let mut transaction =
                connection.begin_with("begin immediate").await.map_err(unavailable)?;
            let done = work(&mut transaction).await?;
            transaction.commit().await.map_err(unavailable)?;
            Ok(done)
        });
        match task.await {
            Ok(done) => done,
            Err(stopped) => Err(StoreError::Unavailable(stopped.to_string())),
        }
    }
}

fn migrations() -> Migrator {
    Migrator::with_migrations(vec![Migration::new(
        1,
        "runs".into(),
        MigrationType::Simple,
        include_str!("../../../migrations/sqlite/0001_runs.sql").into_sql_str(),
        false,
    )])
}

fn unavailable(error: sqlx::Error) -> StoreError {
    match &error {
        sqlx::Error::Database(inner)
            if inner.is_unique_violation()
                || inner.is_check_violation()
                || inner.is_foreign_key_violation() =>
        {
            StoreError::Data(inner.to_string())
        }
        _other => StoreError::Unavailable(error.to_string()),
    }
}

fn id_bytes(run: RunId) -> Vec<u8> {
    run.0.as_bytes().to_vec()
}

fn id_of(bytes: &[u8]) -> Result<RunId, StoreError> {
    uuid::Uuid::from_slice(bytes)
        .map(RunId)
        .map_err(|error| StoreError::Corrupt(format!("a run's id: {error}")))
}

fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}
