//! What calls of models have used.

use serde::{Deserialize, Serialize};

/// Tokens and money. Totals contain their parts; null is unknown, not 0.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Usage {
    pub input_tokens: Option<u64>,
    pub cached_input_tokens: Option<u64>,
    pub cache_write_input_tokens: Option<u64>,
    pub output_tokens: Option<u64>,
    pub reasoning_tokens: Option<u64>,
    pub total_tokens: Option<u64>,
    pub cost_usd: Option<f64>,
    /// True where the provider did not say and we counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimated: Option<bool>,
}

impl Usage {
    /// Adds another call's usage: known figures add up, unknown ones leave the others as they are.
    /// A total that was not told is that of its parts. Sums stop at the largest number.
    pub fn add(&mut self, other: &Usage) {
        fn sum<T>(a: Option<T>, b: Option<T>, plus: impl Fn(T, T) -> T) -> Option<T> {
            match (a, b) {
                (Some(a), Some(b)) => Some(plus(a, b)),
                (known, None) | (None, known) => known,
            }
        }
        let Usage {
            input_tokens,
            cached_input_tokens,
            cache_write_input_tokens,
            output_tokens,
            reasoning_tokens,
            total_tokens,
            cost_usd,
            estimated,
        } = other;
        let parts = input_tokens.zip(*output_tokens).map(|(a, b)| a.saturating_add(b));
        for (mine, more) in [
            (&mut self.input_tokens, input_tokens),
            (&mut self.cached_input_tokens, cached_input_tokens),
            (&mut self.cache_write_input_tokens, cache_write_input_tokens),
            (&mut self.output_tokens, output_tokens),
            (&mut self.reasoning_tokens, reasoning_tokens),
            (&mut self.total_tokens, &total_tokens.or(parts)),
        ] {
            *mine = sum(*mine, *more, u64::saturating_add);
        }
        // JSON has no infinity: it would be read again as unknown.
        self.cost_usd = sum(self.cost_usd, *cost_usd, |a, b| (a + b).clamp(f64::MIN, f64::MAX));
        self.estimated = self.estimated.or(*estimated);
    }
}
