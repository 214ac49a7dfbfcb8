//! The ids of a run: one newtype each, so that none can be taken for another.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A run's own id: a UUIDv7, made by the journal from the store's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunId(pub Uuid);

impl RunId {
    /// When the id was made, milliseconds since 1970: the first 48 bits of a UUIDv7.
    pub fn made_at_ms(self) -> i64 {
        i64::try_from(self.0.as_u128() >> 80).expect("48 bits fit")
    }

    /// The lowest id that can be made at this millisecond or later: for ranges of times.
    pub fn first_of(ms: i64) -> RunId {
        const LAST_MS: i64 = (1 << 48) - 1;
        let ms = u128::from(ms.clamp(0, LAST_MS).unsigned_abs());
        RunId(Uuid::from_u128(ms << 80))
    }

    /// The UUID as 22 base-62 digits (`0-9A-Za-z`, most significant first): short, and safe in any
    /// provider's ids.
    pub fn base62(self) -> String {
        const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
        let mut rest = self.0.as_u128();
        let mut text = [b'0'; 22];
        for place in text.iter_mut().rev() {
            let digit = usize::try_from(rest % 62).expect("a number below 62 fits");
            *place = DIGITS[digit];
            rest /= 62;
        }
        String::from_utf8(text.to_vec()).expect("base-62 digits are ASCII")
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A text that is not the hyphenated form of a UUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a run id is a UUID of 36 characters")]
pub struct NotARunId;

impl FromStr for RunId {
    type Err = NotARunId;

    /// Only the hyphenated form of 36 characters: whatever else a client may call a run is a name
    /// of its own choosing.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match Uuid::try_parse(text) {
            Ok(id) if text.len() == 36 => Ok(RunId(id)),
            Ok(_) | Err(_) => Err(NotARunId),
        }
    }
}

/// The place of an event in its run's log: 1, 2, 3, … without gaps. 0 is before the first.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Seq(pub u64);

impl Seq {
    /// The place after this one.
    pub fn next(self) -> Seq {
        Seq(self.0 + 1)
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The id of one tool call: `call_{22 base-62 digits of the run's UUID}_{item}`, unique over all
/// runs, and so fit to be the call's `Idempotency-Key`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CallId(pub String);

impl CallId {
    /// The id of the call that is output item number `item` of `run`.
    pub fn new(run: RunId, item: u32) -> CallId {
        CallId(format!("call_{}_{item}", run.base62()))
    }
}

impl fmt::Display for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a client may choose as an id (`run_id`): `[A-Za-z0-9][A-Za-z0-9._:-]{0,127}`, and not in
/// the hyphenated form of a UUID, because those are ours.
pub fn is_client_id(text: &str) -> bool {
    let mut bytes = text.bytes();
    let first = bytes.next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    first
        && text.len() <= 128
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte))
        && text.parse::<RunId>().is_err()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_id_is_short_and_plain() {
        let call = CallId::new(RunId(Uuid::max()), 4_000_000_000);
        assert!(call.0.len() <= 40, "{call}");
        assert!(call.0.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'), "{call}");
        assert_eq!(CallId::new(RunId(Uuid::nil()), 1).0, format!("call_{}_1", "0".repeat(22)));
    }

    #[test]
    fn a_client_id_is_never_in_the_form_of_ours() {
        assert!(is_client_id("order-17.retry:2_b"));
        assert!(is_client_id(&Uuid::max().simple().to_string()), "32 digits are anybody's");
        for refused in ["", "-a", "a b", "a/b", &"a".repeat(129), &Uuid::max().to_string()] {
            assert!(!is_client_id(refused), "{refused:?}");
        }
    }

    #[test]
    fn only_the_hyphenated_form_is_a_run_id() {
        let id = Uuid::max();
        assert!(id.to_string().parse::<RunId>().is_ok());
        assert!(id.simple().to_string().parse::<RunId>().is_err());
    }
}
