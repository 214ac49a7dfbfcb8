//! Following a run: every event once and in order, over as many connections as it takes.

use std::collections::VecDeque;
use std::time::Duration;

use futures_util::{Stream, stream};
use reqwest::Response;
use tokio::time::{Instant, sleep, timeout};

use super::{Client, Failed, Miss, PAUSE_MAX, PAUSE_MIN, Refusal, words};
use crate::model::sse_decoder::{SseDecoder, SseEvent};
use crate::run::Seq;

/// A stream says that it lives every 10 s: after three times that, the connection is dead.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// What is heard of a run.
#[derive(Debug)]
pub(super) enum Heard {
    /// The next event, as the log has it.
    Event(Told),
    /// The connection broke off, or can't be made; it is tried again.
    Lost(String),
}

/// An event of a log.
#[derive(Debug)]
pub(super) struct Told {
    /// Its type.
    pub(super) kind: String,
    /// Its JSON, byte for byte.
    pub(super) text: String,
}

impl Told {
    /// The last event of a run.
    pub(super) fn is_terminal(&self) -> bool {
        ["run.completed", "run.failed", "run.cancelled"].contains(&self.kind.as_str())
    }
}

struct Following<'a> {
    client: &'a Client,
    run: &'a str,
    after: Seq,
    connection: Option<(Response, SseDecoder)>,
    ready: VecDeque<SseEvent>,
    /// When the server last gave a sign of life.
    heard_at: Instant,
    pause: Duration,
    is_over: bool,
}

/// The run's events from the first to the terminal one. It ends early, with why, where the server
/// refuses or stays away longer than patience lasts.
pub(super) fn follow<'a>(
    client: &'a Client,
    run: &'a str,
) -> impl Stream<Item = Result<Heard, Failed>> + use<'a> {
    let following = Following {
        client,
        run,
        after: Seq(0),
        connection: None,
        ready: VecDeque::new(),
        heard_at: Instant::now(),
        pause: Duration::ZERO,
        is_over: false,
    };
    stream::unfold(following, |mut following| async move {
        if following.is_over {
            return None;
        }
        let heard = following.next().await;
        following.is_over = match &heard {
            Ok(Heard::Event(told)) => told.is_terminal(),
            Ok(Heard::Lost(_)) => false,
            Err(_) => true,
        };
        Some((heard, following))
    })
}

impl Following<'_> {
    async fn next(&mut self) -> Result<Heard, Failed> {
        loop {
            while let Some(event) = self.ready.pop_front() {
                if let Some(told) = self.take(event)? {
                    return Ok(Heard::Event(told));
                }
            }
            let lost = match self.connection.take() {
                None => self.connect().await?,
                Some((response, decoder)) => self.read(response, decoder).await?,
            };
            if let Some(reason) = lost {
                if self.heard_at.elapsed() >= self.client.patience {
                    return Err(self.client.unreachable(reason));
                }
                return Ok(Heard::Lost(reason));
            }
        }
    }

    /// Connects behind the last event; says why not where that may go better in a while.
    async fn connect(&mut self) -> Result<Option<String>, Failed> {
        let left = self.client.patience.saturating_sub(self.heard_at.elapsed());
        sleep(self.pause.min(left)).await;
        self.pause = (self.pause * 2).clamp(PAUSE_MIN, PAUSE_MAX);
        match self.client.open(self.run, self.after).await {
            Ok(response) => {
                self.connection = Some((response, SseDecoder::default()));
                Ok(None)
            }
            Err(Miss::NoConnection(reason) | Miss::Again { reason, after: _ }) => Ok(Some(reason)),
            Err(Miss::No(refusal)) => Err(Failed::Refused(refusal)),
        }
    }

    /// Reads on; says why the connection is over where it is. What the decoder holds of an event
    /// that was cut is dropped with it: the next connection brings the whole.
    async fn read(
        &mut self,
        mut response: Response,
        mut decoder: SseDecoder,
    ) -> Result<Option<String>, Failed> {
        match timeout(SILENCE_MAX, response.chunk()).await {
            Ok(Ok(Some(bytes))) => {
                self.heard_at = Instant::now();
                self.pause = Duration::ZERO;
                let events = decoder.push(&bytes).map_err(|error| refused(error.to_string()))?;
                self.ready.extend(events);
                self.connection = Some((response, decoder));
                Ok(None)
            }
            Ok(Ok(None)) => Ok(Some("the stream ended before the run".to_owned())),
            Ok(Err(error)) => Ok(Some(words(&error))),
            Err(_elapsed) => {
                Ok(Some(format!("the stream was silent for {} s", SILENCE_MAX.as_secs())))
            }
        }
    }

    /// The event, where it is news.
    fn take(&mut self, event: SseEvent) -> Result<Option<Told>, Failed> {
        let SseEvent { name, id, data } = event;
        let seq = id.as_deref().and_then(|id| id.parse().ok()).map(Seq);
        match (seq, name) {
            (Some(seq), _) if seq <= self.after => Ok(None),
            (Some(seq), Some(kind)) if seq == self.after.next() => {
                self.after = seq;
                Ok(Some(Told { kind, text: data }))
            }
            (_, _) => Err(refused(format!("the stream goes on wrongly behind {}", self.after))),
        }
    }
}

fn refused(detail: String) -> Failed {
    Failed::Refused(Refusal::new(detail))
}
