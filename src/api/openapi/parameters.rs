//! Parameters and headers, each described once.

use super::asking::CLIENT_ID;
use super::node::{Node, object};
use super::schema::{Schema, exactly, flag, list, text, whole, word};
use crate::api::request::{KEY_CHARS_MAX, SEQ_MAX, WAIT_MAX};
use crate::api::{events, wire};
use crate::run::event::KINDS;

fn parameter(place: &str, name: &str, schema: Schema, about: &str) -> Node {
    let mut node = object! { "name" => name, "in" => place };
    if place == "path" {
        node.push("required", true);
    }
    node.push("description", about);
    node.push("schema", schema);
    node
}

/// All parameters, by the names under which operations take them.
pub(super) fn parameters() -> Node {
    let mut all = vec![("RunId", run_id())];
    all.extend(waiting());
    all.extend(paging());
    all.extend(reading());
    all.push(("IdempotencyKey", key()));
    all.push(("Traceparent", traceparent()));
    all.push(("OpenapiVersion", version()));
    Node::Object(all.into_iter().map(|(name, node)| (name.to_owned(), node)).collect())
}

fn run_id() -> Node {
    let schema = text().with("pattern", CLIENT_ID);
    let mut node =
        parameter("path", "id", schema, "The run's `run_id`: ours, or the one that you chose.");
    node.push("example", "order-17");
    node
}

fn waiting() -> Vec<(&'static str, Node)> {
    let wait = whole().between(0u64, WAIT_MAX);
    let prefer = text().example("wait=30");
    vec![
        (
            "Wait",
            parameter(
                "query",
                "wait",
                wait,
                "Answer at the run's end, or after so many seconds with the run as it then is.",
            ),
        ),
        (
            "WaitForEvents",
            parameter(
                "query",
                "wait",
                whole().between(0u64, WAIT_MAX),
                "Where there are no events behind `after` yet, wait so many seconds for some.",
            ),
        ),
        (
            "Prefer",
            parameter(
                "header",
                "Prefer",
                prefer,
                "`wait=N` as `?wait=N`, which wins. Other preferences are passed over.",
            ),
        ),
    ]
}

fn types() -> Node {
    let names = KINDS.join("|").replace('.', "\\.");
    let pattern = format!("^(?:(?:{names})(?:,(?:{names}))*|-(?:{names})(?:,-(?:{names}))*)$");
    let mut node = parameter(
        "query",
        "types",
        text().with("pattern", pattern),
        "Only these types, with commas: `text,tool_call`; or all but these: `-text,-reasoning`. \
         A stream's last event passes every filter.",
    );
    node.push("example", "-reasoning,-log");
    node
}

fn paging() -> Vec<(&'static str, Node)> {
    let limit = whole().between(1u64, events::LIMIT_MAX).absent(events::LIMIT_DEFAULT);
    vec![
        (
            "After",
            parameter(
                "query",
                "after",
                whole().between(0u64, SEQ_MAX),
                "Only what stands behind this `seq`. Beyond the log's end it is refused.",
            ),
        ),
        (
            "Before",
            parameter(
                "query",
                "before",
                whole().between(0u64, SEQ_MAX),
                "The last events before this `seq`, in ascending order. Not with `after` or \
                 `wait`.",
            ),
        ),
        (
            "Limit",
            parameter(
                "query",
                "limit",
                limit,
                "At most so many. A page also ends at 4 MiB, but has one event at least.",
            ),
        ),
        ("Types", types()),
    ]
}

fn reading() -> Vec<(&'static str, Node)> {
    let parts = list(word(&wire::PARTS));
    let mut omit = parameter("query", "omit", parts, "Parts to leave out; may be repeated.");
    omit.push("explode", true);
    let last_id = text().with("pattern", "^[0-9]{1,20}$").example("7");
    vec![
        ("Omit", omit),
        (
            "Named",
            parameter(
                "query",
                "named",
                flag(),
                "`false` leaves out the `event:` lines, so that all reaches `onmessage`.",
            ),
        ),
        (
            "LastEventId",
            parameter(
                "header",
                "Last-Event-ID",
                last_id,
                "Go on behind this event. Wins over `after`. Beyond the log's end it is refused.",
            ),
        ),
    ]
}

fn key() -> Node {
    let schema = text()
        .with("pattern", format!("^[!-~]{{1,{KEY_CHARS_MAX}}}$"))
        .with("maxLength", KEY_CHARS_MAX)
        .example("order-17-question-1");
    parameter(
        "header",
        "Idempotency-Key",
        schema,
        "Names the intent. The same key with the same body finds the run that it made, as often \
         as you like; with another body it is refused. `\"abc\"` and `abc` are one key.",
    )
}

fn traceparent() -> Node {
    parameter(
        "header",
        "traceparent",
        text(),
        "W3C Trace Context: tools are told to continue it. One that is broken counts as absent.",
    )
}

fn version() -> Node {
    parameter(
        "query",
        "version",
        word(&crate::api::docs::VERSIONS).absent("3.1"),
        "The version of OpenAPI. `3.0` is for generators that read no other.",
    )
}

/// All headers of answers, by their names.
pub(super) fn headers() -> Node {
    let header =
        |schema: Schema, about: &str| object! { "description" => about, "schema" => schema };
    let path = || text().with("format", "uri-reference").example("/runs/order-17");
    object! {
        "X-Request-Id" => header(
            text(),
            "The request's id, as in the service's log. Send your own (1 to 128 letters, digits, \
             `.`, `_`, `-`) in the same header, and it is kept.",
        ),
        "Location" => header(path(), "The run that was created."),
        "Content-Location" => header(path(), "Where this stands."),
        "Idempotent-Replayed" => header(
            exactly("true"),
            "The run was there already: the key, or `config.run_id`, had made it.",
        ),
        "Preference-Applied" => header(text().example("wait=30"), "The preference that was met."),
        "Retry-After" => header(whole().with("minimum", 0u64), "Seconds to wait."),
        "WWW-Authenticate" => header(exactly("Bearer"), "How to authenticate."),
    }
}
