//! How much work a schema makes: its references may let a page of it grow without bound. Whoever
//! can create a run could otherwise keep a thread busy for ever.

use serde_json::{Map, Value};

use super::Unusable;

/// How many parts a schema may have once its references are followed. Those of real tools have some
/// hundred.
const PARTS_MAX: usize = 10_000;

/// How many patterns a schema may have: each is compiled for each call.
const PATTERNS_MAX: usize = 64;

/// How many times a schema that refers to itself may be gone through for one value.
const ROUNDS_MAX: f64 = 1_000_000.0;

/// What stands in a schema and is no schema.
const DATA: [&str; 5] = ["const", "default", "enum", "example", "examples"];

/// What stands in a schema and is used only where it is referred to.
const SHELVES: [&str; 2] = ["$defs", "definitions"];

/// What holds schemas by names of the user's own, which are no keywords.
const BY_NAME: [&str; 4] = ["dependencies", "dependentSchemas", "patternProperties", "properties"];

/// How a schema grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Growth {
    parts: usize,
    patterns: usize,
    /// References of a part to itself, or to one that it stands in: each level of a value may go
    /// through the schema so many times.
    recursions: usize,
}

impl Growth {
    /// Follows all references.
    ///
    /// # Errors
    /// The schema grows beyond its bounds, or has references that can't be followed.
    pub(super) fn of(schema: &Value) -> Result<Growth, Unusable> {
        let mut walk = Walk {
            root: schema,
            followed: Vec::new(),
            growth: Growth { parts: 0, patterns: 0, recursions: 0 },
        };
        walk.part(schema, &mut String::new())?;
        Ok(walk.growth)
    }

    /// Whether a value may be checked: it is not nested so deep that a schema that refers to itself
    /// in several places would take for ever.
    pub(super) fn allows(self, value: &Value) -> bool {
        let times = f64::from(u32::try_from(self.recursions).unwrap_or(u32::MAX));
        times < 2.0 || times.powi(depth(value)) <= ROUNDS_MAX
    }
}

fn depth(value: &Value) -> i32 {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}

struct Walk<'a> {
    root: &'a Value,
    /// The references that are being followed, one in the other.
    followed: Vec<&'a str>,
    growth: Growth,
}

impl<'a> Walk<'a> {
    fn part(&mut self, part: &'a Value, pointer: &mut String) -> Result<(), Unusable> {
        self.growth.parts += 1;
        if self.growth.parts > PARTS_MAX {
            let detail = format!(
                "with its references followed it has more than {PARTS_MAX} parts, which is too much"
            );
            return Err(Unusable { pointer: String::new(), detail });
        }
        match part {
            Value::Object(fields) => self.fields(fields, pointer),
            Value::Array(items) => {
                for (place, item) in items.iter().enumerate() {
                    self.step(&place.to_string(), item, pointer)?;
                }
                Ok(())
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(()),
        }
    }

    fn fields(
        &mut self,
        fields: &'a Map<String, Value>,
        pointer: &mut String,
    ) -> Result<(), Unusable> {
        for (name, field) in fields {
            let is_root = pointer.is_empty();
            match (name.as_str(), field) {
                ("$ref", Value::String(target)) => self.follow(target, pointer)?,
                ("$dynamicRef" | "$recursiveRef" | "$dynamicAnchor", Value::String(_)) => {
                    return Err(refused(pointer, name, "is not available here"));
                }
                ("$id" | "id" | "$anchor", Value::String(_)) if !is_root => {
                    return Err(refused(pointer, name, "may stand only at the top"));
                }
                (name, _) if DATA.contains(&name) => {}
                (name, Value::Object(_)) if SHELVES.contains(&name) => {}
                (name, field) => {
                    self.growth.patterns += match (name, field) {
                        ("pattern", Value::String(_)) => 1,
                        ("patternProperties", Value::Object(patterns)) => patterns.len(),
                        _ => 0,
                    };
                    if self.growth.patterns > PATTERNS_MAX {
                        let why = format!("is one pattern more than {PATTERNS_MAX}");
                        return Err(refused(pointer, name, &why));
                    }
                    match field {
                        Value::Object(named) if BY_NAME.contains(&name) => {
                            self.named(name, named, pointer)?;
                        }
                        _ => self.step(name, field, pointer)?,
                    }
                }
            }
        }
        Ok(())
    }

    fn named(
        &mut self,
        keyword: &str,
        parts: &'a Map<String, Value>,
        pointer: &mut String,
    ) -> Result<(), Unusable> {
        let here = pointer.len();
        pointer.push('/');
        pointer.push_str(keyword);
        for (name, part) in parts {
            self.step(name, part, pointer)?;
        }
        pointer.truncate(here);
        Ok(())
    }

    fn step(&mut self, name: &str, part: &'a Value, pointer: &mut String) -> Result<(), Unusable> {
        let here = pointer.len();
        pointer.push('/');
        pointer.push_str(&name.replace('~', "~0").replace('/', "~1"));
        let walked = self.part(part, pointer);
        pointer.truncate(here);
        walked
    }

    fn follow(&mut self, target: &'a str, pointer: &mut String) -> Result<(), Unusable> {
        let place =
            target.strip_prefix('#').filter(|rest| rest.is_empty() || rest.starts_with('/'));
        let Some(place) = place else {
            let right = "must be a place in this schema, as in #/$defs/NAME";
            return Err(refused(pointer, "$ref", right));
        };
        let Some(part) = self.root.pointer(place) else {
            return Err(refused(pointer, "$ref", "refers to what is not there"));
        };
        if self.followed.contains(&target) {
            self.growth.recursions += 1;
            return Ok(());
        }
        self.followed.push(target);
        let walked = self.part(part, pointer);
        self.followed.pop();
        walked
    }
}

fn refused(pointer: &str, name: &str, why: &str) -> Unusable {
    Unusable { pointer: format!("{pointer}/{name}"), detail: format!("`{name}` {why}") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::run::schema::{check, fits};

    /// A schema of some lines whose last part is gone through `2^levels` times.
    fn doubling(levels: usize) -> Value {
        let mut parts = Map::new();
        for level in 0..levels {
            let next = json!({"$ref": format!("#/$defs/a{}", level + 1)});
            parts.insert(format!("a{level}"), json!({"allOf": [next, next]}));
        }
        parts.insert(format!("a{levels}"), json!({"type": "string"}));
        json!({"$defs": parts, "$ref": "#/$defs/a0"})
    }

    #[test]
    fn a_schema_that_doubles_with_every_line_is_refused() {
        assert_eq!(check(&doubling(6)), Ok(()));
        for levels in [12, 40, 200] {
            let wrong = check(&doubling(levels)).expect_err("it grows");
            assert!(wrong.detail.contains("10000 parts"), "{wrong:?}");
            assert!(fits(&doubling(levels), &json!({})).is_err());
        }
    }

    #[test]
    fn a_schema_that_refers_to_itself_bounds_how_deep_a_value_may_be() {
        let tree = json!({
            "$defs": {"tree": {"type": "object", "properties":
                {"left": {"$ref": "#/$defs/tree"}, "right": {"$ref": "#/$defs/tree"}}}},
            "$ref": "#/$defs/tree",
        });
        let nested = |depth: usize| (0..depth).fold(json!({}), |inner, _| json!({"left": inner}));
        assert_eq!(fits(&tree, &nested(15)), Ok(()));
        assert!(fits(&tree, &nested(25)).expect_err("it is deep").contains("nested too deep"));
        let list = json!({"properties": {"next": {"$ref": "#"}, "n": {"type": "integer"}}});
        let long = (0..60).fold(json!({}), |inner, _| json!({"next": inner}));
        assert_eq!(fits(&list, &long), Ok(()), "one reference for each level is no growth");
        // What it is for: the same place, gone through twice at each level.
        let twice = json!({"allOf": [{"properties": {"x": {"$ref": "#"}}},
                                     {"properties": {"x": {"$ref": "#"}}}]});
        let deep = (0..31).fold(json!(1), |inner, _| json!({"x": inner}));
        assert!(fits(&twice, &deep).is_err());
    }

    #[test]
    fn references_lead_to_places_of_the_schema() {
        for (schema, place) in [
            (json!({"properties": {"a": {"$ref": "#here"}}}), "/properties/a/$ref"),
            (json!({"$ref": "#/$defs/none"}), "/$ref"),
            (json!({"$dynamicRef": "#x"}), "/$dynamicRef"),
            (json!({"items": {"$id": "https://x.example/", "$ref": "#"}}), "/items/$id"),
        ] {
            assert_eq!(check(&schema).expect_err("it can't be followed").pointer, place);
        }
        let fine = json!({"$id": "https://x.example/s", "properties": {"id": {"type": "string"},
                          "$ref": {"type": "string"}}, "default": {"id": "x", "$ref": "y"}});
        assert_eq!(check(&fine), Ok(()), "names of properties and data are no keywords");
    }

    #[test]
    fn no_name_of_a_property_hides_what_it_holds() {
        for name in ["enum", "default", "$defs", "definitions", "properties", "const", "x"] {
            let mut schema = doubling(40);
            let hidden = json!({"properties": {name: {"$ref": "#/$defs/a0"}}});
            schema.as_object_mut().expect("an object").remove("$ref");
            schema["allOf"] = json!([hidden]);
            assert!(check(&schema).is_err(), "{name}");
        }
    }

    #[test]
    fn patterns_are_few() {
        let with = |count: usize| {
            let fields = (0..count).map(|n| (format!("p{n}"), json!({"pattern": "^[a-z]+$"})));
            json!({"properties": fields.collect::<Map<_, _>>()})
        };
        assert_eq!(check(&with(64)), Ok(()));
        let wrong = check(&with(65)).expect_err("they are many");
        assert!(wrong.pointer.ends_with("/pattern"), "{wrong:?}");
    }
}
