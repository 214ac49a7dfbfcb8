//! The JSON Schemas of a run: whether one can be used, and what of a value it does not allow. No
//! schema outside of itself is ever fetched.

use serde_json::Value;

use growth::Growth;

mod growth;

/// How many mismatches of arguments a model is told at once: it mends them in one go, and a
/// malicious schema can't fill the log.
const MISMATCHES_MAX: usize = 5;

/// How far the pattern of a schema may be looked at before it counts as a mismatch: a hostile one
/// would otherwise take for ever.
const BACKTRACKS_MAX: usize = 100_000;

/// How large the program of a schema's pattern may become, bytes: compiling a larger one takes a
/// noticeable time.
const PATTERN_BYTES_MAX: usize = 1024 * 1024;

/// A schema that can't be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unusable {
    /// JSON pointer into the schema.
    pub pointer: String,
    /// What is wrong.
    pub detail: String,
}

fn compile(schema: &Value) -> Result<jsonschema::Validator, jsonschema::ValidationError<'static>> {
    let patterns = jsonschema::PatternOptions::fancy_regex()
        .backtrack_limit(BACKTRACKS_MAX)
        .size_limit(PATTERN_BYTES_MAX);
    jsonschema::options().with_pattern_options(patterns).build(schema)
}

/// Whether the schema can be used: it is one, names no other, and checking with it takes no time.
///
/// # Errors
/// What is wrong with it, and where.
pub fn check(schema: &Value) -> Result<(), Unusable> {
    Growth::of(schema)?;
    compile(schema).map(|_validator| ()).map_err(|error| Unusable {
        pointer: error.instance_path().to_string(),
        detail: error.to_string(),
    })
}

/// Checks a value against a schema.
///
/// # Errors
/// What does not fit and where, in words for a model.
pub fn fits(schema: &Value, value: &Value) -> Result<(), String> {
    let wrong = |detail: String| format!("the tool's own schema is wrong: {detail}");
    let growth = Growth::of(schema).map_err(|unusable| wrong(unusable.detail))?;
    if !growth.allows(value) {
        return Err("the arguments are nested too deep for the tool's schema".to_owned());
    }
    let validator = compile(schema).map_err(|error| wrong(error.to_string()))?;
    let found: Vec<String> = validator
        .iter_errors(value)
        .take(MISMATCHES_MAX)
        .map(|error| match error.instance_path().to_string() {
            place if place.is_empty() => error.to_string(),
            place => format!("{place}: {error}"),
        })
        .collect();
    if found.is_empty() {
        return Ok(());
    }
    Err(format!("the arguments do not fit the tool's schema: {}", found.join("; ")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_schema_is_refused_with_the_place_of_its_mistake() {
        assert_eq!(check(&json!({"type": "object"})), Ok(()));
        let wrong = check(&json!({"properties": {"a": {"type": "integr"}}})).expect_err("no type");
        assert_eq!(wrong.pointer, "/properties/a/type");
        assert!(wrong.detail.contains("integr"), "{wrong:?}");
    }

    #[test]
    fn no_schema_is_fetched() {
        for place in ["http://127.0.0.1:9/s.json", "file:///etc/passwd", "other.json"] {
            let wrong = check(&json!({"$ref": place})).expect_err(place);
            assert!(!wrong.detail.contains("root:"), "{wrong:?}");
        }
        assert_eq!(check(&json!({"$defs": {"a": {"type": "null"}}, "$ref": "#/$defs/a"})), Ok(()));
    }

    #[test]
    fn a_pattern_that_would_take_for_ever_is_a_mismatch() {
        let schema = json!({"properties": {"a": {"pattern": "^(?=(a+)+$)(\\w+)+\\1$"}}});
        let value = json!({"a": format!("{}!", "a".repeat(64))});
        assert!(fits(&schema, &value).is_err());
    }

    #[test]
    fn a_schema_that_names_itself_comes_to_an_end() {
        for schema in [
            json!({"$ref": "#"}),
            json!({"allOf": [{"$ref": "#"}]}),
            json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}),
            json!({"not": {"anyOf": [{"$ref": "#"}]}}),
        ] {
            let _ = (check(&schema), fits(&schema, &json!({"a": 1})));
        }
    }
}
