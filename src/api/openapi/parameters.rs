//! Parameters and headers, each described once.

use super::asking::CLIENT_ID;
use super::node::{Node, object};
use super::schema::{Schema, exactly, flag, list, named, text, time, whole, word};
use crate::api::request::{KEY_CHARS_MAX, SEQ_MAX, WAIT_MAX};
use crate::api::{events, lists, wire};
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
    let mut all = vec![("RunId", run_id()), ("BatchId", batch_id())];
    all.extend(listing());
    all.extend(waiting());
    all.extend(paging());
    all.extend(reading());
    all.push(("IdempotencyKey", key(OF_AN_INTENT)));
    all.push(("ChangeKey", key(OF_A_CHANGE)));
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

fn batch_id() -> Node {
    parameter("path", "id", text().with("format", "uuid"), "The batch's `batch_id`.")
}

/// The filters of the list of runs, by their names here.
pub(super) const FILTERS: [&str; 12] = [
    "OfStatus",
    "OfStopReason",
    "OfAgent",
    "OfModel",
    "OfThread",
    "OfBatch",
    "OfParent",
    "Waiting",
    "OfNames",
    "OfLabels",
    "CreatedAfter",
    "CreatedBefore",
];

fn filters() -> [Node; 12] {
    let query = |name: &str, schema: Schema, about: &str| parameter("query", name, schema, about);
    let several = |items: Schema, most: usize| list(items).with("maxItems", most);
    let waiting: Vec<&str> = lists::WAITING.into_iter().chain(["any"]).collect();
    [
        query(
            "status",
            several(named("Status"), lists::VALUES_MAX),
            "Runs with one of these; repeated.",
        ),
        query(
            "stop_reason",
            several(text(), lists::VALUES_MAX),
            "Runs with one of these; repeated.",
        ),
        query("agent", text(), "Runs of the agent of this name."),
        query("model", text(), "Runs that ask this model first."),
        query("thread_id", text(), "Runs of this thread. Reserved: no run has one yet."),
        query("batch_id", text().with("format", "uuid"), "Runs of this batch."),
        query("parent_run_id", text(), "Runs that this run called. Reserved: none does yet."),
        query("waiting", word(&waiting), "Runs that wait for this. Reserved: none does yet."),
        query("run_id", several(text(), lists::NAMES_MAX), "Only these runs; repeated."),
        query(
            "metadata",
            several(text().with("pattern", ":").example("user_id:123"), lists::VALUES_MAX),
            "Runs with this label, `KEY:VALUE`; repeated: with all of them. The first `:` ends the \
             key: labels with a `:` in their key can't be looked for.",
        ),
        query("created_after", time(), "Runs that were created after this."),
        query("created_before", time(), "Runs that were created before this."),
    ]
}

fn listing() -> Vec<(&'static str, Node)> {
    let limit = whole().between(1u64, lists::LIMIT_MAX).absent(lists::LIMIT_DEFAULT);
    let cursor = "The `next_cursor` of a page, with the filters that it came with.";
    let mut all: Vec<_> = FILTERS.into_iter().zip(filters()).collect();
    all.push(("ListLimit", parameter("query", "limit", limit, "At most so many runs.")));
    all.push(("Cursor", parameter("query", "cursor", text(), cursor)));
    all
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
            "WaitForBatch",
            parameter(
                "query",
                "wait",
                whole().between(0u64, WAIT_MAX),
                "Answer when all its runs have ended, or after so many seconds.",
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

const OF_AN_INTENT: &str = "Names the intent. The same key with the same body finds the run that it made, as often as you \
     like; with another body it is refused. `\"abc\"` and `abc` are one key.";

const OF_A_CHANGE: &str = "Names the change. The same key with the same body is one change, as often as you send it; with \
     another body it is another change of this run. `\"abc\"` and `abc` are one key.";

fn key(about: &str) -> Node {
    let schema = text()
        .with("pattern", format!("^[!-~]{{1,{KEY_CHARS_MAX}}}$"))
        .with("maxLength", KEY_CHARS_MAX)
        .example("order-17-question-1");
    parameter("header", "Idempotency-Key", schema, about)
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
