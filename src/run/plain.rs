//! JSON and text that can be stored, read again and sent on by anybody.

use serde_json::{Map, Value};

use super::limits;

/// Names that the JSON reader takes for its own: where one is the first of an object's names, the
/// object is read as something else, or not at all.
const RESERVED: &str = "$serde_json::private::";

/// Up to here every whole number has a floating-point number of its own: 2^53.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

/// The value; a whole number as one, however it is written: JSON knows no difference between `10`
/// and `10.0`, and some languages write every number with a point.
pub fn whole_number(value: &Value) -> Value {
    let number = value.as_f64().filter(|_| value.is_f64());
    let whole = number.filter(|number| number.fract() == 0.0 && number.abs() <= EXACT_MAX);
    let whole = whole.and_then(|number| format!("{number:.0}").parse::<i64>().ok());
    whole.map_or_else(|| value.clone(), Value::from)
}

/// Whether an object with this name is read again as what was written.
pub fn is_name(name: &str) -> bool {
    !name.starts_with(RESERVED)
}

/// Whether the value can be a part of an event and of a history: nested no deeper than
/// [`limits::NESTED_DEPTH`], and without reserved names.
pub fn is_plain(value: &Value) -> bool {
    fn fits(value: &Value, left: usize) -> bool {
        let Some(left) = left.checked_sub(1) else { return false };
        match value {
            Value::Array(items) => items.iter().all(|item| fits(item, left)),
            Value::Object(fields) => {
                fields.iter().all(|(name, field)| is_name(name) && fits(field, left))
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
        }
    }
    fits(value, limits::NESTED_DEPTH)
}

/// The arguments that a model wrote: an object, nothing at all being the empty one; the text as it
/// is where they are no object, or none that can be stored and read again.
pub fn arguments(raw: &str) -> Value {
    if raw.trim().is_empty() {
        return Value::Object(Map::new());
    }
    match serde_json::from_str::<Value>(raw) {
        Ok(value) if value.is_object() && is_plain(&value) => value,
        Ok(_) | Err(_) => Value::String(raw.to_owned()),
    }
}

/// The text with U+FFFD where it has NUL, which a request may not contain.
pub fn without_nul(text: String) -> String {
    if text.contains('\0') { text.replace('\0', "\u{fffd}") } else { text }
}

/// The value with [`without_nul`] done to all its texts and names.
pub fn value_without_nul(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(without_nul(text)),
        Value::Array(items) => items.into_iter().map(value_without_nul).collect(),
        Value::Object(fields) => fields
            .into_iter()
            .map(|(name, field)| (without_nul(name), value_without_nul(field)))
            .collect::<Map<String, Value>>()
            .into(),
        Value::Null | Value::Bool(_) | Value::Number(_) => value,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn arguments_are_an_object_or_the_text_that_the_model_wrote() {
        assert_eq!(arguments(" \n"), json!({}));
        assert_eq!(arguments(r#" {"a": [1]} "#), json!({"a": [1]}));
        for raw in ["[1]", "7", "{\"a\":", "null", "{\"a\":1} x", r#""text""#] {
            assert_eq!(arguments(raw), json!(raw));
        }
    }

    #[test]
    fn arguments_that_could_not_be_read_again_stay_text() {
        let nested = |depth: usize| format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
        assert!(arguments(&nested(limits::NESTED_DEPTH - 1)).is_object());
        assert!(arguments(&nested(limits::NESTED_DEPTH)).is_string());
        assert!(arguments(&nested(100_000)).is_string());
        // The reader takes only the first name for its own: behind another it passes, and is first
        // when the names are sorted.
        let raw = r#"{"a": 1, "$serde_json::private::RawValue": "x"}"#;
        assert_eq!(arguments(raw), json!(raw));
    }

    #[test]
    fn nul_is_replaced_at_every_level() {
        let value = json!({"a\0": ["x\0y", 1, null], "b": "fine"});
        assert_eq!(
            value_without_nul(value),
            json!({"a\u{fffd}": ["x\u{fffd}y", 1, null], "b": "fine"})
        );
    }
}
