//! One operation of the document: what it takes, and what it answers.

use std::collections::BTreeMap;

use super::node::{Node, object};
use super::schema::{Schema, named};
use crate::api::problem::{ErrorCode, MEDIA_TYPE};

/// An operation on its way into the document.
pub(super) struct Operation {
    pub(super) path: &'static str,
    pub(super) method: &'static str,
    fields: Vec<(String, Node)>,
    parameters: Vec<Node>,
    body: Option<Node>,
    answers: BTreeMap<u16, Node>,
    codes: Vec<ErrorCode>,
    security: Option<Node>,
}

/// What every operation but the public ones may be answered.
const ALWAYS: [ErrorCode; 3] =
    [ErrorCode::Forbidden, ErrorCode::Unauthenticated, ErrorCode::Internal];

impl Operation {
    pub(super) fn new(
        method: &'static str,
        path: &'static str,
        id: &str,
        tag: &str,
        summary: &str,
    ) -> Operation {
        let fields = [("operationId", id), ("summary", summary)]
            .map(|(name, text)| (name.to_owned(), text.into()));
        let tags = ("tags".to_owned(), Node::from([tag]));
        Operation {
            path,
            method,
            fields: [tags].into_iter().chain(fields).collect(),
            parameters: Vec::new(),
            body: None,
            answers: BTreeMap::new(),
            codes: ALWAYS.to_vec(),
            security: None,
        }
    }

    pub(super) fn about(mut self, text: &str) -> Operation {
        self.fields.push(("description".to_owned(), text.into()));
        self
    }

    /// It needs no key.
    pub(super) fn public(mut self) -> Operation {
        self.security = Some(Vec::<Node>::new().into());
        self.codes.retain(|code| *code != ErrorCode::Unauthenticated);
        self
    }

    /// Takes the parameters of these names.
    pub(super) fn takes(mut self, names: &[&str]) -> Operation {
        let path = |name: &&str| format!("#/components/parameters/{name}");
        self.parameters.extend(names.iter().map(|name| object! { "$ref" => path(name) }));
        self
    }

    /// Takes a body of this schema.
    pub(super) fn body(mut self, schema: &str, examples: Node) -> Operation {
        let content = object! { "schema" => named(schema), "examples" => examples };
        self.body = Some(object! {
            "required" => true,
            "content" => object! { "application/json" => content },
        });
        self
    }

    /// Takes a body of this schema, or none.
    pub(super) fn may_have_body(mut self, schema: &str) -> Operation {
        let content = object! { "schema" => named(schema).or_null() };
        self.body = Some(object! { "content" => object! { "application/json" => content } });
        self
    }

    /// May also be authorized in this way.
    pub(super) fn opened_by(mut self, scheme: &str) -> Operation {
        let way = |name: &str| object! { name => Vec::<Node>::new() };
        self.security = Some(Node::from([way("bearer"), way(scheme), object! {}]));
        self
    }

    pub(super) fn answers(mut self, status: u16, answer: Answer) -> Operation {
        self.answers.insert(status, answer.into());
        self
    }

    /// May be refused with these codes.
    pub(super) fn refuses(mut self, codes: &[ErrorCode]) -> Operation {
        self.codes.extend(codes);
        self
    }
}

impl From<Operation> for Node {
    fn from(operation: Operation) -> Node {
        let Operation { fields, parameters, body, answers, codes, security, .. } = operation;
        let mut node = Node::Object(fields);
        if let Some(security) = security {
            node.push("security", security);
        }
        if !parameters.is_empty() {
            node.push("parameters", parameters);
        }
        if let Some(body) = body {
            node.push("requestBody", body);
        }
        let mut all = answers;
        let mut by_status: BTreeMap<u16, Vec<ErrorCode>> = BTreeMap::new();
        for code in codes {
            let of_status = by_status.entry(code.status().as_u16()).or_default();
            if !of_status.contains(&code) {
                of_status.push(code);
            }
        }
        all.extend(by_status.into_iter().map(|(status, codes)| (status, problem(&codes))));
        let all = all.into_iter().map(|(status, answer)| (status.to_string(), answer));
        node.push("responses", Node::Object(all.collect()));
        node
    }
}

/// A refusal with one of these codes, which have one status.
fn problem(codes: &[ErrorCode]) -> Node {
    let lines: Vec<String> =
        codes.iter().map(|code| format!("- `{}`: {}.", code.name(), code.title())).collect();
    let names: Vec<&str> = codes.iter().map(|code| code.name()).collect();
    let mut headers = vec!["X-Request-Id"];
    let status = codes.first().map_or(0, |code| code.status().as_u16());
    match status {
        401 => headers.push("WWW-Authenticate"),
        429 | 503 if codes.iter().any(|code| code.is_retryable()) => headers.push("Retry-After"),
        _ => {}
    }
    object! {
        "description" => lines.join("\n"),
        "headers" => headers_of(&headers),
        "content" => object! { MEDIA_TYPE => object! { "schema" => named("Problem") } },
        "x-codes" => names,
    }
}

fn headers_of(names: &[&str]) -> Node {
    let path = |name: &str| object! { "$ref" => format!("#/components/headers/{name}") };
    Node::Object(names.iter().map(|name| ((*name).to_owned(), path(name))).collect())
}

/// A good answer.
pub(super) struct Answer {
    about: String,
    links: Vec<(String, Node)>,
    headers: Vec<&'static str>,
    content: Vec<(String, Node)>,
}

impl Answer {
    /// Without a body.
    pub(super) fn empty(about: &str) -> Answer {
        let headers = vec!["X-Request-Id"];
        Answer { about: about.to_owned(), links: Vec::new(), headers, content: Vec::new() }
    }

    pub(super) fn json(about: &str, schema: Schema) -> Answer {
        Answer::empty(about).or("application/json", schema)
    }

    /// A stream of events.
    pub(super) fn stream(about: &str) -> Answer {
        Answer::empty(about).or_stream()
    }

    pub(super) fn or(mut self, media_type: &str, schema: Schema) -> Answer {
        self.content.push((media_type.to_owned(), object! { "schema" => schema }));
        self
    }

    pub(super) fn or_stream(mut self) -> Answer {
        let content = object! {
            "schema" => named("StreamBlock"),
            "example" => super::examples::STREAM,
        };
        self.content.push(("text/event-stream".to_owned(), content));
        self
    }

    pub(super) fn headers(mut self, names: &[&'static str]) -> Answer {
        self.headers.extend(names);
        self
    }

    /// The operations that take the id of what was made.
    pub(super) fn leads_to(mut self, id: &str, operations: &[&str]) -> Answer {
        let link = |operation: &&str| {
            let id = object! { "id" => format!("$response.body#/{id}") };
            let link = object! { "operationId" => *operation, "parameters" => id };
            ((*operation).to_owned(), link)
        };
        self.links.extend(operations.iter().map(link));
        self
    }

    /// An example of the JSON.
    pub(super) fn example(mut self, value: Node) -> Answer {
        if let Some((_, content)) = self.content.first_mut() {
            content.push("example", value);
        }
        self
    }
}

impl From<Answer> for Node {
    fn from(answer: Answer) -> Node {
        let mut node = object! {
            "description" => answer.about,
            "headers" => headers_of(&answer.headers),
        };
        if !answer.content.is_empty() {
            node.push("content", Node::Object(answer.content));
        }
        if !answer.links.is_empty() {
            node.push("links", Node::Object(answer.links));
        }
        node
    }
}
