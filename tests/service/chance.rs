//! Numbers by chance, the same for the same seed (splitmix64).

#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    pub fn new(seed: u64) -> Chance {
        Chance(seed)
    }

    /// From `RUNLEDGER_SEED`, else from this seed.
    pub fn given(usual: u64) -> Chance {
        Chance(seed(usual))
    }

    /// The seed, before the first number.
    pub fn seed(&self) -> u64 {
        self.0
    }

    /// Numbers of its own for the `n`th of many.
    pub fn of(&self, n: usize) -> Chance {
        let mut own = Chance(self.0 ^ (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        own.below(1);
        own
    }

    /// A number below this one.
    pub fn below(&mut self, most: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % most as u64).unwrap()
    }
}

/// The seed of a test that goes by chance: `RUNLEDGER_SEED`, to have a run of it again, or this one.
pub fn seed(usual: u64) -> u64 {
    match std::env::var("RUNLEDGER_SEED") {
        Ok(given) => given.parse().expect("RUNLEDGER_SEED is a number"),
        Err(_absent) => usual,
    }
}
