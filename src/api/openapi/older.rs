//! The document in the form of OpenAPI 3.0.3, for generators that don't read 3.1 yet. It says the
//! same as far as 3.0 can say it.

use super::node::Node;

/// Words of JSON Schema that 3.0 does not have, and does not need to be right.
const DROPPED: [&str; 4] =
    ["propertyNames", "contentEncoding", "contentMediaType", "contentSchema"];

/// Values, which are no schemas.
const VALUES: [&str; 4] = ["example", "x-default", "enum", "value"];

/// The document as 3.0.3.
pub(super) fn form(document: &Node) -> Node {
    let Node::Object(fields) = document else { return document.clone() };
    let older = fields.iter().map(|(name, value)| {
        let value = match name.as_str() {
            "openapi" => "3.0.3".into(),
            "info" => info(value),
            _ => schema(value),
        };
        (name.clone(), value)
    });
    Node::Object(older.collect())
}

/// 3.0 knows no summary, and licences by their address only.
fn info(node: &Node) -> Node {
    let Node::Object(fields) = node else { return node.clone() };
    let known = fields.iter().filter(|(name, _)| !["summary", "license"].contains(&name.as_str()));
    Node::Object(known.cloned().collect())
}

fn schema(node: &Node) -> Node {
    let fields = match node {
        Node::List(items) => return Node::List(items.iter().map(schema).collect()),
        Node::Object(fields) => fields,
        Node::Null | Node::Bool(_) | Node::Number(_) | Node::Text(_) => return node.clone(),
    };
    let has_siblings = fields.len() > 1;
    let mut older = Vec::new();
    let mut say = |name: &str, value: Node| older.push((name.to_owned(), value));
    for (name, value) in fields {
        match (name.as_str(), value) {
            ("type", Node::List(kinds)) => {
                let mut kinds = kinds.iter().filter(|kind| **kind != Node::from("null"));
                say("type", kinds.next().cloned().unwrap_or(Node::Null));
                say("nullable", true.into());
            }
            ("const", one) => say("enum", Node::List(vec![one.clone()])),
            ("examples", Node::List(all)) => {
                say("example", all.first().cloned().unwrap_or(Node::Null));
            }
            ("exclusiveMinimum", Node::Number(_)) => {
                say("minimum", value.clone());
                say("exclusiveMinimum", true.into());
            }
            // In 3.0 nothing may stand beside a reference.
            ("$ref", _) if has_siblings => {
                say(
                    "allOf",
                    Node::List(vec![Node::Object(vec![("$ref".to_owned(), value.clone())])]),
                );
            }
            ("anyOf", Node::List(all)) if all.iter().any(is_null) => {
                let rest: Vec<Node> = all.iter().filter(|one| !is_null(one)).map(schema).collect();
                say("allOf", Node::List(rest));
                say("nullable", true.into());
            }
            // What stands here are names of fields, and no words of the schema's.
            ("properties", Node::Object(fields)) => {
                let fields = fields.iter().map(|(name, value)| (name.clone(), schema(value)));
                say("properties", Node::Object(fields.collect()));
            }
            (dropped, _) if DROPPED.contains(&dropped) => {}
            (plain, _) if VALUES.contains(&plain) => say(plain, value.clone()),
            (other, _) => say(other, schema(value)),
        }
    }
    Node::Object(older)
}

/// `{type: null}`, which always stands beside one other schema.
fn is_null(node: &Node) -> bool {
    node.get("type") == Some(&Node::from("null"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::openapi::node::object;
    use crate::api::openapi::schema::{
        answer, exactly, named, number, one_of, optional, text, word,
    };

    #[test]
    fn what_3_0_can_not_say_is_said_in_its_words() {
        for (newer, older) in [
            (text().or_null(), object! { "type" => "string", "nullable" => true }),
            (exactly("a"), object! { "type" => "string", "enum" => ["a"] }),
            (
                word(&["a"]).or_null(),
                object! {
                    "type" => "string", "nullable" => true,
                    "enum" => vec![Node::from("a"), Node::Null],
                },
            ),
            (
                named("Run").about("it"),
                object! {
                    "allOf" => [object! { "$ref" => "#/components/schemas/Run" }],
                    "description" => "it",
                },
            ),
            (
                named("Run").or_null(),
                object! {
                    "allOf" => [object! { "$ref" => "#/components/schemas/Run" }],
                    "nullable" => true,
                },
            ),
            (
                one_of([text(), number()]).or_null(),
                object! {
                    "allOf" => [object! { "oneOf" => vec![Node::from(text()), number().into()] }],
                    "nullable" => true,
                },
            ),
            (
                text().example("a").with("contentEncoding", "base64"),
                object! { "type" => "string", "example" => "a" },
            ),
            (
                answer("it", [optional("default", text().or_null())]),
                object! {
                    "type" => "object", "description" => "it",
                    "properties" => object! {
                        "default" => object! { "type" => "string", "nullable" => true },
                    },
                },
            ),
            (
                number().with("exclusiveMinimum", 0u64),
                object! {
                    "type" => "number", "format" => "double",
                    "minimum" => 0u64, "exclusiveMinimum" => true,
                },
            ),
        ] {
            assert_eq!(schema(&newer.into()), older);
        }
    }
}
