//! Instructions are a template over the run's variables: `{{user}}`, `{{order.id}}`.

use serde_json::{Map, Value};

/// A place in a template that names no variable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("names the variable `{0}`, which is not among `variables`")]
pub struct Unknown(pub String);

/// Puts the variables into the template. Text is put in as it is, anything else as JSON. Braces that
/// hold no dotted name of `[A-Za-z0-9_-]` stay as they are.
///
/// # Errors
/// The first name that `variables` does not have.
pub fn render(template: &str, variables: &Map<String, Value>) -> Result<String, Unknown> {
    let mut out = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(open) = rest.find("{{") {
        let Some(length) = rest[open + 2..].find("}}") else { break };
        let name = rest[open + 2..open + 2 + length].trim();
        out.push_str(&rest[..open]);
        if is_name(name) {
            match look_up(name, variables).ok_or_else(|| Unknown(name.to_owned()))? {
                Value::String(text) => out.push_str(text),
                other => out.push_str(&other.to_string()),
            }
            rest = &rest[open + 2 + length + 2..];
        } else {
            out.push_str("{{");
            rest = &rest[open + 2..];
        }
    }
    out.push_str(rest);
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
        assert_eq!(rendered.as_deref().map_err(|unknown| unknown.0.as_str()), expected);
    }

    #[test]
    fn names_are_replaced_and_everything_else_stays() {
        check("Hi {{user}}, {{ order.id }} {{order.lines.1}}", Ok("Hi Ann, 17 b"));
        check("{{order.lines}}", Ok(r#"["a","b"]"#));
        check("{{}} {{a b}} {{ {{user}} }} {{user", Ok("{{}} {{a b}} {{ Ann }} {{user"));
        check("no braces, ümlaut {{user}}ß", Ok("no braces, ümlaut Annß"));
    }

    #[test]
    fn an_unknown_name_is_said() {
        check("{{nobody}}", Err("nobody"));
        check("{{order.id.deeper}}", Err("order.id.deeper"));
        check("{{order.lines.2}}", Err("order.lines.2"));
    }
}
