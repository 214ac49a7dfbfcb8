//! What calls of models use and cost: prices as plain data, and an estimate where nobody said.

use serde::Serialize;

use super::event::Usage;
use super::message::{Content, Message, Part};
use super::request::Request;

/// Bytes of JSON or text that count as a token where the provider did not say: about right for
/// English, too many tokens for most other text, so that limits hold.
const BYTES_PER_TOKEN: u64 = 4;

/// Tokens that a picture counts as: about the most that providers charge for one.
const IMAGE_TOKENS: u64 = 1500;

/// Prices are per so many tokens.
const PER_TOKENS: f64 = 1_000_000.0;

/// The price of a model, USD per million tokens.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Price {
    /// Input that neither came from the cache nor went to it.
    pub input: f64,
    /// Input from the provider's cache; none: as other input.
    pub cached_input: Option<f64>,
    /// Input that was written to the cache; none: as other input.
    pub cache_write_input: Option<f64>,
    /// Output, reasoning included.
    pub output: f64,
}

impl Price {
    /// What this usage costs, USD; figures that are not known count as 0. None where none is known.
    pub fn cost_usd(&self, usage: &Usage) -> Option<f64> {
        if usage.input_tokens.is_none() && usage.output_tokens.is_none() {
            return None;
        }
        let known = |tokens: Option<u64>| tokens.unwrap_or_default();
        let cached = known(usage.cached_input_tokens);
        let written = known(usage.cache_write_input_tokens);
        let plain = known(usage.input_tokens).saturating_sub(cached.saturating_add(written));
        let cost = [
            (plain, self.input),
            (cached, self.cached_input.unwrap_or(self.input)),
            (written, self.cache_write_input.unwrap_or(self.input)),
            (known(usage.output_tokens), self.output),
        ];
        Some(cost.iter().map(|(tokens, price)| *tokens as f64 * price / PER_TOKENS).sum())
    }
}

/// The usage of a call as the provider said it, with estimates for what it did not say. What a
/// call that was cut had been told by then may be less than what was said since: the estimate of
/// the output counts where it is more. `input_tokens` is asked only where the input is not known.
pub fn filled(
    said: Usage,
    input_tokens: impl FnOnce() -> u64,
    output_bytes: u64,
    is_cut: bool,
) -> Usage {
    let counted = output_bytes.div_ceil(BYTES_PER_TOKEN);
    let output = match said.output_tokens {
        Some(told) if is_cut => told.max(counted),
        Some(told) => told,
        None => counted,
    };
    let input = said.input_tokens.unwrap_or_else(input_tokens);
    if (Some(input), Some(output)) == (said.input_tokens, said.output_tokens) {
        return said;
    }
    Usage {
        input_tokens: Some(input),
        output_tokens: Some(output),
        total_tokens: Some(input.saturating_add(output)),
        estimated: Some(true),
        ..said
    }
}

/// An estimate of a request's tokens.
pub fn input_tokens(request: &Request) -> u64 {
    let mut plain = request.clone();
    let mut images = 0;
    for message in &mut plain.messages {
        let content = match message {
            Message::User { content } | Message::Tool { content, .. } => Some(content),
            Message::Assistant { content, .. } => content.as_mut(),
        };
        let Some(Content::Parts(parts)) = content else { continue };
        for part in parts {
            if let Part::Image { url, data, .. } = part {
                images += 1;
                (*url, *data) = (None, None);
            }
        }
    }
    let bytes = u64::try_from(plain.canonical_json().len()).unwrap_or(u64::MAX);
    bytes.div_ceil(BYTES_PER_TOKEN) + images * IMAGE_TOKENS
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::run::spec::ModelSettings;

    fn usage(input: u64, cached: Option<u64>, written: Option<u64>, output: u64) -> Usage {
        Usage {
            input_tokens: Some(input),
            cached_input_tokens: cached,
            cache_write_input_tokens: written,
            output_tokens: Some(output),
            total_tokens: Some(input + output),
            ..Usage::default()
        }
    }

    fn request(content: serde_json::Value) -> Request {
        Request {
            instructions: None,
            messages: serde_json::from_value(json!([{"role": "user", "content": content}]))
                .expect("a message"),
            tools: Vec::new(),
            settings: ModelSettings::default(),
            output_schema: None,
        }
    }

    #[test]
    fn a_cost_counts_every_token_once_at_its_own_price() {
        let full = Price {
            input: 2.0,
            cached_input: Some(0.5),
            cache_write_input: Some(4.0),
            output: 10.0,
        };
        let used = usage(1_000_000, Some(500_000), Some(250_000), 100_000);
        assert_eq!(full.cost_usd(&used), Some(0.5 + 0.25 + 1.0 + 1.0));
        let plain = Price { cached_input: None, cache_write_input: None, ..full };
        assert_eq!(plain.cost_usd(&used), Some(2.0 + 1.0), "without prices of its own, as input");
        assert_eq!(full.cost_usd(&usage(1, Some(9), None, 0)), Some(9.0 * 0.5 / 1e6));
        assert_eq!(full.cost_usd(&Usage::default()), None, "nothing is known");
    }

    #[test]
    fn what_the_provider_did_not_say_is_estimated_and_says_so() {
        let asked = request(json!("x".repeat(4000)));
        let told = usage(7, None, None, 3);
        let input = || input_tokens(&asked);
        assert_eq!(filled(told.clone(), input, 4000, false), told, "it said all");
        let counted = filled(Usage::default(), input, 401, false);
        let estimate = counted.input_tokens.expect("estimated");
        assert!((1000..1100).contains(&estimate), "{estimate}");
        assert_eq!((counted.output_tokens, counted.estimated), (Some(101), Some(true)));
        assert_eq!(counted.total_tokens, Some(estimate + 101));
        let early = filled(usage(7, None, None, 1), input, 400, true);
        assert_eq!((early.output_tokens, early.total_tokens), (Some(100), Some(107)));
        assert_eq!(early.estimated, Some(true), "what it said at the start is not what it cost");
        assert_eq!(filled(usage(7, None, None, 200), input, 400, true).estimated, None);
    }

    #[test]
    fn a_picture_counts_as_one_however_many_bytes_it_has() {
        let picture = |bytes: usize| {
            let data = "A".repeat(bytes);
            let asked =
                request(json!([{"type": "image", "media_type": "image/png", "data": data}]));
            input_tokens(&asked)
        };
        assert_eq!(picture(4), picture(4_000_000));
        assert!(picture(4) > IMAGE_TOKENS);
    }
}
