//! What nodes tell each other, through `notify`: hints, so short and few, on connections of their own,
//! and never in a transaction that writes.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use tokio::sync::Mutex;
use tokio::time::timeout;
use uuid::Uuid;

use super::{Postgres, READ, as_i64, seq_of};
use crate::run::RunId;
use crate::store::{Heard, NodeId, Notice, StoreError};

const CHANNEL: &str = "runledger";

/// PostgreSQL takes less than 8000 bytes at once.
const PAYLOAD_BYTES_MAX: usize = 7900;

/// After so long without a word the listener asks whether the server is still there: a connection
/// that has gone silent looks like one on which nobody speaks.
const SILENCE: Duration = Duration::from_secs(10);

/// How this node hears the others.
#[derive(Clone)]
pub(super) struct Ear {
    /// None where the operator has turned it off.
    address: Option<PgConnectOptions>,
    listener: Arc<Mutex<Option<PgListener>>>,
}

impl std::fmt::Debug for Ear {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ear").field("is_on", &self.address.is_some()).finish_non_exhaustive()
    }
}

impl Ear {
    pub(super) fn at(address: &PgConnectOptions) -> Ear {
        let address = address.clone().application_name("runledger listen");
        Ear { address: Some(address), listener: Arc::default() }
    }

    pub(super) fn off() -> Ear {
        Ear { address: None, listener: Arc::default() }
    }

    pub(super) async fn close(&self) {
        // Whoever listens holds it, and drops it with the wait.
        if let Ok(mut listener) = self.listener.try_lock() {
            *listener = None;
        }
    }
}

impl Postgres {
    pub(in crate::store) async fn notify(
        &self,
        node: NodeId,
        notices: Vec<Notice>,
    ) -> Result<(), StoreError> {
        if self.ear.address.is_none() || notices.is_empty() {
            return Ok(());
        }
        let payloads = payloads(node, &notices);
        self.notices
            .run(|connection| {
                Box::pin(async move {
                    sqlx::query(
                        "select pg_notify($1, payload) from unnest($2::text[]) as told (payload)",
                    )
                    .bind(CHANNEL)
                    .bind(payloads)
                    .execute(connection)
                    .await?;
                    Ok(())
                })
            })
            .await
    }

    /// What was told on a connection is lost with it: the first word on a new one is that.
    pub(in crate::store) async fn hear(&self, node: NodeId) -> Result<Heard, StoreError> {
        let Some(address) = &self.ear.address else { return std::future::pending().await };
        let mut held = self.ear.listener.lock().await;
        let Some(listener) = held.as_mut() else {
            let listening = timeout(READ, listen(address.clone()));
            *held = Some(listening.await.map_err(|_late| silent())?.map_err(unheard)?);
            return Ok(Heard::Missed);
        };
        loop {
            let heard = match timeout(SILENCE, listener.try_recv()).await {
                Ok(heard) => heard,
                Err(_silence) => {
                    let asked = timeout(READ, sqlx::query("select 1").execute(&mut *listener));
                    match asked.await {
                        Ok(Ok(_)) => continue,
                        Ok(Err(error)) => Err(error),
                        Err(_late) => {
                            *held = None;
                            return Err(silent());
                        }
                    }
                }
            };
            match heard {
                Ok(Some(told)) => {
                    if let Some(notices) = parse(told.payload(), node) {
                        return Ok(Heard::Notices(notices));
                    }
                }
                Ok(None) => {
                    *held = None;
                    return Err(StoreError::Unavailable("the listener was cut off".to_owned()));
                }
                Err(error) => {
                    *held = None;
                    return Err(unheard(error));
                }
            }
        }
    }
}

async fn listen(address: PgConnectOptions) -> Result<PgListener, sqlx::Error> {
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .idle_timeout(None)
        .max_lifetime(None)
        .acquire_timeout(READ)
        .connect_lazy_with(address);
    let mut listener = PgListener::connect_with(&pool).await?;
    // We connect anew ourselves, with a deadline.
    listener.eager_reconnect(false);
    listener.ignore_pool_close_event(true);
    listener.listen(CHANNEL).await?;
    Ok(listener)
}

fn silent() -> StoreError {
    StoreError::Unavailable(format!("the listener has no answer within {READ:?}"))
}

fn unheard(error: sqlx::Error) -> StoreError {
    StoreError::Unavailable(format!("can't listen: {error}"))
}

/// The sender, and words: `q`, `n<node>.<run>`, `c<run>.<seq>`, `l<run>`.
fn payloads(node: NodeId, notices: &[Notice]) -> Vec<String> {
    let mut payloads: Vec<String> = Vec::new();
    for notice in notices {
        let word = match notice {
            Notice::Queued => "q".to_owned(),
            Notice::News(owner, run) => format!("n{}.{}", owner.0, run.0.simple()),
            Notice::Committed(run, seq) => format!("c{}.{}", run.0.simple(), as_i64(seq.0)),
            Notice::Listened(run) => format!("l{}", run.0.simple()),
        };
        match payloads.last_mut() {
            Some(last) if last.len() + 1 + word.len() <= PAYLOAD_BYTES_MAX => {
                last.push(' ');
                last.push_str(&word);
            }
            Some(_) | None => payloads.push(format!("{} {word}", node.0)),
        }
    }
    payloads
}

/// None where it is nothing for this node: its own words, or those of a release that it doesn't know.
fn parse(payload: &str, me: NodeId) -> Option<Vec<Notice>> {
    let (sender, words) = payload.split_once(' ')?;
    if sender.parse() == Ok(me.0) {
        return None;
    }
    let mut notices = Vec::new();
    for word in words.split(' ') {
        match parse_word(word) {
            Some(notice) => notices.push(notice),
            None => tracing::debug!("a notice of node {sender} can't be read: {word:?}"),
        }
    }
    (!notices.is_empty()).then_some(notices)
}

fn parse_word(word: &str) -> Option<Notice> {
    let run = |text: &str| Uuid::try_parse(text).ok().map(RunId);
    match word.split_at_checked(1)? {
        ("q", "") => Some(Notice::Queued),
        ("n", rest) => {
            let (owner, of) = rest.split_once('.')?;
            Some(Notice::News(NodeId(owner.parse().ok()?), run(of)?))
        }
        ("c", rest) => {
            let (of, seq) = rest.split_once('.')?;
            Some(Notice::Committed(run(of)?, seq_of(seq.parse().ok()?)))
        }
        ("l", rest) => Some(Notice::Listened(run(rest)?)),
        _ => None,
    }
}
