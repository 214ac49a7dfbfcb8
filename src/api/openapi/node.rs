//! JSON whose names keep the order in which they were written: the document is read by people.

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Number, Value};

/// A JSON value with ordered names.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Node {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    List(Vec<Node>),
    Object(Vec<(String, Node)>),
}

/// An object: `object! { "type" => "string", "maxLength" => 64 }`.
macro_rules! object {
    ($($name:expr => $value:expr),* $(,)?) => {
        $crate::api::openapi::node::Node::Object(vec![
            $(($name.to_string(), $crate::api::openapi::node::Node::from($value))),*
        ])
    };
}
pub(super) use object;

impl Node {
    /// Adds a name at the end; what is no object has none.
    pub(super) fn push(&mut self, name: &str, value: impl Into<Node>) {
        if let Node::Object(fields) = self {
            fields.push((name.to_owned(), value.into()));
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<&Node> {
        match self {
            Node::Object(fields) => {
                fields.iter().find(|(one, _)| one == name).map(|(_, value)| value)
            }
            Node::Null | Node::Bool(_) | Node::Number(_) | Node::Text(_) | Node::List(_) => None,
        }
    }
}

impl Serialize for Node {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Node::Null => serializer.serialize_unit(),
            Node::Bool(value) => serializer.serialize_bool(*value),
            Node::Number(number) => number.serialize(serializer),
            Node::Text(text) => serializer.serialize_str(text),
            Node::List(items) => serializer.collect_seq(items),
            Node::Object(fields) => {
                let mut map = serializer.serialize_map(Some(fields.len()))?;
                for (name, value) in fields {
                    map.serialize_entry(name, value)?;
                }
                map.end()
            }
        }
    }
}

impl From<bool> for Node {
    fn from(value: bool) -> Node {
        Node::Bool(value)
    }
}

impl From<&str> for Node {
    fn from(text: &str) -> Node {
        Node::Text(text.to_owned())
    }
}

impl From<String> for Node {
    fn from(text: String) -> Node {
        Node::Text(text)
    }
}

impl From<u64> for Node {
    fn from(number: u64) -> Node {
        Node::Number(number.into())
    }
}

impl From<u32> for Node {
    fn from(number: u32) -> Node {
        Node::Number(number.into())
    }
}

impl From<usize> for Node {
    fn from(number: usize) -> Node {
        Node::Number(number.into())
    }
}

impl From<f64> for Node {
    /// A whole number is written as one: `300`, not `300.0`.
    fn from(number: f64) -> Node {
        let whole = format!("{number:.0}");
        match whole.parse::<u64>() {
            Ok(whole) if number.fract() == 0.0 => Node::from(whole),
            Ok(_) | Err(_) => Number::from_f64(number).map_or(Node::Null, Node::Number),
        }
    }
}

impl<T: Into<Node>> From<Vec<T>> for Node {
    fn from(items: Vec<T>) -> Node {
        Node::List(items.into_iter().map(Into::into).collect())
    }
}

impl<T: Into<Node>, const N: usize> From<[T; N]> for Node {
    fn from(items: [T; N]) -> Node {
        Node::List(items.into_iter().map(Into::into).collect())
    }
}

impl From<Value> for Node {
    fn from(value: Value) -> Node {
        match value {
            Value::Null => Node::Null,
            Value::Bool(value) => Node::Bool(value),
            Value::Number(number) => Node::Number(number),
            Value::String(text) => Node::Text(text),
            Value::Array(items) => Node::from(items),
            Value::Object(fields) => {
                Node::Object(fields.into_iter().map(|(name, value)| (name, value.into())).collect())
            }
        }
    }
}
