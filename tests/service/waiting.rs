//! Waiting with a deadline: nothing sleeps and hopes, and nothing hangs for ever.

use std::time::Duration;

use tokio::time::{Instant, timeout};

/// After this a test has failed; nothing waits for it to pass. Generous, for loaded machines.
pub const TEST_MAX: Duration = Duration::from_secs(90);

/// How often something is looked at that can't say when it changes.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// The future's output, or the end of the test.
#[track_caller]
pub fn within<T>(what: &str, future: impl Future<Output = T>) -> impl Future<Output = T> {
    let place = std::panic::Location::caller();
    async move {
        match timeout(TEST_MAX, future).await {
            Ok(output) => output,
            Err(_elapsed) => panic!("{place}: waited in vain for {what}"),
        }
    }
}

/// Looks until there is something.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let deadline = Instant::now() + TEST_MAX;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}
