//! The open loop: so many a second, whether or not the earlier ones have ended. A delay counts from
//! the time at which it should have begun, so that a stalled service is not asked less.

use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::task::JoinSet;

/// Begins `per_second` of them for so long, and waits for all. Each is given its number and the time
/// at which it should begin.
///
/// # Errors
/// The first of theirs; the others are dropped.
pub(crate) async fn open<T, W, F>(per_second: f64, lasts: Duration, work: W) -> Result<Vec<T>>
where
    T: Send + 'static,
    W: Fn(usize, Instant) -> F,
    F: Future<Output = Result<T>> + Send + 'static,
{
    let began = Instant::now();
    let count = (per_second * lasts.as_secs_f64()) as usize;
    let mut under_way = JoinSet::new();
    let mut brought = Vec::with_capacity(count);
    for number in 0..count {
        let then = began + Duration::from_secs_f64(number as f64 / per_second);
        tokio::time::sleep_until(then.into()).await;
        under_way.spawn(work(number, then));
        while let Some(ended) = under_way.try_join_next() {
            brought.push(ended??);
        }
    }
    while let Some(ended) = under_way.join_next().await {
        brought.push(ended??);
    }
    Ok(brought)
}
