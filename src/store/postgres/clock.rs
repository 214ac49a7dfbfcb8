//! The database's clock, as one node knows it between two looks at it.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Told by the database's answers and carried on by this machine's monotonic clock, so that the wall
/// clock here plays no part. It is never ahead of the database: what is due by it is due there.
#[derive(Clone, Debug)]
pub(super) struct Clock {
    began: Instant,
    known: Arc<Mutex<Known>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// The database's time, in microseconds since 1970, when `began` was; at least so much.
    base_us: i64,
    /// How far this machine's wall clock is ahead of the database's, milliseconds.
    skew_ms: i64,
}

impl Clock {
    pub(super) fn new() -> Clock {
        Clock { began: Instant::now(), known: Arc::default() }
    }

    /// The database said that it was `database_us`, in an answer to what was asked at `asked`.
    pub(super) fn learn(&self, asked: Instant, database_us: i64) {
        let answered = Instant::now();
        let wall_us = jiff::Timestamp::now().as_microsecond();
        let trip_us = micros(answered.duration_since(asked));
        let low = database_us - micros(answered.duration_since(self.began));
        let high = low + trip_us;
        let mut known = self.known.lock().expect("nothing panics while it is held");
        // Both are bounds from below, so the greater is the better; unless the database's clock was
        // put back.
        known.base_us = if known.base_us > high { low } else { low.max(known.base_us) };
        known.skew_ms = (wall_us - trip_us / 2 - database_us) / 1000;
    }

    /// Milliseconds since 1970.
    pub(super) fn now_ms(&self) -> i64 {
        let known = *self.known.lock().expect("nothing panics while it is held");
        (known.base_us + micros(self.began.elapsed())) / 1000
    }

    pub(super) fn skew_ms(&self) -> i64 {
        self.known.lock().expect("nothing panics while it is held").skew_ms
    }
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).expect("no process runs that long")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_US: i64 = 3_600_000_000;

    #[test]
    fn time_goes_on_between_answers_and_never_ahead_of_them() {
        let clock = Clock::new();
        clock.learn(Instant::now(), HOUR_US);
        let first = clock.now_ms();
        assert!((3_600_000..3_700_000).contains(&first), "{first}");
        // An answer that was long on its way says less than is known.
        let long_ago = Instant::now().checked_sub(Duration::from_secs(50)).expect("it was up");
        clock.learn(long_ago, HOUR_US - 40_000_000);
        assert!(clock.now_ms() >= first, "it is no reason to go back");
    }

    #[test]
    fn a_database_whose_clock_was_put_back_is_followed() {
        let clock = Clock::new();
        clock.learn(Instant::now(), 3 * HOUR_US);
        clock.learn(Instant::now(), HOUR_US);
        let now = clock.now_ms();
        assert!((3_600_000..3_700_000).contains(&now), "{now}");
        clock.learn(Instant::now(), 2 * HOUR_US);
        assert!(clock.now_ms() >= 7_200_000);
        assert!(clock.skew_ms() > 0, "it is later than 1970 here");
    }
}
