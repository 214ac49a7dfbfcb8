//! Many delays, told as a few numbers.

use std::time::Duration;

use hdrhistogram::Histogram;

/// Delays of up to an hour to a thousandth, in microseconds.
#[derive(Clone, Debug)]
pub(crate) struct Delays(Histogram<u64>);

impl Delays {
    pub(crate) fn new() -> Delays {
        let histogram = Histogram::new_with_bounds(1, 3_600_000_000, 3);
        Delays(histogram.expect("the bounds are in order"))
    }

    pub(crate) fn add(&mut self, delay: Duration) {
        // What is longer than an hour counts as one.
        self.0.saturating_record(u64::try_from(delay.as_micros()).unwrap_or(u64::MAX));
    }

    pub(crate) fn merge(&mut self, other: &Delays) {
        self.0.add(&other.0).expect("all have the same bounds");
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.len()
    }

    /// The delay that this part of all do not pass, in milliseconds: 0.5 is the median.
    pub(crate) fn ms(&self, part: f64) -> f64 {
        self.0.value_at_quantile(part) as f64 / 1e3
    }

    pub(crate) fn max_ms(&self) -> f64 {
        self.0.max() as f64 / 1e3
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_are_told_in_milliseconds() {
        let mut delays = Delays::new();
        for ms in 1..=100 {
            delays.add(Duration::from_millis(ms));
        }
        let mut more = Delays::new();
        more.add(Duration::from_secs(7200));
        assert!((delays.ms(0.5) - 50.0).abs() < 0.1 && (delays.ms(0.99) - 99.0).abs() < 0.1);
        delays.merge(&more);
        assert_eq!(delays.count(), 101);
        assert!((delays.max_ms() - 3_600_000.0).abs() < 4_000.0);
    }
}
