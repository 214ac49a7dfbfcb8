//! Every operation of the API. Two tests hold the list: each route of the router is in it, and each
//! of these answers as it says.

use super::examples;
use super::node::{Node, object};
use super::operation::{Answer, Operation};
use super::parameters;
use super::schema::{any, map, named, text};
use crate::api::problem::ErrorCode;
use crate::store::INBOX_NOTES;

/// Of whatever reads or writes a run.
const OF_A_RUN: [ErrorCode; 3] =
    [ErrorCode::NotFound, ErrorCode::InvalidRequest, ErrorCode::StoreUnavailable];

/// Of whatever takes a body.
const OF_A_BODY: [ErrorCode; 7] = [
    ErrorCode::CrossSite,
    ErrorCode::MalformedJson,
    ErrorCode::RequestTimeout,
    ErrorCode::PayloadTooLarge,
    ErrorCode::UnsupportedMediaType,
    ErrorCode::InvalidRequest,
    ErrorCode::StoreUnavailable,
];

/// Of whatever makes runs.
const OF_A_SPEC: [ErrorCode; 6] = [
    ErrorCode::IdempotencyConflict,
    ErrorCode::UnknownModel,
    ErrorCode::UnknownAgent,
    ErrorCode::UnknownPrice,
    ErrorCode::SecretNotAllowed,
    ErrorCode::Draining,
];

/// The paths with their operations, in the order of the documentation.
pub(super) fn paths() -> Node {
    let mut paths: Vec<(String, Node)> = Vec::new();
    for operation in operations() {
        let (path, method) = (operation.path, operation.method);
        let place = paths.iter().position(|(one, _)| one == path).unwrap_or_else(|| {
            paths.push((path.to_owned(), object! {}));
            paths.len() - 1
        });
        paths[place].1.push(method, operation);
    }
    Node::Object(paths)
}

fn operations() -> Vec<Operation> {
    let mut all =
        vec![list(), create(), get(), patch(), cancel(), cancel_by_post(), spec(), purge()];
    all.extend(batches());
    all.extend([events(), stream(), stream_token(), models()]);
    all.extend(health());
    all.extend(reference());
    all
}

fn list() -> Operation {
    let page = Answer::json("A page of the list.", named("RunList"));
    Operation::new("get", "/runs", "listRuns", "Runs", "List runs, newest first")
        .about("Runs that are new, and runs that end, move no page.")
        .takes(&parameters::FILTERS)
        .takes(&["ListLimit", "Cursor"])
        .answers(200, page)
        .refuses(&[ErrorCode::InvalidRequest, ErrorCode::StoreUnavailable])
}

fn create() -> Operation {
    let created = Answer::json("The run, as it is at the end of the wait.", named("Run"))
        .headers(&["Location", "Content-Location", "Preference-Applied"])
        .leads_to("run_id", &["getRun", "getRunSpec", "listEvents", "streamEvents", "cancelRun"])
        .leads_to("run_id", &["updateRun", "postCancel", "createStreamToken", "purgeRun"])
        .example(examples::run());
    let found = Answer::json(
        "With `Accept: text/event-stream`: the run's events, from the first. Else the run that \
         the same intent had made before, as it now is.",
        named("Run"),
    )
    .or_stream()
    .headers(&["Location", "Content-Location", "Idempotent-Replayed", "Preference-Applied"]);
    Operation::new("post", "/runs", "createRun", "Runs", "Create a run")
        .about(
            "Answers `201` once the run is committed: from then on it reaches its end, whatever \
             dies. With `wait` or `Prefer: wait=N` it answers at the run's end, or after N \
             seconds.\n\n\
             With `Accept: text/event-stream` it answers with the run's events. Then `wait` is \
             not taken, and `after`, `types`, `named` and `Last-Event-ID` are, as by \
             `GET /runs/{id}/stream`.\n\n\
             Send an `Idempotency-Key` or a `config.run_id`, and the request can be repeated \
             safely: the same body finds the run that is there.",
        )
        .takes(&["Wait", "After", "Types", "Named"])
        .takes(&["IdempotencyKey", "Prefer", "LastEventId", "Traceparent"])
        .body("RunRequest", examples::requests())
        .answers(200, found)
        .answers(201, created)
        .answers(204, nothing_left().headers(&["Location", "Idempotent-Replayed"]))
        .refuses(&OF_A_BODY)
        .refuses(&OF_A_SPEC)
        .refuses(&[ErrorCode::NotAcceptable])
}

/// Where a stream has nothing more to say.
fn nothing_left() -> Answer {
    Answer::empty(
        "The cursor stands at the last event of a run that has ended; `EventSource` then stops.",
    )
    .headers(&["Content-Location"])
}

fn get() -> Operation {
    let run = Answer::json("The run.", named("Run"))
        .headers(&["Content-Location", "Preference-Applied"])
        .example(examples::run());
    Operation::new("get", "/runs/{id}", "getRun", "Runs", "Read a run, or wait for its end")
        .takes(&["RunId", "Wait", "Omit", "Prefer"])
        .answers(200, run)
        .refuses(&OF_A_RUN)
}

fn cancelling(method: &'static str, path: &'static str, id: &str, summary: &str) -> Operation {
    let headers = ["Content-Location", "Preference-Applied"];
    let accepted = Answer::json(
        "Accepted: no call of a model or tool starts from now on, and the run ends as \
         `CANCELLED`.",
        named("Run"),
    );
    let ended = Answer::json("The run had ended before.", named("Run"));
    Operation::new(method, path, id, "Runs", summary)
        .takes(&["RunId", "Wait", "Prefer"])
        .answers(200, ended.headers(&headers))
        .answers(202, accepted.headers(&headers))
        .refuses(&OF_A_RUN)
        .refuses(&[ErrorCode::CrossSite])
}

fn patch() -> Operation {
    let run = Answer::json(
        "Accepted: the run's owner commits `run.updated`, and it holds from there on.",
        named("Run"),
    );
    Operation::new("patch", "/runs/{id}", "updateRun", "Runs", "Raise limits, or replace labels")
        .about(&format!(
            "Of a run that is under way. A limit can only go up. A run takes {INBOX_NOTES} changes."
        ))
        .takes(&["RunId", "ChangeKey"])
        .body("RunChange", examples::changes())
        .answers(202, run.headers(&["Content-Location"]))
        .refuses(&OF_A_BODY)
        .refuses(&[ErrorCode::NotFound, ErrorCode::RunEnded, ErrorCode::RateLimited])
}

fn purge() -> Operation {
    Operation::new("post", "/runs/{id}/purge", "purgeRun", "Runs", "Erase a run that has ended")
        .about("With its log. Its keys are free again.")
        .takes(&["RunId"])
        .answers(204, Answer::empty("It is gone."))
        .refuses(&OF_A_RUN)
        .refuses(&[ErrorCode::CrossSite, ErrorCode::RunActive])
}

fn batches() -> [Operation; 3] {
    let headers = ["Content-Location"];
    let created = Answer::json("They are there, all of them.", named("BatchCreated"))
        .leads_to("batch_id", &["getBatch", "cancelBatch"]);
    let found = Answer::json("The batch that the same key had made.", named("BatchCreated"));
    let batch = |about| Answer::json(about, named("Batch"));
    [
        Operation::new("post", "/batches", "createBatch", "Batches", "Create many runs, or none")
            .about("An error of one run points to it: `/runs/17/input`.")
            .takes(&["IdempotencyKey", "Traceparent"])
            .body("BatchRequest", examples::batches())
            .answers(200, found.headers(&headers).headers(&["Idempotent-Replayed"]))
            .answers(201, created.headers(&headers).headers(&["Location"]))
            .refuses(&OF_A_BODY)
            .refuses(&OF_A_SPEC),
        Operation::new(
            "get",
            "/batches/{id}",
            "getBatch",
            "Batches",
            "Read a batch, or wait for it",
        )
        .takes(&["BatchId", "WaitForBatch", "Prefer"])
        .answers(200, batch("The batch.").headers(&["Preference-Applied"]))
        .refuses(&OF_A_RUN),
        Operation::new("delete", "/batches/{id}", "cancelBatch", "Batches", "Cancel its runs")
            .takes(&["BatchId"])
            .answers(200, batch("All of them had ended before."))
            .answers(202, batch("Accepted, for each of them that had not ended."))
            .refuses(&OF_A_RUN)
            .refuses(&[ErrorCode::CrossSite]),
    ]
}

fn cancel() -> Operation {
    cancelling("delete", "/runs/{id}", "cancelRun", "Cancel a run")
        .about("As often as you like. The run and its log stay: this cancels, it does not remove.")
}

fn cancel_by_post() -> Operation {
    let summary = "Cancel a run, where DELETE can't be sent";
    cancelling("post", "/runs/{id}/cancel", "postCancel", summary)
}

fn spec() -> Operation {
    let spec =
        Answer::json("What the run was created with, defaults filled in.", named("RunRequest"));
    Operation::new("get", "/runs/{id}/spec", "getRunSpec", "Runs", "Read what a run was asked")
        .about("It is a valid body for `POST /runs`. Secrets stay references.")
        .takes(&["RunId"])
        .answers(200, spec)
        .refuses(&OF_A_RUN)
}

fn events() -> Operation {
    let page = Answer::json("A page of the log.", named("EventPage")).example(examples::page());
    let summary = "Read a run's log as JSON";
    Operation::new("get", "/runs/{id}/events", "listEvents", "Events", summary)
        .takes(&["RunId", "After", "Before", "Limit", "Types", "WaitForEvents", "Prefer"])
        .answers(200, page)
        .refuses(&OF_A_RUN)
}

fn stream() -> Operation {
    let events = Answer::stream("The events: those that are there, then each as it is committed.")
        .headers(&["Content-Location"]);
    let summary = "Read a run's log as server-sent events";
    Operation::new("get", "/runs/{id}/stream", "streamEvents", "Events", summary)
        .about(
            "Resumes at any event, on any node, also after the run's end: what comes behind a \
             cursor is always the same, byte for byte. A silent stream sends a comment each 10 s.",
        )
        .takes(&["RunId", "After", "Types", "Named", "LastEventId"])
        .opened_by("streamToken")
        .answers(200, events)
        .answers(204, nothing_left())
        .refuses(&OF_A_RUN)
}

fn stream_token() -> Operation {
    let token = Answer::json("The token.", named("StreamToken"));
    let summary = "Make a token for a run's stream";
    Operation::new("post", "/runs/{id}/stream_tokens", "createStreamToken", "Events", summary)
        .about(
            "For pages that hold no key: send them `url`. It reads this stream and nothing else.",
        )
        .takes(&["RunId"])
        .may_have_body("StreamTokenRequest")
        .answers(201, token)
        .refuses(&OF_A_BODY)
        .refuses(&[ErrorCode::NotFound])
}

fn models() -> Operation {
    let models = Answer::json("The providers and their models.", named("ModelList"));
    Operation::new("get", "/models", "listModels", "Models", "List the configured models")
        .answers(200, models)
        .refuses(&[ErrorCode::InvalidRequest])
}

fn health() -> [Operation; 4] {
    let about = Answer::json("What the service is.", named("About"));
    let alive = Answer::json("It lives.", named("Health"));
    let ready = Answer::json("It may take work.", named("Readiness"));
    let metrics = Answer::empty("The figures.").or("text/plain", text());
    [
        Operation::new("get", "/healthz", "getHealth", "Service", "Ask whether the process lives")
            .public()
            .answers(200, alive),
        Operation::new("get", "/readyz", "getReadiness", "Service", "Ask whether it may take work")
            .public()
            .answers(200, ready)
            .refuses(&[ErrorCode::StoreUnavailable, ErrorCode::Draining]),
        Operation::new("get", "/metrics", "getMetrics", "Service", "Read metrics for Prometheus")
            .answers(200, metrics)
            .refuses(&[ErrorCode::StoreUnavailable]),
        Operation::new("get", "/", "getAbout", "Service", "Ask what the service is")
            .answers(200, about)
            .refuses(&[ErrorCode::InvalidRequest]),
    ]
}

fn reference() -> [Operation; 4] {
    let yaml = Answer::empty("OpenAPI 3.1.").or("application/yaml", map(any()));
    let json = Answer::json("OpenAPI.", map(any()));
    let page = Answer::empty("A page for people.").or("text/html", text());
    let script = Answer::empty("The page's script.").or("text/javascript", text());
    [
        Operation::new("get", "/openapi.yaml", "getOpenapiYaml", "Reference", "Read this document")
            .public()
            .answers(200, yaml)
            .refuses(&[ErrorCode::InvalidRequest]),
        Operation::new(
            "get",
            "/openapi.json",
            "getOpenapiJson",
            "Reference",
            "Read this document as JSON, or in the older form 3.0",
        )
        .public()
        .takes(&["OpenapiVersion"])
        .answers(200, json)
        .refuses(&[ErrorCode::InvalidRequest]),
        Operation::new("get", "/docs", "getDocs", "Reference", "Look at the reference")
            .public()
            .answers(200, page)
            .refuses(&[ErrorCode::InvalidRequest]),
        Operation::new(
            "get",
            "/docs/rapidoc-min.js",
            "getDocsScript",
            "Reference",
            "Part of /docs",
        )
        .public()
        .answers(200, script)
        .refuses(&[ErrorCode::InvalidRequest]),
    ]
}
