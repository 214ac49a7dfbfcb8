//! The tools that need no network: a calculator, and the time.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use super::calculator;
use crate::run::catalog::Builtin;
use crate::run::event::Effect;

/// The built-in tools as models see them.
pub(super) fn all() -> Vec<Builtin> {
    #[cfg_attr(not(test), expect(unused_mut, reason = "tests add tools of their own"))]
    let mut all = real();
    #[cfg(test)]
    all.extend(trying::all());
    all
}

fn real() -> Vec<Builtin> {
    vec![
        Builtin {
            name: "calculator".to_owned(),
            description: "Evaluates an arithmetic expression: numbers, + - * / % ^, parentheses, \
                          the functions sqrt, abs, round, floor, ceil, min, max, and pi and e."
                .to_owned(),
            parameters: json!({
                "type": "object",
                "properties": {
                    "expression": {
                        "type": "string",
                        "description": "For example: (2 + 3) * 4.5",
                    },
                },
                "required": ["expression"],
                "additionalProperties": false,
            }),
            effect: Effect::Read,
        },
        Builtin {
            name: "current_time".to_owned(),
            description: "Tells the current date and time.".to_owned(),
            parameters: json!({
                "type": "object",
                "properties": {
                    "timezone": {
                        "type": "string",
                        "description": "An IANA time zone such as Europe/Berlin; UTC if absent.",
                    },
                },
                "additionalProperties": false,
            }),
            effect: Effect::Read,
        },
    ]
}

/// Calls a built-in tool with arguments that fit its schema.
///
/// # Errors
/// What was wrong, in words for the model.
pub(super) async fn call(name: &str, arguments: &Value) -> Result<Value, String> {
    #[cfg(test)]
    trying::call(name).await;
    match name {
        "calculator" => {
            let expression = arguments.get("expression").and_then(Value::as_str);
            calculator::evaluate(expression.unwrap_or_default())
        }
        "current_time" => {
            let zone = arguments.get("timezone").and_then(Value::as_str).unwrap_or("UTC");
            time_in(zone, Timestamp::now())
        }
        other => Err(format!("there is no built-in tool `{other}`")),
    }
}

/// The time in a zone: `{timezone, time (RFC 3339 with offset), weekday, unix_seconds}`.
fn time_in(zone: &str, now: Timestamp) -> Result<Value, String> {
    let unknown = |error| {
        let example = "an IANA name such as Europe/Berlin or UTC would be right";
        format!("`{zone}` is no known time zone ({error}); {example}")
    };
    let zoned = now.to_zoned(TimeZone::get(zone).map_err(unknown)?);
    Ok(json!({
        "timezone": zone,
        "time": zoned.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string(),
        "weekday": zoned.strftime("%A").to_string(),
        "unix_seconds": now.as_second(),
    }))
}

/// Tools that behave as tests need it: the real ones answer at once, and well.
#[cfg(test)]
mod trying {
    use super::*;

    pub(super) fn all() -> Vec<Builtin> {
        let tool = |name: &str, effect| Builtin {
            name: name.to_owned(),
            description: String::new(),
            parameters: json!({"type": "object"}),
            effect,
        };
        vec![
            tool("never", Effect::Read),
            tool("never_once", Effect::Once),
            tool("panics", Effect::Read),
            tool("breaks_the_driver", Effect::Read),
        ]
    }

    pub(super) async fn call(name: &str) {
        match name {
            "never" | "never_once" => std::future::pending().await,
            "panics" => panic!("the tool `{name}` was called"),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_told_in_the_zone_that_was_asked_for() {
        let now = Timestamp::from_second(1_782_864_000).expect("a time");
        let told = time_in("Europe/Berlin", now).expect("Berlin");
        assert_eq!(told["time"], "2026-07-01T02:00:00+02:00");
        assert_eq!(told["weekday"], "Wednesday");
        assert_eq!(time_in("UTC", now).expect("UTC")["time"], "2026-07-01T00:00:00+00:00");
    }

    #[test]
    fn an_unknown_zone_is_named() {
        let words = time_in("Europe/Nowhere", Timestamp::UNIX_EPOCH).expect_err("no such zone");
        assert!(words.contains("Europe/Nowhere") && words.contains("IANA"), "{words}");
    }
}
