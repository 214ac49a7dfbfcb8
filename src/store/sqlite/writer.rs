//! The one connection that writes: its schema, its transactions, its write-ahead log.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use futures_util::future::BoxFuture;
use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Connection, SqlSafeStr};

use super::{BUSY, store_error};
use crate::failpoint::{Step, reach};
use crate::store::StoreError;

/// How long the cutting of the write-ahead log waits for readers: all commits wait with it.
const CUT_WAIT: Duration = Duration::from_millis(20);

/// How long after an attempt in vain the next one comes at the soonest, where the log grows no more.
const CUT_AGAIN: Duration = Duration::from_secs(1);

/// The connection that writes, made again where one is no longer known to be good.
#[derive(Debug)]
pub(super) struct Writer {
    options: SqliteConnectOptions,
    connection: Option<SqliteConnection>,
    is_closed: bool,
    wal: PathBuf,
    wal_bytes_max: u64,
    /// The size of the log at which it is cut next.
    cut_at: u64,
    /// When it was last tried in vain.
    cut_failed: Option<Instant>,
    trouble: Trouble,
    #[cfg(test)]
    pub(super) faults: super::faults::Faults,
}

/// Why nothing can be written at the moment: the disk is full, say. None since a write has gone through.
#[derive(Clone, Debug, Default)]
pub(super) struct Trouble {
    reason: Arc<Mutex<Option<String>>>,
}

impl Trouble {
    pub(super) fn reason(&self) -> Option<String> {
        self.reason.lock().expect("nothing panics while it is held").clone()
    }

    fn note(&self, reason: Option<String>) {
        *self.reason.lock().expect("nothing panics while it is held") = reason;
    }
}

impl Writer {
    pub(super) fn new(
        options: SqliteConnectOptions,
        wal: PathBuf,
        wal_bytes_max: u64,
        trouble: Trouble,
    ) -> Writer {
        Writer {
            options,
            connection: None,
            is_closed: false,
            wal,
            wal_bytes_max,
            cut_at: wal_bytes_max,
            cut_failed: None,
            trouble,
            #[cfg(test)]
            faults: super::faults::Faults::default(),
        }
    }

    /// Connects, and brings the schema up to date.
    pub(super) async fn prepare(&mut self, path: &Path) -> anyhow::Result<()> {
        let mut connection = match self.options.connect().await {
            Ok(connection) => connection,
            Err(error) => match store_error(error) {
                StoreError::Corrupt(reason) => bail!(
                    "{} is damaged, or not ours ({reason}): bring back a copy, or choose another \
                     --data-dir",
                    path.display()
                ),
                other => {
                    return Err(other).with_context(|| format!("can't open {}", path.display()));
                }
            },
        };
        let migrations = migrations(&MIGRATIONS);
        match migrations.run(&mut connection).await {
            Ok(()) => {}
            Err(MigrateError::VersionMissing(version)) => bail!(
                "{} was written by a newer release (schema {version}; this one knows {}): start \
                 that release, or choose another --data-dir",
                path.display(),
                migrations.iter().map(|one| one.version).max().unwrap_or_default()
            ),
            Err(error) => {
                return Err(error).with_context(|| {
                    format!("can't bring the schema of {} up to date", path.display())
                });
            }
        }
        self.connection = Some(connection);
        Ok(())
    }

    /// Runs one transaction, and notes whether writing works.
    pub(super) async fn transact<T, F>(&mut self, work: F) -> Result<T, StoreError>
    where
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T, StoreError>>,
    {
        let done = self.attempt(work).await;
        match &done {
            Ok(_) => self.trouble.note(None),
            Err(StoreError::Unavailable(reason)) => self.trouble.note(Some(reason.clone())),
            // Of what was to be written, or for good.
            Err(StoreError::Data(_) | StoreError::Fenced | StoreError::Corrupt(_)) => {}
        }
        done
    }

    /// A connection on which something went wrong is closed, because what
    /// SQLite has rolled back by itself and what the driver counts as open no longer agree; closing
    /// it also ends whatever it may still have held.
    async fn attempt<T, F>(&mut self, work: F) -> Result<T, StoreError>
    where
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T, StoreError>>,
    {
        // Out of its place meanwhile: should the work panic, nobody uses it again.
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None if self.is_closed => {
                return Err(StoreError::Unavailable("the store is closed".to_owned()));
            }
            None => self.options.connect().await.map_err(of_the_transaction)?,
        };
        let done = self.transaction(&mut connection, work).await;
        match &done {
            Ok(_) => {
                self.cut_wal(&mut connection).await;
                self.connection = Some(connection);
            }
            Err(StoreError::Data(_) | StoreError::Fenced) => self.connection = Some(connection),
            Err(StoreError::Unavailable(_) | StoreError::Corrupt(_)) => {
                if let Err(error) = connection.close().await {
                    tracing::debug!(error = %error, "a connection could not be closed");
                }
            }
        }
        done
    }

    async fn transaction<T, F>(
        &self,
        connection: &mut SqliteConnection,
        work: F,
    ) -> Result<T, StoreError>
    where
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T, StoreError>>,
    {
        let mut transaction =
            connection.begin_with("begin immediate").await.map_err(of_the_transaction)?;
        match work(&mut transaction).await {
            Ok(done) => {
                #[cfg(test)]
                self.faults.before_commit()?;
                reach(Step::Committing);
                transaction.commit().await.map_err(of_the_transaction)?;
                #[cfg(test)]
                self.faults.after_commit()?;
                Ok(done)
            }
            Err(error) => {
                transaction.rollback().await.map_err(of_the_transaction)?;
                Err(error)
            }
        }
    }

    /// Cuts the write-ahead log where it has grown too long. Where a reader is in the way, the next
    /// attempt comes when the log has grown as much again, or after a while: one that SQLite has begun
    /// anew by itself stays as long as it was.
    async fn cut_wal(&mut self, connection: &mut SqliteConnection) {
        let bytes = self.wal_bytes();
        let is_owed = bytes >= self.wal_bytes_max
            && self.cut_failed.is_some_and(|since| since.elapsed() >= CUT_AGAIN);
        if bytes < self.cut_at && !is_owed {
            return;
        }
        let cut = async {
            wait_for_locks(connection, CUT_WAIT).await?;
            checkpoint(connection).await?;
            wait_for_locks(connection, BUSY).await
        };
        if let Err(error) = cut.await {
            tracing::warn!(error = %error, "the write-ahead log can't be cut");
        }
        let left = self.wal_bytes();
        self.cut_at = left + self.wal_bytes_max;
        self.cut_failed = (left >= self.wal_bytes_max).then(Instant::now);
    }

    fn wal_bytes(&self) -> u64 {
        std::fs::metadata(&self.wal).map_or(0, |file| file.len())
    }

    pub(super) async fn close(&mut self) {
        self.is_closed = true;
        let Some(mut connection) = self.connection.take() else { return };
        let closed = async {
            checkpoint(&mut connection).await?;
            connection.close().await.map_err(store_error)
        };
        if let Err(error) = closed.await {
            tracing::warn!(error = %error, "the next start reads the write-ahead log");
        }
    }

    #[cfg(test)]
    pub(super) fn connection(&mut self) -> &mut SqliteConnection {
        self.connection.as_mut().expect("it is open between transactions")
    }
}

/// The schema, step by step. A step that was released never changes.
pub(super) const MIGRATIONS: [(&str, &str); 2] = [
    ("runs", include_str!("../../../migrations/sqlite/0001_runs.sql")),
    ("lists", include_str!("../../../migrations/sqlite/0002_lists.sql")),
];

pub(super) fn migrations(steps: &'static [(&str, &str)]) -> Migrator {
    let steps = steps.iter().zip(1..).map(|((name, sql), version)| {
        let name = (*name).into();
        Migration::new(version, name, MigrationType::Simple, sql.into_sql_str(), false)
    });
    Migrator::with_migrations(steps.collect())
}

/// Whatever goes wrong with a transaction as such is nobody's data.
fn of_the_transaction(error: sqlx::Error) -> StoreError {
    match store_error(error) {
        StoreError::Data(reason) | StoreError::Unavailable(reason) => {
            StoreError::Unavailable(reason)
        }
        other @ (StoreError::Corrupt(_) | StoreError::Fenced) => other,
    }
}

async fn wait_for_locks(
    connection: &mut SqliteConnection,
    wait: Duration,
) -> Result<(), StoreError> {
    let pragma = format!("pragma busy_timeout = {}", wait.as_millis());
    sqlx::raw_sql(sqlx::AssertSqlSafe(pragma)).execute(connection).await.map_err(store_error)?;
    Ok(())
}

async fn checkpoint(connection: &mut SqliteConnection) -> Result<(), StoreError> {
    sqlx::raw_sql("pragma wal_checkpoint(truncate)")
        .execute(connection)
        .await
        .map_err(store_error)?;
    Ok(())
}
