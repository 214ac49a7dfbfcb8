//! `runledger healthcheck`: is the service of this machine, or of a URL, well?

use std::time::Duration;

use super::run::http;
use crate::client::{Client, Question};
use crate::config::HealthcheckFlags;

/// Asks what the flags say, once, and gives the answer in words.
///
/// # Errors
/// In words, where the answer is no or can't be had.
pub async fn healthcheck(flags: &HealthcheckFlags) -> anyhow::Result<String> {
    let url = flags.url()?;
    // It is asked once: whoever checks asks again.
    let client = Client::new(http(&url)?, &url, None, Duration::ZERO)?;
    let question = if flags.ready { Question::Ready } else { Question::Alive };
    client.health(question).await.map_err(anyhow::Error::msg)
}
