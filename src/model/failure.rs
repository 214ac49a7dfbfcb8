//! What a provider's errors mean: which may be tried again, after how long, and what to say of them.

use std::time::Duration;

use reqwest::header::HeaderMap;
use serde_json::Value;

use super::{Failure, REPLY_BYTES_MAX, Remedy};
use crate::run::event::AbortReason;

/// The longest message that goes into the log, characters.
const MESSAGE_CHARS_MAX: usize = 512;

/// The longest wait that a provider may ask for; the turn's own time bounds it further.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

/// Statuses by the types of Messages' errors.
const STATUS_OF_TYPE: [(&str, u16); 9] = [
    ("invalid_request_error", 400),
    ("authentication_error", 401),
    ("billing_error", 402),
    ("permission_error", 403),
    ("not_found_error", 404),
    ("request_too_large", 413),
    ("rate_limit_error", 429),
    ("api_error", 500),
    ("overloaded_error", 529),
];

/// A failure by the status that the provider gave it, before the stream or inside it.
pub(super) fn of_status(status: u16, message: &str, retry_after: Option<Duration>) -> Failure {
    let remedy = match status {
        413 => Remedy::ContextOverflow,
        _ if is_too_long(message) => Remedy::ContextOverflow,
        401 | 403 | 404 => Remedy::Fallback,
        408 | 409 | 424 | 425 | 429 | 498 => Remedy::Retry,
        501 | 505 => Remedy::Final,
        500.. => Remedy::Retry,
        _ => Remedy::Final,
    };
    let reason = match status {
        429 => AbortReason::RateLimited,
        498 | 503 | 529 => AbortReason::Overloaded,
        _ => AbortReason::ProviderError,
    };
    Failure {
        reason,
        remedy,
        status: Some(status),
        message: match short(message) {
            words if words.is_empty() => format!("the provider answered {status}, without a word"),
            words => words,
        },
        retry_after,
        usage: None,
        has_begun: false,
    }
}

/// The provider could not be reached, or the stream broke off, without a status.
pub(super) fn transport(reason: AbortReason, message: impl Into<String>) -> Failure {
    Failure {
        reason,
        remedy: Remedy::Retry,
        status: None,
        message: short(&message.into()),
        retry_after: None,
        usage: None,
        has_begun: false,
    }
}

/// The end of a message that is none, by the provider's word for it: it broke off, or the
/// conversation is longer than the model can read.
pub(super) fn of_finish_reason(raw: &str) -> Option<Failure> {
    match raw {
        "abort" | "error" | "insufficient_system_resource" => {
            let words = format!("the provider broke off with the reason `{raw}`");
            Some(transport(AbortReason::ProviderError, words))
        }
        "model_length" | "model_context_window_exceeded" => {
            let words = format!("the conversation has reached the model's length (`{raw}`)");
            let failure = transport(AbortReason::ProviderError, words);
            Some(Failure { remedy: Remedy::ContextOverflow, ..failure })
        }
        _ => None,
    }
}

/// The reply is larger than is taken; it would be again.
pub(super) fn too_large() -> Failure {
    let words = format!("the reply is larger than {REPLY_BYTES_MAX} bytes");
    Failure { remedy: Remedy::Final, ..transport(AbortReason::ProviderError, words) }
}

/// An error that came inside a 200: final for the statuses that say that the request is wrong. The
/// status is a number, or a text of digits, or else what Messages' `type` stands for.
pub(super) fn in_stream(error: &Value) -> Failure {
    let message = message_of(&serde_json::json!({ "error": error })).unwrap_or_default();
    let number = ["code", "http_status_code", "status"].iter().find_map(|field| {
        let value = error.get(field)?;
        let number = value.as_u64().or_else(|| value.as_str()?.parse().ok())?;
        u16::try_from(number).ok().filter(|status| (400..600).contains(status))
    });
    let by_type = || {
        let kind = error.get("type")?.as_str()?;
        STATUS_OF_TYPE.iter().find(|(known, _)| *known == kind).map(|(_, status)| *status)
    };
    let status = number.or_else(by_type);
    match status {
        Some(status) => of_status(status, &message, None),
        None => {
            let remedy =
                if is_too_long(&message) { Remedy::ContextOverflow } else { Remedy::Retry };
            Failure { remedy, ..transport(AbortReason::ProviderError, message) }
        }
    }
}

/// The words of an error's body: `error.message`, `error` as text, `message`, `detail` (a text, or a
/// list of `{msg, loc}`), `title`; else the head of the body as text.
pub(super) fn words_of(body: &[u8]) -> String {
    let parsed = serde_json::from_slice::<Value>(body).ok();
    let known = parsed.as_ref().and_then(message_of);
    known.unwrap_or_else(|| String::from_utf8_lossy(body).trim().to_owned())
}

fn message_of(body: &Value) -> Option<String> {
    let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
    let error = body.get("error");
    let kinds = ["type", "code"].map(|field| error.and_then(|error| error.get(field)));
    let kind = kinds.into_iter().flatten().find_map(Value::as_str).unwrap_or_default();
    let message = text(error.and_then(|error| error.get("message")))
        .or_else(|| text(error))
        .or_else(|| text(body.get("message")))
        .or_else(|| text(body.get("detail")))
        .or_else(|| {
            let first = body.get("detail")?.as_array()?.first()?;
            let place = first.get("loc").map(Value::to_string).unwrap_or_default();
            Some(format!("{} {place}", first.get("msg")?.as_str()?))
        })
        .or_else(|| text(body.get("title")))?;
    // vLLM's words for an output limit that is too big are those for an input that is too long.
    let is_output =
        error.and_then(|error| error.get("param")?.as_str()).is_some_and(is_output_limit);
    if is_output {
        return Some(message.replace("context length", "length"));
    }
    // The type is what tells "too long" where the words don't.
    let has_more = !kind.is_empty() && !message.contains(kind) && is_too_long(kind);
    Some(if has_more { format!("{message} ({kind})") } else { message })
}

fn is_output_limit(parameter: &str) -> bool {
    ["max_tokens", "max_completion_tokens"].contains(&parameter)
}

/// Whether a provider says that the conversation is longer than the model can read.
fn is_too_long(message: &str) -> bool {
    const SIGNS: [&str; 8] = [
        "context_length_exceeded",
        "`inputs` tokens + `max_new_tokens` must be",
        "exceed_context_size",
        "contextwindowexceeded",
        "maximum context length",
        "prompt is too long",
        "context window",
        "model_context_window_exceeded",
    ];
    let message = message.to_ascii_lowercase();
    SIGNS.iter().any(|sign| message.contains(sign))
}

/// The wait that the provider asks for: `retry-after-ms`, `Retry-After` (seconds, or a date), or a
/// gateway's `llm_provider-retry-after`.
pub(super) fn retry_after(headers: &HeaderMap, now: jiff::Timestamp) -> Option<Duration> {
    let value = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let seconds = |text: &str| {
        let seconds = text.parse::<f64>().ok().filter(|s| s.is_finite() && *s >= 0.0)?;
        Duration::try_from_secs_f64(seconds).ok()
    };
    let date = |text: &str| {
        let until = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
        Duration::try_from(until.duration_since(now)).ok()
    };
    let wait = value("retry-after-ms")
        .and_then(|text| seconds(text).map(|ms| ms / 1000))
        .or_else(|| value("retry-after").and_then(|text| seconds(text).or_else(|| date(text))))
        .or_else(|| value("llm_provider-retry-after").and_then(seconds))?;
    Some(wait.min(RETRY_AFTER_MAX))
}

/// A message of bounded length on one line.
fn short(message: &str) -> String {
    let words: Vec<&str> = message.split_whitespace().collect();
    words.join(" ").chars().take(MESSAGE_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rule_17_a_status_says_what_may_be_done() {
        for (statuses, remedy) in [
            (&[408, 409, 424, 425, 429, 498, 500, 502, 503, 504, 529][..], Remedy::Retry),
            (&[401, 403, 404], Remedy::Fallback),
            (&[400, 402, 422, 501, 505, 301], Remedy::Final),
            (&[413], Remedy::ContextOverflow),
        ] {
            for status in statuses {
                assert_eq!(of_status(*status, "", None).remedy, remedy, "{status}");
            }
        }
    }

    #[test]
    fn rule_16_every_servers_words_are_found() {
        for (body, words) in [
            (r#"{"error":{"message":"m","type":"t","param":null,"code":400}}"#, "m"),
            (r#"{"error":"Unauthorized"}"#, "Unauthorized"),
            (r#"{"object":"error","message":"m"}"#, "m"),
            (r#"{"detail":"Not Found"}"#, "Not Found"),
            (
                r#"{"detail":[{"msg":"field required","loc":["body",1]}]}"#,
                "field required [\"body\",1]",
            ),
            (r#"{"title":"t"}"#, "t"),
            ("<html>Bad Gateway</html>", "<html>Bad Gateway</html>"),
            ("", ""),
        ] {
            assert_eq!(words_of(body.as_bytes()), words, "{body}");
        }
    }

    #[test]
    fn a_conversation_that_is_too_long_is_known_by_every_servers_words() {
        for body in [
            json!({"error": {"message": "too many", "code": "context_length_exceeded"}}),
            json!({"error": {"message": "This model's maximum context length is 9 tokens"}}),
            json!({"error": {"code": 400, "message": "m", "type": "exceed_context_size_error"}}),
            json!({"error": {"message": "litellm.ContextWindowExceededError: m"}}),
            json!({"error": {"message": "maximum context length is 9", "param": "input_tokens"}}),
            json!({"type": "error", "error": {"type": "invalid_request_error",
                "message": "prompt is too long: 9 tokens > 8 maximum"}}),
            json!({"error": "Input validation error: `inputs` tokens + `max_new_tokens` must be \
                <= 9", "error_type": "validation"}),
        ] {
            let words = words_of(body.to_string().as_bytes());
            assert_eq!(of_status(400, &words, None).remedy, Remedy::ContextOverflow, "{body}");
        }
        // The output limit asked for is too big: another thing.
        let body = json!({"error": {"param": "max_tokens",
            "message": "max_tokens is too large: maximum context length is 9 tokens"}});
        let words = words_of(body.to_string().as_bytes());
        assert_eq!(of_status(400, &words, None).remedy, Remedy::Final);
    }

    #[test]
    fn rule_5_an_error_inside_a_stream_counts_by_the_status_it_carries() {
        for (error, remedy, status) in [
            (json!({"message": "m", "code": 400}), Remedy::Final, Some(400)),
            (json!({"message": "m", "code": "429"}), Remedy::Retry, Some(429)),
            (json!({"message": "m", "http_status_code": 422}), Remedy::Final, Some(422)),
            (json!({"message": "m", "code": "overloaded"}), Remedy::Retry, None),
            (json!({"message": "m", "type": "overloaded_error"}), Remedy::Retry, Some(529)),
            (json!({"message": "m", "type": "invalid_request_error"}), Remedy::Final, Some(400)),
            (json!("only words"), Remedy::Retry, None),
            (json!({"message": "prompt is too long"}), Remedy::ContextOverflow, None),
        ] {
            let failure = in_stream(&error);
            assert_eq!((failure.remedy, failure.status), (remedy, status), "{error}");
        }
    }

    #[test]
    fn rule_18_the_wait_is_taken_from_whichever_header_there_is() {
        let now: jiff::Timestamp = "2026-11-22T10:00:00Z".parse().expect("a time");
        let check = |pairs: &[(&'static str, &str)], ms: Option<u64>| {
            let headers: HeaderMap = pairs
                .iter()
                .map(|(name, value)| {
                    let name = reqwest::header::HeaderName::from_static(name);
                    (name, value.parse().expect("a value"))
                })
                .collect();
            assert_eq!(retry_after(&headers, now), ms.map(Duration::from_millis), "{pairs:?}");
        };
        check(&[("retry-after-ms", "250"), ("retry-after", "9")], Some(250));
        check(&[("retry-after", "1.5")], Some(1500));
        check(&[("retry-after", "Sun, 22 Nov 2026 10:00:30 GMT")], Some(30_000));
        check(&[("retry-after", "Sun, 22 Nov 2026 09:00:30 GMT")], None);
        check(&[("llm_provider-retry-after", "5")], Some(5000));
        check(&[("retry-after", "99999999999")], Some(3_600_000));
        check(&[("retry-after", "soon")], None);
        check(&[], None);
    }
}
