//! The embedded store: one SQLite file in one folder, locked for one process.
//!
//! One connection writes, a few read. WAL with `synchronous=FULL`: what is acknowledged is on disk.
//! Every write is one `begin immediate` transaction in a task of its own, so that no caller can drop
//! it half-way.

mod batch;
mod create;
mod erase;
#[cfg(test)]
pub(crate) mod faults;
mod folder;
mod journal;
mod labels;
mod list;
mod ownership;
mod read;
#[cfg(test)]
mod tests;
mod writer;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use anyhow::Context;
use futures_util::future::BoxFuture;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
    SqliteSynchronous,
};
use tokio::sync::Mutex;

use super::StoreError;
use crate::run::RunId;
use writer::{Trouble, Writer};

/// How many connections read. Reads are short; more would only wait for the two cores of a small
/// machine.
const READERS: u32 = 4;

/// How many connections read for drivers and for what the node owns, apart from those of the clients,
/// so that neither starves the other.
const DRIVERS: u32 = 2;

/// How long a connection waits for SQLite's own locks, which only checkpoints take here.
const BUSY: std::time::Duration = std::time::Duration::from_secs(5);

/// From what size on the write-ahead log is cut with a short wait for readers. SQLite's own
/// checkpoints never wait, so under readers without a pause they never begin the log anew.
const WAL_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// The embedded store.
#[derive(Clone, Debug)]
pub struct Sqlite {
    path: PathBuf,
    writer: Arc<Mutex<Writer>>,
    /// For clients.
    readers: SqlitePool,
    drivers: SqlitePool,
    trouble: Trouble,
    /// SQLite lets two processes in; this lock doesn't. Held until the store is closed.
    lock: Arc<File>,
    #[cfg(test)]
    faults: faults::Faults,
}

impl Sqlite {
    /// Opens the store in `folder`, makes it where there is none, and brings its schema up to date.
    pub(super) async fn open(folder: &Path) -> anyhow::Result<Sqlite> {
        Sqlite::open_with(folder, WAL_BYTES_MAX).await
    }

    async fn open_with(folder: &Path, wal_bytes_max: u64) -> anyhow::Result<Sqlite> {
        folder::make(folder)?;
        let lock = folder::lock(folder)?;
        let path = folder.join("runledger.db");
        folder::make_private(&path)?;
        folder::write_again(&folder::wal(&path))?;
        let options = SqliteConnectOptions::new()
            .filename(&path)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(BUSY)
            .statement_cache_capacity(64);
        let trouble = Trouble::default();
        let wal = folder::wal(&path);
        let mut writer = Writer::new(options.clone(), wal, wal_bytes_max, trouble.clone());
        writer.prepare(&path).await?;
        folder::sync(folder)?;
        let options = options.read_only(true);
        let pool = async |connections| {
            SqlitePoolOptions::new()
                .max_connections(connections)
                // All of them, for good: one that is made later needs a descriptor, and connections
                // of clients may have taken the last.
                .min_connections(connections)
                .idle_timeout(None)
                .max_lifetime(None)
                .test_before_acquire(false)
                .connect_with(options.clone())
                .await
                .with_context(|| format!("can't read {}", path.display()))
        };
        let (readers, drivers) = (pool(READERS).await?, pool(DRIVERS).await?);
        #[cfg(test)]
        let faults = writer.faults.clone();
        Ok(Sqlite {
            path,
            writer: Arc::new(Mutex::new(writer)),
            readers,
            drivers,
            trouble,
            lock: Arc::new(lock),
            #[cfg(test)]
            faults,
        })
    }

    pub(super) fn describe(&self) -> String {
        format!("SQLite, {} (one node)", self.path.display())
    }

    pub(super) fn trouble(&self) -> Option<String> {
        self.trouble.reason()
    }

    /// What goes wrong in this store, for the tests of those who must live with it.
    #[cfg(test)]
    pub(crate) fn faults(&self) -> &faults::Faults {
        &self.faults
    }

    pub(super) async fn close(&self) {
        // The readers first: the last connection empties the write-ahead log into the file, and only
        // one that writes can.
        self.readers.close().await;
        self.drivers.close().await;
        self.writer.lock().await.close().await;
        if let Err(error) = self.lock.unlock() {
            tracing::warn!(error = %error, "the data folder stays locked until the process ends");
        }
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
        match tokio::spawn(async move { writer.lock().await.transact(work).await }).await {
            Ok(done) => done,
            // It is rolled back, and would panic again: whoever's data it was is refused alone.
            Err(stopped) if stopped.is_panic() => Err(StoreError::Data(stopped.to_string())),
            Err(stopped) => Err(StoreError::Unavailable(stopped.to_string())),
        }
    }
}

/// What an error of a statement means for the caller, by SQLite's primary result code
/// (<https://sqlite.org/rescode.html>).
fn store_error(error: sqlx::Error) -> StoreError {
    let text = error.to_string();
    match &error {
        sqlx::Error::Database(inner) => {
            let code = inner.code().and_then(|code| code.parse::<u32>().ok());
            match code.map(|extended| extended & 0xff) {
                // ERROR (of the statement, as malformed JSON is), TOOBIG, CONSTRAINT, MISMATCH, RANGE:
                // it is refused however often it is sent.
                Some(1 | 18 | 19 | 20 | 25) => StoreError::Data(text),
                // CORRUPT, NOTADB.
                Some(11 | 26) => StoreError::Corrupt(text),
                // BUSY, LOCKED, NOMEM, READONLY, IOERR, FULL, CANTOPEN and the like: it may pass.
                Some(_) | None => StoreError::Unavailable(text),
            }
        }
        sqlx::Error::Encode(_) => StoreError::Data(text),
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) | sqlx::Error::RowNotFound => {
            StoreError::Corrupt(text)
        }
        _of_the_connection => StoreError::Unavailable(text),
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

fn as_i64(number: u64) -> i64 {
    i64::try_from(number).expect("nothing is counted that far")
}

/// Milliseconds since 1970, never going back in this process: what is due stays due.
fn now_ms() -> i64 {
    static LAST: AtomicI64 = AtomicI64::new(0);
    let now = jiff::Timestamp::now().as_millisecond();
    LAST.fetch_max(now, Ordering::Relaxed).max(now)
}
