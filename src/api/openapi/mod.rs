//! The reference of the API as an OpenAPI document. It is built here, from the constants, names and
//! codes of the code that it describes (docs/adr/0012), and kept as `openapi.yaml`.

mod answers;
mod asking;
mod events;
mod examples;
mod node;
mod older;
mod operation;
mod parameters;
mod paths;
mod schema;
mod yaml;

use node::{Node, object};

/// The forms in which the document can be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// OpenAPI 3.1 as YAML: the form that is kept.
    Yaml,
    /// OpenAPI 3.1 as JSON.
    Json,
    /// OpenAPI 3.0.3 as JSON, for generators that read no other.
    OlderJson,
}

/// The document.
pub fn text(form: Form) -> String {
    let document = document();
    match form {
        Form::Yaml => yaml::write(&document),
        Form::Json => json(&document),
        Form::OlderJson => json(&older::form(&document)),
    }
}

fn json(document: &Node) -> String {
    let mut text = serde_json::to_string_pretty(document).expect("it is plain data");
    text.push('\n');
    text
}

const ABOUT: &str = "\
Runledger runs LLM agents as a durable service: the log is the run. POST a run; poll it, stream it, \
wait for it, cancel it.

- Bodies are JSON. Times are RFC 3339, UTC, with milliseconds; durations are seconds, as numbers.
- Unknown fields of a request and unknown query parameters are refused, so that a misspelt limit is \
not silently ignored. No text may contain NUL. In a request, null is as good as absent.
- Fields of a request have no `default`, which generated clients would send unasked: what an absent \
one means stands in `x-default`.
- In answers only `status` is a closed set: ignore fields, types of events, stop reasons and codes \
that you don't know. `x-known-values` lists those of this release.
- Every error is a problem document (RFC 9457) with a `code` to branch on. `x-codes` lists those \
that an operation may answer with.
- Every answer has `X-Request-Id`.
- Where the service has keys, send one as `Authorization: Bearer KEY`. Without keys it serves its \
own machine only, and none is needed. This document, `/docs`, `/healthz` and `/readyz` never need \
one: they tell nothing of your data.";

fn document() -> Node {
    let mut schemas = asking::schemas();
    schemas.extend(answers::schemas());
    schemas.extend(events::schemas());
    let schemas = schemas.into_iter().map(|(name, schema)| (name.to_owned(), schema.into()));
    let bearer = object! {
        "type" => "http",
        "scheme" => "bearer",
        "description" => "One of the keys of the service, `RUNLEDGER_API_KEYS`.",
    };
    let stream_token = object! {
        "type" => "apiKey",
        "in" => "query",
        "name" => "token",
        "description" => "A token of `POST /runs/{id}/stream_tokens`, for that run's stream.",
    };
    object! {
        "openapi" => "3.1.0",
        "info" => info(),
        "servers" => [object! { "url" => "/", "description" => "The service that you ask." }],
        // Keys, or none where the service has none.
        "security" => [object! { "bearer" => Vec::<Node>::new() }, object! {}],
        "tags" => tags(),
        "paths" => paths::paths(),
        "components" => object! {
            "securitySchemes" => object! { "bearer" => bearer, "streamToken" => stream_token },
            "parameters" => parameters::parameters(),
            "headers" => parameters::headers(),
            "schemas" => Node::Object(schemas.collect()),
        },
    }
}

fn info() -> Node {
    object! {
        "title" => "Runledger",
        "version" => env!("CARGO_PKG_VERSION"),
        "summary" => "LLM agents as a durable service",
        "description" => ABOUT,
        "license" => object! { "name" => "Apache 2.0", "identifier" => "Apache-2.0" },
    }
}

fn tags() -> Node {
    let tags = [
        ("Runs", "Create, list, read, change, cancel, erase."),
        ("Batches", "Many runs together."),
        ("Events", "The log of a run, in pages and as a stream."),
        ("Models", "What agents may name."),
        ("Service", "For operators and orchestrators."),
        ("Reference", "This document."),
    ];
    Node::from(tags.map(|(name, about)| object! { "name" => name, "description" => about }))
}
