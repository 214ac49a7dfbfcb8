//! Numbers that spread what several nodes, or several runs, would else do at once.

/// A number in 0..1; the low bits of the clock are random enough to spread retries.
pub(super) fn jitter() -> f64 {
    #[cfg(feature = "testing")]
    if let Some(told) = played::next() {
        return told;
    }
    f64::from(jiff::Timestamp::now().subsec_nanosecond() % 1_000_003) / 1_000_003.0
}

/// From now on the numbers of this thread follow from this one: a simulation must be the same again.
#[cfg(feature = "testing")]
pub fn seed_jitter(seed: u64) {
    played::LAST.set(Some(seed));
}

#[cfg(feature = "testing")]
mod played {
    use std::cell::Cell;

    thread_local! {
        pub(super) static LAST: Cell<Option<u64>> = const { Cell::new(None) };
    }

    pub(super) fn next() -> Option<f64> {
        // Knuth's MMIX; the upper bits are the good ones.
        let next = LAST
            .get()?
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        LAST.set(Some(next));
        let upper = u32::try_from(next >> 32).expect("32 bits are left");
        Some(f64::from(upper) / (f64::from(u32::MAX) + 1.0))
    }
}
