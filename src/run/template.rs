//! Instructions are a template over the run's variables: `{{user}}`, `{{order.id}}`.

use serde_json::{Map, Value};

use super::limits;

/// Why a template can't be rendered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unrendered {
    /// It names a variable that there is not.
    #[error("names the variable `{0}`, which is not among `variables`")]
    Unknown(String),
    /// Variables made it grow too long.
    #[error("must have at most {} bytes with its variables put in", limits::INSTRUCTIONS_BYTES)]
    TooLong,
}

/// Puts the variables into the template. Text is put in as it is, anything else as JSON. Braces
/// that hold no dotted name of `[A-Za-z0-9_-]` stay as they are. It takes time linear in what it
/// reads and writes, whatever the braces.
///
/// # Errors
/// The first name that `variables` does not have, or that the result is too long.
pub fn render(template: &str, variables: &Map<String, Value>) -> Result<String, Unrendered> {
    let mut out = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(open) = rest.find("{{") {
        out.push_str(&rest[..open]);
        let inner = &rest[open + 2..];
        let length = inner.find(['{', '}']).unwrap_or(inner.len());
        let name = inner[..length].trim();
        match inner[length..].strip_prefix("}}") {
            Some(behind) if is_name(name) => {
                match look_up(name, variables) {
                    None => return Err(Unrendered::Unknown(name.to_owned())),
                    Some(Value::String(text)) => out.push_str(text),
                    Some(other) => out.push_str(&other.to_string()),
                }
                rest = behind;
            }
            Some(_) | None => {
                out.push('{');
                rest = &rest[open + 1..];
            }
        }
        if out.len() > limits::INSTRUCTIONS_BYTES {
            return Err(Unrendered::TooLong);
        }
    }
    out.push_str(rest);
    if out.len() > limits::INSTRUCTIONS_BYTES {
        return Err(Unrendered::TooLong);
    }
    Ok(out)
}

fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    name.split('.').all(|step| !step.is_empty() && step.bytes().all(plain))
}

fn look_up<'a>(name: &str, variables: &'a Map<String, Value>) -> Option<&'a Value> {
    let mut steps = name.split('.');
    let first = variables.get(steps.next()?)?;
    steps.try_fold(first, |value, step| match value {
        Value::Object(fields) => fields.get(step),
        Value::Array(items) => step.parse::<usize>().ok().and_then(|place| items.get(place)),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(template: &str, expected: Result<&str, &str>) {
        let variables = json!({"user": "Ann", "order": {"id": 17, "lines": ["a", "b"]}});
        let Value::Object(variables) = variables else { unreachable!("it is an object") };
        let rendered = render(template, &variables);
        let expected = expected.map(str::to_owned);
        assert_eq!(rendered, expected.map_err(|name| Unrendered::Unknown(name.to_owned())));
    }

    #[test]
    fn names_are_replaced_and_everything_else_stays() {
        check("Hi {{user}}, {{ order.id }} {{order.lines.1}}", Ok("Hi Ann, 17 b"));
        check("{{order.lines}}", Ok(r#"["a","b"]"#));
        check("{{}} {{a b}} {{ {{user}} }} {{user", Ok("{{}} {{a b}} {{ Ann }} {{user"));
        check("{{{user}}} {{user}}}", Ok("{Ann} Ann}"));
        check("no braces, ümlaut {{user}}ß", Ok("no braces, ümlaut Annß"));
    }

    #[test]
    fn an_unknown_name_is_said() {
        check("{{nobody}}", Err("nobody"));
        check("{{order.id.deeper}}", Err("order.id.deeper"));
        check("{{order.lines.2}}", Err("order.lines.2"));
    }

    #[test]
    fn few_names_can_not_make_a_long_text() {
        let variables = Map::from_iter([("v".to_owned(), Value::String("x".repeat(65_000)))]);
        assert!(render(&"{{v}}".repeat(100), &variables).is_ok());
        assert_eq!(render(&"{{v}}".repeat(200), &variables), Err(Unrendered::TooLong));
        let long = "x".repeat(limits::INSTRUCTIONS_BYTES + 1);
        assert_eq!(render(&long, &Map::new()), Err(Unrendered::TooLong));
    }

    #[test]
    fn braces_that_never_close_take_linear_time() {
        // Read anew from every brace, this would be 10^12 steps.
        let hostile = format!("{}}}}}", "{{ ".repeat(1_000_000));
        assert_eq!(render(&hostile, &Map::new()).as_deref(), Ok(hostile.as_str()));
    }
}
