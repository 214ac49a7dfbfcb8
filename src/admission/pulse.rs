//! What is known of a driver from outside: how to wake it, and by when it will have moved.

use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

/// A driver, as seen from outside.
#[derive(Debug)]
pub struct Pulse {
    news: Notify,
    due: Mutex<Instant>,
}

impl Default for Pulse {
    fn default() -> Pulse {
        Pulse { news: Notify::new(), due: Mutex::new(Instant::now()) }
    }
}

impl Pulse {
    /// The run has news in its inbox.
    pub fn wake(&self) {
        self.news.notify_one();
    }

    /// Waits for news. What was told before counts.
    ///
    /// # Cancel safety
    /// Dropping it loses nothing.
    pub async fn notified(&self) {
        self.news.notified().await;
    }

    /// The driver will have done its present step by then, or something is wrong with it.
    pub fn promise(&self, due: Instant) {
        *self.due.lock().unwrap_or_else(PoisonError::into_inner) = due;
    }

    /// Whether it has broken its promise.
    pub fn is_late(&self, now: Instant) -> bool {
        now > *self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
