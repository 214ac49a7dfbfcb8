//! The edge to the database: every statement of this store goes through here and has a deadline.
//!
//! A connection that has missed a deadline, or has broken, is dropped at once: nothing waits for it,
//! and nothing is cancelled, because what it was about to commit may be committed still. Those that
//! lay idle meanwhile are asked whether they are there before they are used again.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Connection};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::error::{is_connection_sound, store_error};
use crate::store::StoreError;

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(2);

/// By how much the server gives up before we do: its word on what became of a statement is better
/// than our guess.
const SERVER_FIRST: Duration = Duration::from_millis(500);

/// A connection that has lain idle for longer is asked first whether it is there: the server may have
/// been started anew.
const IDLE: Duration = Duration::from_secs(1);

/// How long a connection may take to say that it is there, or goodbye: a new one is soon made.
const WORD: Duration = Duration::from_millis(500);

/// With so many days, a plan that is kept for all of them costs more to begin than a new one to make.
const KEPT_DAYS_MAX: u32 = 60;

/// When statements are planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plans {
    /// By PostgreSQL's own judgement.
    Usual,
    /// Once a connection, while there are few days: everything there is looked up by keys, and planning
    /// would cost more than carrying out.
    Kept,
}

/// Some connections for one purpose.
#[derive(Clone, Debug)]
pub(super) struct Edge {
    purpose: Arc<Purpose>,
}

/// When a connection of this store was last found broken, whatever its purpose.
#[derive(Clone, Debug, Default)]
pub(super) struct Breaks {
    last: Arc<Mutex<Option<Instant>>>,
}

impl Breaks {
    fn note(&self) {
        *self.last.lock().expect("nothing panics while it is held") = Some(Instant::now());
    }

    fn have_been_since(&self, then: Instant) -> bool {
        let last = *self.last.lock().expect("nothing panics while it is held");
        last.is_some_and(|last| last >= then)
    }
}

struct Purpose {
    options: PgConnectOptions,
    /// What is said on a new connection.
    greeting: String,
    deadline: Duration,
    connections: u32,
    breaks: Breaks,
    permits: Arc<Semaphore>,
    /// Since when each has been idle.
    free: Mutex<Vec<(PgConnection, Instant)>>,
}

impl std::fmt::Debug for Purpose {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The options have the password.
        f.debug_struct("Purpose")
            .field("name", &self.options.get_application_name())
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

impl Edge {
    /// At most so many connections, on each of which a statement gets so long.
    pub(super) fn new(
        options: &PgConnectOptions,
        name: &str,
        connections: u32,
        (deadline, plans): (Duration, Plans),
        breaks: &Breaks,
    ) -> Edge {
        Edge {
            purpose: Arc::new(Purpose {
                options: options.clone().application_name(&format!("runledger {name}")),
                greeting: greeting(deadline, plans),
                deadline,
                connections,
                breaks: breaks.clone(),
                permits: Arc::new(Semaphore::new(connections as usize)),
                free: Mutex::new(Vec::new()),
            }),
        }
    }

    /// Does some work on a connection, to its end, whatever becomes of the caller: dropped before it
    /// has one, nothing is begun.
    pub(super) async fn run<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut PgConnection) -> BoxFuture<'c, Result<T, sqlx::Error>>
            + Send
            + 'static,
    {
        let purpose = Arc::clone(&self.purpose);
        let permit =
            match timeout(purpose.deadline, Arc::clone(&purpose.permits).acquire_owned()).await {
                Ok(Ok(permit)) => permit,
                Ok(Err(_closed)) => {
                    return Err(StoreError::Unavailable("the store is closed".to_owned()));
                }
                Err(_late) => {
                    return Err(StoreError::Unavailable(format!(
                        "all connections to the database were in use for {:?}",
                        purpose.deadline
                    )));
                }
            };
        let task = tokio::spawn(async move {
            let _permit = permit;
            let Ok(done) = timeout(purpose.deadline, purpose.attempt(work)).await else {
                purpose.breaks.note();
                return Err(StoreError::Unavailable(format!(
                    "the database gave no answer within {:?}",
                    purpose.deadline
                )));
            };
            done.map_err(store_error)
        });
        match task.await {
            Ok(done) => done,
            // It would panic again: whoever's data it was is refused alone.
            Err(stopped) if stopped.is_panic() => Err(StoreError::Data(stopped.to_string())),
            Err(stopped) => Err(StoreError::Unavailable(stopped.to_string())),
        }
    }

    /// Ends its connections, after what is under way on them; from now on it has none.
    pub(super) async fn close(&self) {
        let purpose = &self.purpose;
        let waits = timeout(purpose.deadline, purpose.permits.acquire_many(purpose.connections));
        if waits.await.is_err() {
            tracing::warn!("the database has not answered what was asked last");
        }
        purpose.permits.close();
        for (connection, _since) in purpose.take_free() {
            if !matches!(timeout(WORD, connection.close()).await, Ok(Ok(()))) {
                tracing::debug!("a connection to the database did not say goodbye");
            }
        }
    }
}

impl Purpose {
    async fn attempt<T, F>(&self, work: F) -> Result<T, sqlx::Error>
    where
        F: for<'c> FnOnce(&'c mut PgConnection) -> BoxFuture<'c, Result<T, sqlx::Error>>,
    {
        let mut connection = self.take().await?;
        // Out of its place meanwhile: should the work panic or be late, nobody uses it again.
        let done = work(&mut connection).await;
        match &done {
            Err(error) if !is_connection_sound(error) => self.breaks.note(),
            Ok(_) | Err(_) => {
                let free = (connection, Instant::now());
                self.free.lock().expect("nothing panics while it is held").push(free);
            }
        }
        done
    }

    async fn take(&self) -> Result<PgConnection, sqlx::Error> {
        let free = self.free.lock().expect("nothing panics while it is held").pop();
        match free {
            Some((connection, since))
                if since.elapsed() < IDLE && !self.breaks.have_been_since(since) =>
            {
                Ok(connection)
            }
            Some((mut connection, _long_ago)) => {
                if matches!(timeout(WORD, connection.ping()).await, Ok(Ok(()))) {
                    return Ok(connection);
                }
                self.breaks.note();
                // Those that lay idle beside it are no better: to ask each would take its time.
                drop(self.take_free());
                self.connect().await
            }
            None => self.connect().await,
        }
    }

    async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        let connecting = async {
            let mut connection = self.options.connect().await?;
            sqlx::raw_sql(sqlx::AssertSqlSafe(self.greeting.clone()))
                .execute(&mut connection)
                .await?;
            Ok(connection)
        };
        timeout(CONNECT, connecting).await.unwrap_or_else(|_late| {
            let late = format!("no connection within {CONNECT:?}");
            Err(sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, late)))
        })
    }

    fn take_free(&self) -> Vec<(PgConnection, Instant)> {
        std::mem::take(&mut self.free.lock().expect("nothing panics while it is held"))
    }
}

/// The settings on which this store depends, whatever the server's are. Commits that are only in
/// memory are none; those that wait for standbys stay as they are. Everything is looked up by a key, also
/// in a day's first minutes, when the statistics say that there is nothing to be read; and no statement
/// is so long that it is worth compiling.
fn greeting(deadline: Duration, plans: Plans) -> String {
    let plans = match plans {
        Plans::Usual => String::new(),
        // Were a plan kept that was made while a day was empty, it would join by reading all of it.
        Plans::Kept => format!(
            "set enable_hashjoin = off; set enable_mergejoin = off;
             select set_config('plan_cache_mode', case when count(*) <= {KEPT_DAYS_MAX}
                                                       then 'force_generic_plan'
                                                       else 'force_custom_plan' end, false)
               from pg_inherits where inhparent = to_regclass('runs');"
        ),
    };
    let statement = deadline.saturating_sub(SERVER_FIRST).max(deadline / 2).as_millis();
    let silence = deadline.as_millis();
    format!(
        "{plans} set statement_timeout = {statement}; set idle_in_transaction_session_timeout = {silence}; \
         set tcp_user_timeout = {silence}; \
         set default_transaction_isolation = 'read committed'; set enable_seqscan = off; \
         set jit = off; \
         select set_config('synchronous_commit', 'on', false) \
          where current_setting('synchronous_commit') = 'off'"
    )
}
