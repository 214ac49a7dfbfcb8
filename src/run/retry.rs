//! After the model has failed: whether it is asked again, which model is, and after how long.

use std::time::Duration;

use serde_json::json;

use super::decide::Clock;
use super::ending::Ending;
use super::limits;
use super::spec::Spec;
use super::state::{FailedAttempt, State};

/// The first wait, doubled for each failure of the turn.
const BACKOFF_FIRST: f64 = 0.5;

/// The longest wait that we choose ourselves; a provider may ask for more.
const BACKOFF_MAX: f64 = 30.0;

/// What a failure of the model means: tried again after a wait, or the end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Retry {
    /// Whether the same call may do better, or (else) only another model.
    pub same_model: bool,
    /// How long the provider asks us to wait at least.
    pub retry_after: Option<Duration>,
    /// A number in 0..1, for jitter.
    pub jitter: f64,
}

/// The wait before the next attempt after one more failure, or none where that was the last:
/// backoff from half a second, doubled for each failure of the turn, at most 30 s, with jitter, at
/// least what the provider asks for, and never past the turn's or the run's time. None for the next
/// model, which is also asked where the wait would be too long.
pub fn retry_in(
    spec: &Spec,
    state: &State,
    failed: &FailedAttempt,
    retry: &Retry,
    clock: &Clock,
) -> Option<Duration> {
    let mut failures = state.failures.clone();
    failures.push(failed.clone());
    let next = next_model(spec, &failures)?;
    let same = next == failed.model;
    if same && !retry.same_model {
        return None;
    }
    let wait = if same {
        let doublings = i32::try_from(failures.len().min(7)).unwrap_or(7) - 1;
        let backoff = (BACKOFF_FIRST * 2f64.powi(doublings)).min(BACKOFF_MAX);
        let jittered = backoff * (0.5 + retry.jitter.clamp(0.0, 1.0) / 2.0);
        // A jitter that is no number makes no wait, not a panic.
        let ours = Duration::try_from_secs_f64(jittered).unwrap_or_default();
        ours.max(retry.retry_after.unwrap_or_default())
    } else {
        Duration::ZERO
    };
    let left_of = |limit: f64, used: Duration| limit - used.as_secs_f64();
    let limits = state.limits(spec);
    let left = left_of(limits.timeout_per_turn, clock.turn_elapsed)
        .min(left_of(limits.max_time, clock.elapsed));
    if wait.as_secs_f64() < left {
        return Some(wait);
    }
    // What takes too long for this model may be in time with the next.
    failures.last_mut()?.is_left = same;
    let is_in_time = same && left > 0.0 && next_model(spec, &failures).is_some();
    is_in_time.then_some(Duration::ZERO)
}

/// The next model to call and the wait before it, or the end where all models have failed.
pub(super) fn next_call(spec: &Spec, state: &State) -> Result<(String, Duration), Ending> {
    if state.failures.is_empty() {
        return Ok((spec.model().to_owned(), Duration::ZERO));
    }
    match (next_model(spec, &state.failures), state.retry_in) {
        (Some(model), Some(wait)) => {
            Ok((model, Duration::try_from_secs_f64(wait).unwrap_or_default()))
        }
        (Some(_), None) | (None, _) => Err(model_error(state)),
    }
}

/// The model that is asked after these failures: the same one until it has had its attempts or can
/// never answer, then the next fallback. The same 500 twice is a reason to ask another model first,
/// and none to give up where there is no other: some servers answer so to what can never work, others
/// say the same words in a failure that passes.
fn next_model(spec: &Spec, failures: &[FailedAttempt]) -> Option<String> {
    let spent = |name: &String| {
        let failed = || failures.iter().filter(|failure| failure.model == *name);
        let attempts = u32::try_from(failed().count()).unwrap_or(u32::MAX);
        attempts >= limits::ATTEMPTS_PER_MODEL
            || failed().any(|failure| {
                failure.is_left || matches!(failure.provider_status, Some(401 | 403 | 404))
            })
    };
    let repeats = |name: &String| {
        let failed = || failures.iter().filter(|failure| failure.model == *name);
        let is_500 = |failure: &&FailedAttempt| failure.provider_status == Some(500);
        failed().filter(is_500).enumerate().any(|(place, one)| {
            failed().filter(is_500).skip(place + 1).any(|other| other.message == one.message)
        })
    };
    let models = || spec.agent.model.0.iter().filter(|name| !spent(name));
    models().find(|name| !repeats(name)).or_else(|| models().next()).cloned()
}

fn model_error(state: &State) -> Ending {
    let told = |failure: &FailedAttempt| {
        json!({"model": failure.model, "status": failure.provider_status,
               "message": failure.message})
    };
    let last = state.failures.last();
    let message = last.map_or_else(
        || "the model could not be called".to_owned(),
        |last| format!("the model `{}` failed: {}", last.model, last.message),
    );
    let details = json!({"first": state.failures.first().map(told), "last": last.map(told)});
    // What the provider calls the request's own fault will be its fault the next time too.
    let is_ours = matches!(
        last.and_then(|last| last.provider_status),
        Some(400 | 401 | 403 | 404 | 405 | 413 | 415 | 422)
    );
    Ending { retryable: !is_ours, ..Ending::failed("model_error", message, details) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::run::event::AbortReason;
    use crate::run::notation::{log, spec};

    fn failed(model: &str, provider_status: Option<u16>) -> FailedAttempt {
        FailedAttempt {
            model: model.to_owned(),
            reason: AbortReason::Overloaded,
            provider_status,
            message: String::new(),
            is_left: false,
        }
    }

    const RETRY: Retry = Retry { same_model: true, retry_after: None, jitter: 1.0 };

    /// The wait after these failures of `demo/a` and one more, in seconds.
    fn wait_after(failures: usize, retry: Retry, clock: Clock) -> Option<f64> {
        let mut state = log("started; asked").state;
        state.failures = vec![failed("demo/a", None); failures];
        retry_in(&spec(&json!({})), &state, &failed("demo/a", None), &retry, &clock)
            .map(|wait| wait.as_secs_f64())
    }

    #[test]
    fn the_wait_doubles_with_each_failure_of_the_turn() {
        let clock = Clock::default();
        let waits: Vec<_> = (0..3).map(|failures| wait_after(failures, RETRY, clock)).collect();
        assert_eq!(waits, [Some(0.5), Some(1.0), Some(2.0)]);
        let least = Retry { jitter: 0.0, ..RETRY };
        assert_eq!(wait_after(0, least, clock), Some(0.25), "jitter takes half of it at most");
    }

    #[test]
    fn the_next_model_is_called_at_once() {
        assert_eq!(wait_after(3, RETRY, Clock::default()), Some(0.0));
        let only = Value::from("demo/a");
        let mut alone = spec(&json!({}));
        alone.agent.model = serde_json::from_value(only).expect("a model");
        let mut state = log("started; asked").state;
        state.failures = vec![failed("demo/a", None); 3];
        let last = failed("demo/a", None);
        assert_eq!(retry_in(&alone, &state, &last, &RETRY, &Clock::default()), None);
    }

    #[test]
    fn a_model_that_will_never_answer_is_left_for_the_next() {
        let state = log("started; asked").state;
        let never = Retry { same_model: false, ..RETRY };
        let spec = spec(&json!({}));
        let clock = Clock::default();
        let denied = failed("demo/a", Some(401));
        assert_eq!(retry_in(&spec, &state, &denied, &never, &clock), Some(Duration::ZERO));
        let refused = failed("demo/a", Some(501));
        assert_eq!(retry_in(&spec, &state, &refused, &never, &clock), None);
    }

    #[test]
    fn a_provider_may_ask_for_a_longer_wait_within_the_turns_time() {
        let asks = |seconds| Retry { retry_after: Some(Duration::from_secs(seconds)), ..RETRY };
        let clock = Clock::default();
        assert_eq!(wait_after(0, asks(7), clock), Some(7.0));
        assert_eq!(wait_after(0, asks(0), clock), Some(0.5));
        assert_eq!(wait_after(0, asks(60), clock), Some(0.0), "the turn has 60 s");
        assert_eq!(wait_after(0, asks(u64::MAX), clock), Some(0.0));
        let late = Clock { turn_elapsed: Duration::from_secs(55), ..clock };
        assert_eq!(wait_after(0, asks(7), late), Some(0.0));
        let ending = Clock { elapsed: Duration::from_secs(299), ..clock };
        let waits = (wait_after(0, RETRY, ending), wait_after(1, RETRY, ending));
        assert_eq!(waits, (Some(0.5), Some(0.0)));
        let over = Clock { turn_elapsed: Duration::from_secs(60), ..clock };
        assert_eq!(wait_after(0, asks(7), over), None);
    }

    #[test]
    fn a_model_that_asks_for_too_long_a_wait_is_left_for_the_next() {
        let mut state = log("started; asked").state;
        let left = FailedAttempt { is_left: true, ..failed("demo/a", Some(429)) };
        (state.failures, state.retry_in) = (vec![left], Some(0.0));
        let spec = spec(&json!({}));
        let next = next_call(&spec, &state).expect("there is another model");
        assert_eq!(next, ("demo/b".to_owned(), Duration::ZERO));
        let retry = Retry { retry_after: Some(Duration::from_secs(60)), ..RETRY };
        let last = failed("demo/b", Some(429));
        assert_eq!(retry_in(&spec, &state, &last, &retry, &Clock::default()), None);
    }

    #[test]
    fn the_same_500_twice_is_a_reason_to_ask_another_model_first() {
        let spec = spec(&json!({}));
        let said = |model: &str, message: &str| {
            let failure = failed(model, Some(500));
            FailedAttempt { message: message.to_owned(), ..failure }
        };
        let next = |failures: &[FailedAttempt]| next_model(&spec, failures);
        let (a, b) = (Some("demo/a".to_owned()), Some("demo/b".to_owned()));
        assert_eq!(next(&[said("demo/a", "x")]), a);
        assert_eq!(next(&[said("demo/a", "x"), said("demo/a", "y")]), a);
        let same = [said("demo/a", "x"), said("demo/a", "x")];
        assert_eq!(next(&same), b);
        // Where the other is no better, the first has its other attempts.
        let both = [&same[..], &[said("demo/b", "z"), said("demo/b", "z")]].concat();
        assert_eq!(next(&both), a);
        let mut alone = spec.clone();
        alone.agent.model.0.truncate(1);
        assert_eq!(next_model(&alone, &same), a);
    }

    #[test]
    fn a_jitter_that_is_no_number_is_no_panic() {
        assert_eq!(wait_after(0, Retry { jitter: f64::NAN, ..RETRY }, Clock::default()), Some(0.0));
    }

    proptest! {
        #[test]
        fn a_wait_is_never_longer_than_what_is_left(
            failures in 0_usize..4,
            jitter in any::<f64>(),
            retry_after in proptest::option::of(0_u64..100),
            elapsed in 0_u64..400,
            turn_elapsed in 0_u64..80,
        ) {
            let retry_after = retry_after.map(Duration::from_secs);
            let clock = Clock {
                elapsed: Duration::from_secs(elapsed),
                turn_elapsed: Duration::from_secs(turn_elapsed),
            };
            let retry = Retry { same_model: true, retry_after, jitter };
            if let Some(wait) = wait_after(failures, retry, clock) {
                let elapsed = clock.elapsed.as_secs_f64() + wait;
                prop_assert!(elapsed < 300.0 && clock.turn_elapsed.as_secs_f64() + wait < 60.0);
                let asked = retry_after.filter(|_| failures < 3);
                let is_next = wait == 0.0;
                let least = asked.filter(|_| !is_next).unwrap_or_default();
                prop_assert!(wait >= least.as_secs_f64());
                prop_assert!(wait <= BACKOFF_MAX.max(least.as_secs_f64()));
            }
        }
    }
}
