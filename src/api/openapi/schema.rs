//! The words of JSON Schema in which the bodies are described.

use super::node::{Node, object};

/// One schema.
#[derive(Clone, Debug)]
pub(super) struct Schema(Vec<(String, Node)>);

impl Schema {
    fn of_type(name: &str) -> Schema {
        Schema(vec![("type".to_owned(), name.into())])
    }

    /// Adds a word.
    pub(super) fn with(mut self, word: &str, value: impl Into<Node>) -> Schema {
        self.0.push((word.to_owned(), value.into()));
        self
    }

    /// What it means.
    pub(super) fn about(self, text: &str) -> Schema {
        self.with("description", text)
    }

    /// One that is valid, for people.
    pub(super) fn example(self, value: impl Into<Node>) -> Schema {
        self.with("examples", vec![value.into()])
    }

    /// Words that it may hold today; more may come, so this is no `enum`.
    pub(super) fn known(self, words: &[&str]) -> Schema {
        self.with("x-known-values", words.to_vec())
    }

    /// What an absent value means. No `default`: generated clients take that as a reason to demand
    /// the field, or to send it unasked.
    pub(super) fn absent(self, value: impl Into<Node>) -> Schema {
        self.with("x-default", value)
    }

    pub(super) fn between(self, low: impl Into<Node>, high: impl Into<Node>) -> Schema {
        self.with("minimum", low).with("maximum", high)
    }

    /// Null as well.
    pub(super) fn or_null(mut self) -> Schema {
        let is_whole = |word: &str| ["$ref", "oneOf", "discriminator"].contains(&word);
        if self.0.iter().any(|(word, _)| is_whole(word)) {
            let (inner, outer): (Vec<_>, Vec<_>) =
                self.0.into_iter().partition(|(word, _)| is_whole(word));
            let either = [Node::Object(inner), object! { "type" => "null" }];
            let mut schema = Schema(vec![("anyOf".to_owned(), either.into())]);
            schema.0.extend(outer);
            return schema;
        }
        for (word, value) in &mut self.0 {
            match (word.as_str(), value) {
                ("type", kind @ Node::Text(_)) => {
                    *kind = Node::List(vec![kind.clone(), "null".into()]);
                }
                ("enum", Node::List(values)) => values.push(Node::Null),
                _ => {}
            }
        }
        self
    }
}

impl From<Schema> for Node {
    fn from(schema: Schema) -> Node {
        Node::Object(schema.0)
    }
}

pub(super) fn text() -> Schema {
    Schema::of_type("string")
}

pub(super) fn whole() -> Schema {
    Schema::of_type("integer").with("format", "int64")
}

/// A whole number that is never below 0.
pub(super) fn count() -> Schema {
    whole().with("minimum", 0u64)
}

pub(super) fn number() -> Schema {
    Schema::of_type("number").with("format", "double")
}

/// A duration.
pub(super) fn seconds() -> Schema {
    number().with("minimum", 0u64)
}

pub(super) fn flag() -> Schema {
    Schema::of_type("boolean")
}

/// RFC 3339, UTC, milliseconds.
pub(super) fn time() -> Schema {
    text().with("format", "date-time")
}

/// One of these words and never another.
pub(super) fn word(words: &[&str]) -> Schema {
    text().with("enum", words.to_vec())
}

/// This word and no other.
pub(super) fn exactly(word: &str) -> Schema {
    text().with("const", word)
}

/// Any JSON.
pub(super) fn any() -> Schema {
    Schema(Vec::new())
}

pub(super) fn list(items: Schema) -> Schema {
    Schema::of_type("array").with("items", items)
}

/// An object of any names, all of whose values are such.
pub(super) fn map(values: Schema) -> Schema {
    Schema::of_type("object").with("additionalProperties", values)
}

/// An object of any names and values.
pub(super) fn anything() -> Schema {
    Schema::of_type("object").with("additionalProperties", true)
}

/// The schema that stands under this name.
pub(super) fn named(name: &str) -> Schema {
    Schema(vec![("$ref".to_owned(), format!("#/components/schemas/{name}").into())])
}

/// Exactly one of these.
pub(super) fn one_of(schemas: impl IntoIterator<Item = Schema>) -> Schema {
    let schemas: Vec<Node> = schemas.into_iter().map(Node::from).collect();
    Schema(vec![("oneOf".to_owned(), schemas.into())])
}

/// One of these named schemas, told apart by the field `tag`.
pub(super) fn told_apart(tag: &str, schemas: &[(&str, &str)]) -> Schema {
    let path = |name: &str| format!("#/components/schemas/{name}");
    let mapping = schemas.iter().map(|(value, name)| ((*value).to_owned(), path(name).into()));
    let discriminator =
        object! { "propertyName" => tag, "mapping" => Node::Object(mapping.collect()) };
    one_of(schemas.iter().map(|(_, name)| named(name))).with("discriminator", discriminator)
}

/// A field of an object.
pub(super) struct Field {
    name: &'static str,
    is_required: bool,
    schema: Schema,
}

impl Field {
    /// What its absence means.
    pub(super) fn absent(self, value: impl Into<Node>) -> Field {
        Field { schema: self.schema.absent(value), ..self }
    }
}

/// A field that is always there.
pub(super) fn required(name: &'static str, schema: Schema) -> Field {
    Field { name, is_required: true, schema }
}

/// A field that may be absent.
pub(super) fn optional(name: &'static str, schema: Schema) -> Field {
    Field { name, is_required: false, schema }
}

/// An object of an answer. Later releases may add fields, so clients ignore those that they don't
/// know.
pub(super) fn answer(about: &str, fields: impl IntoIterator<Item = Field>) -> Schema {
    record(about, fields)
}

/// An object of a request: unknown fields are refused, and null is as good as absent.
pub(super) fn request(about: &str, fields: impl IntoIterator<Item = Field>) -> Schema {
    let nullable = fields.into_iter().map(|field| match field.is_required {
        true => field,
        false => Field { schema: field.schema.or_null(), ..field },
    });
    record(about, nullable).with("additionalProperties", false)
}

fn record(about: &str, fields: impl IntoIterator<Item = Field>) -> Schema {
    let mut required: Vec<Node> = Vec::new();
    let mut properties = Vec::new();
    for field in fields {
        if field.is_required {
            required.push(field.name.into());
        }
        properties.push((field.name.to_owned(), field.schema.into()));
    }
    let mut schema = Schema::of_type("object").about(about);
    if !required.is_empty() {
        schema = schema.with("required", Node::List(required));
    }
    schema.with("properties", Node::Object(properties))
}
