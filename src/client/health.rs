//! Whether a service is well, asked once: for a container's health check.

use std::time::Duration;

use reqwest::Method;
use tokio::time::timeout;

use super::{Client, Miss, answer};

/// How long the answer may take: whoever asks has little patience, five seconds in our image.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(4);

/// What a service is asked about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// Whether the process lives.
    Alive,
    /// Whether it may take work.
    Ready,
}

impl Question {
    fn path(self) -> &'static str {
        match self {
            Question::Alive => "/healthz",
            Question::Ready => "/readyz",
        }
    }

    fn word(self) -> &'static str {
        match self {
            Question::Alive => "alive",
            Question::Ready => "ready",
        }
    }
}

impl Client {
    /// Asks once, and gives the answer in words.
    ///
    /// # Errors
    /// In words, where the answer is no, or does not come.
    pub async fn health(&self, question: Question) -> Result<String, String> {
        let word = question.word();
        let asked = timeout(HEALTH_TIMEOUT, answer(self.request(Method::GET, question.path())));
        let reason = match asked.await {
            Ok(Ok(_well)) => return Ok(format!("{} is {word}", self.url)),
            Ok(Err(Miss::NoConnection(reason) | Miss::Again { reason, .. })) => reason,
            Ok(Err(Miss::No(refusal))) => refusal.to_string(),
            Err(_elapsed) => format!("no answer within {} s", HEALTH_TIMEOUT.as_secs()),
        };
        Err(format!("{} is not {word}: {reason}", self.url))
    }
}
