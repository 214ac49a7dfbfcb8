//! One run from its beginning to its end, as the command line has it.

use std::io;
use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt;
use serde_json::Value;
use tokio::io::{AsyncWriteExt, Stderr, Stdout};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;

use super::following::{Heard, follow};
use super::screen::{Look, Piece, Screen};
use super::{Client, Failed};

/// How often the progress line says how long it has been.
const TICK: Duration = Duration::from_secs(1);

/// What is run.
#[derive(Clone, Debug)]
pub struct Ask {
    /// The body of `POST /runs`.
    pub body: Value,
    /// This intent's own `Idempotency-Key`.
    pub key: String,
    /// Whether others can see the run: then its id is told.
    pub is_shared: bool,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// COMPLETED.
    Completed,
    /// FAILED.
    Failed,
    /// What was asked for can't be had.
    Refused,
    /// No server, or it stayed away.
    Unreachable,
    /// CANCELLED, or left before it was.
    Cancelled,
    /// Nobody reads the output, or it can't be written.
    Unread,
}

impl Outcome {
    /// The exit code of the process. Those above 128 are what shells say of a signal.
    pub fn code(self) -> u8 {
        match self {
            Outcome::Completed => 0,
            Outcome::Failed => 1,
            Outcome::Refused => 2,
            Outcome::Unreachable => 3,
            Outcome::Cancelled => 130,
            Outcome::Unread => 141,
        }
    }
}

/// Runs it, and shows it. Once `cancel` is cancelled, so is the run; the session goes on to its end.
///
/// # Cancel safety
/// Dropped, it leaves the run to the server.
pub async fn session(
    client: &Client,
    ask: &Ask,
    look: Look,
    cancel: &CancellationToken,
) -> Outcome {
    let mut shown = Shown {
        screen: Screen::new(look),
        out: tokio::io::stdout(),
        err: tokio::io::stderr(),
        is_told: false,
    };
    let outcome = match shown.until_created(client, ask, cancel).await {
        Ok(Ok(run)) => shown.until_the_end(client, ask, &run, cancel).await,
        Ok(Err(failed)) => Ok(shown.failed(&failed)),
        Err(gone) => Err(gone),
    };
    shown.screen.end();
    let written = shown.write().await;
    match outcome.and_then(|outcome| written.map(|()| outcome)) {
        Ok(outcome) => outcome,
        // Whoever hung up wants no more, also no complaint.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Outcome::Unread,
        Err(error) => {
            shown.screen.complain(&format!("can't write to standard output: {error}"));
            // It went to standard error: there is no third place to say it.
            let _ = shown.write().await;
            Outcome::Unread
        }
    }
}

fn ticks() -> Interval {
    let mut ticks = interval_at(Instant::now() + TICK, TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

struct Shown {
    screen: Screen,
    out: Stdout,
    err: Stderr,
    /// It was said that the wish to cancel has arrived.
    is_told: bool,
}

impl Shown {
    /// A wish to cancel waits for the run: whether there is one is not known before.
    async fn until_created(
        &mut self,
        client: &Client,
        ask: &Ask,
        cancel: &CancellationToken,
    ) -> io::Result<Result<String, Failed>> {
        self.screen.wait("connecting".to_owned());
        let mut created = pin!(client.create(&ask.body, &ask.key));
        let mut ticks = ticks();
        loop {
            self.write().await?;
            // As below.
            tokio::select! {
                biased;
                () = cancel.cancelled(), if !self.is_told => self.tell(),
                created = &mut created => return Ok(created),
                _ = ticks.tick() => self.screen.tick(),
            }
        }
    }

    fn tell(&mut self) {
        self.is_told = true;
        self.screen.note("cancelling; Ctrl-C again leaves at once");
    }

    async fn until_the_end(
        &mut self,
        client: &Client,
        ask: &Ask,
        run: &str,
        cancel: &CancellationToken,
    ) -> io::Result<Outcome> {
        if ask.is_shared {
            self.screen.name(run);
        }
        let mut events = pin!(follow(client, run));
        let mut cancelled = pin!(async {
            cancel.cancelled().await;
            client.cancel(run).await
        });
        let mut is_asked = false;
        let mut ticks = ticks();
        loop {
            self.write().await?;
            // The wish to stop goes before the news, the news before the clock.
            tokio::select! {
                biased;
                () = cancel.cancelled(), if !self.is_told => self.tell(),
                answer = &mut cancelled, if !is_asked => {
                    is_asked = true;
                    if let Err(failed) = answer {
                        return Ok(self.failed(&failed));
                    }
                }
                heard = events.next() => match heard.expect("it ends with a terminal event") {
                    Ok(Heard::Event(told)) => {
                        self.screen.event(&told);
                        match told.kind.as_str() {
                            "run.completed" => return Ok(Outcome::Completed),
                            "run.failed" => return Ok(Outcome::Failed),
                            "run.cancelled" => return Ok(Outcome::Cancelled),
                            _ => {}
                        }
                    }
                    Ok(Heard::Lost(reason)) => {
                        self.screen.wait(format!("connecting again ({reason})"));
                    }
                    Err(failed) => {
                        let outcome = self.failed(&failed);
                        self.screen.note(&format!("run {run} may go on without us"));
                        return Ok(outcome);
                    }
                },
                _ = ticks.tick() => self.screen.tick(),
            }
        }
    }

    fn failed(&mut self, failed: &Failed) -> Outcome {
        self.screen.complain(&failed.to_string());
        match failed {
            Failed::Unreachable { .. } => Outcome::Unreachable,
            Failed::Refused(_) => Outcome::Refused,
        }
    }

    /// In order: both may be the same terminal.
    async fn write(&mut self) -> io::Result<()> {
        for piece in self.screen.take() {
            match piece {
                Piece::Out(text) => {
                    self.out.write_all(text.as_bytes()).await?;
                    self.out.flush().await?;
                }
                // The answer counts, also where nobody sees what is said beside it.
                Piece::Err(text) => {
                    let _ = self.err.write_all(text.as_bytes()).await;
                    let _ = self.err.flush().await;
                }
            }
        }
        Ok(())
    }
}
