//! Many delays, told as a few numbers.

use std::time::Duration;

/// Delays in microseconds, up to an hour and some; what is longer counts as that. All are kept: ten
/// million of them are 40 MB, and no number is rounded.
#[derive(Clone, Debug, Default)]
pub(crate) struct Delays(Vec<u32>);

impl Delays {
    pub(crate) fn new() -> Delays {
        Delays::default()
    }

    pub(crate) fn add(&mut self, delay: Duration) {
        self.0.push(u32::try_from(delay.as_micros()).unwrap_or(u32::MAX));
    }

    pub(crate) fn merge(&mut self, other: &Delays) {
        self.0.extend_from_slice(&other.0);
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// The smallest delay that this part of all do not pass, in milliseconds: 0.5 is the median. Of
    /// none it is no number.
    pub(crate) fn ms(&self, part: f64) -> f64 {
        let mut all = self.0.clone();
        let place = (all.len() as f64 * part).ceil() as usize;
        let place = place.clamp(1, all.len().max(1)) - 1;
        if all.is_empty() {
            return f64::NAN;
        }
        f64::from(*all.select_nth_unstable(place).1) / 1e3
    }

    pub(crate) fn max_ms(&self) -> f64 {
        self.ms(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_are_told_in_milliseconds() {
        let mut delays = Delays::new();
        assert!(delays.ms(0.5).is_nan());
        for ms in (1..=100).rev() {
            delays.add(Duration::from_millis(ms));
        }
        assert_eq!([0.0, 0.5, 0.99, 1.0].map(|part| delays.ms(part)), [1.0, 50.0, 99.0, 100.0]);
        let mut more = Delays::new();
        more.add(Duration::from_secs(7200));
        delays.merge(&more);
        assert_eq!((delays.count(), delays.max_ms()), (101, f64::from(u32::MAX) / 1e3));
    }
}
