//! What the service answers: the run resource, a page of its log, models, health, problems.

use super::schema::{
    Field, Schema, answer, any, anything, count, exactly, flag, list, map, named, number, one_of,
    optional, required, seconds, text, time, whole, word,
};
use crate::api::problem::ErrorCode;
use crate::run::{Status, limits};

/// Why runs end, as far as this release knows.
pub(super) const STOP_REASONS: [&str; 16] = [
    "end_turn",
    "cancelled",
    "max_turns",
    "max_time",
    "turn_timeout",
    "max_total_tokens",
    "max_cost_usd",
    "max_tool_calls",
    "max_output_tokens",
    "content_filter",
    "tool_error",
    "model_error",
    "context_overflow",
    "crash_loop",
    "log_full",
    "internal",
];

pub(super) fn schemas() -> Vec<(&'static str, Schema)> {
    let [created, batch, counts] = batches();
    vec![
        ("Run", run()),
        created,
        batch,
        counts,
        ("RunItem", item()),
        ("RunList", run_list()),
        ("StreamToken", stream_token()),
        ("Status", status()),
        ("AgentRef", agent()),
        ("EffectiveConfig", config()),
        ("ToolCall", tool_call()),
        ("Usage", usage()),
        ("RunError", run_error()),
        ("EventPage", page()),
        ("ModelList", models()),
        ("Provider", provider()),
        ("Price", price()),
        ("Problem", problem()),
        ("FieldError", field_error()),
        ("About", about()),
        ("Health", answer("The process lives.", [required("status", exactly("ok"))])),
        ("Readiness", readiness()),
    ]
}

/// The one closed set: the names are the code's.
fn status() -> Schema {
    word(&Status::ALL.map(Status::name)).about(
        "Where the run is. `COMPLETED`, `FAILED` and `CANCELLED` never change again. No other \
         status will be added.",
    )
}

type Fields = Vec<Field>;

fn run() -> Schema {
    let final_output = text()
        .or_null()
        .about("The last turn's text, as far as there is one; null where there is none.");
    let history = list(named("Message"))
        .about("The conversation, as the next run would receive it in its `history`.");
    let mut fields = identity();
    fields.extend([
        optional("config", named("EffectiveConfig")),
        optional("input", named("Input")),
        required("final_output", final_output),
        required("output", any().about("Reserved: null.")),
    ]);
    fields.extend(outcome());
    fields.extend([
        optional("tool_calls", list(named("ToolCall"))),
        optional("history", history),
        optional("variables", anything()),
    ]);
    fields.extend(about_it());
    answer("A run as it is now.", fields)
}

/// What a list tells of a run.
fn item() -> Schema {
    let preview = |of: &str| {
        text().or_null().about(&format!(
            "The first {} characters of the {of}, white space as single spaces.",
            limits::PREVIEW_CHARS
        ))
    };
    let mut fields = identity();
    fields.extend([
        required("input_preview", preview("input")),
        required("output_preview", preview("output")),
    ]);
    fields.extend(outcome());
    fields.extend(about_it());
    answer("A run as a list shows it: without its long parts.", fields)
}

fn identity() -> Fields {
    vec![
        required("run_id", text().example("order-17")),
        required("status", named("Status")),
        required("stop_reason", stop_reason().or_null()),
        required("agent", named("AgentRef")),
        required("model", text().about("The model that is asked first.").example("demo/assistant")),
    ]
}

pub(super) fn stop_reason() -> Schema {
    text().known(&STOP_REASONS).about("Why it ended; more reasons may come.")
}

fn outcome() -> Fields {
    vec![
        required(
            "error",
            named("RunError").or_null().about("Why it failed. Null unless it is `FAILED`."),
        ),
        required("required_action", any().about("Reserved: null.")),
        required("turn_count", count().about("Committed turns.")),
        required("elapsed_time", seconds().about("From the first start to the end, or now.")),
        required("waiting_time", seconds().about("Of that, waiting for actions of others.")),
    ]
}

fn about_it() -> Fields {
    let reserved = || text().or_null().about("Reserved: null.");
    let queue = whole().with("minimum", 1u64).or_null();
    vec![
        required("metadata", named("Metadata")),
        required("usage", named("Usage")),
        required("thread_id", reserved()),
        required("batch_id", text().or_null().about("The batch that it came with.")),
        required("parent_run_id", reserved()),
        required("continued_from", reserved()),
        required("queue_position", queue.about("1 is next. Null unless it is `QUEUED`.")),
        required("cancel_requested_at", time().or_null()),
        required("last_seq", count().about("The `seq` of the last event of its log.")),
        required("created_by", text().example("local")),
        required("created_at", time()),
        required("started_at", time().or_null()),
        required("finished_at", time().or_null()),
    ]
}

fn run_list() -> Schema {
    let next = text()
        .or_null()
        .about("The next page: send it as `cursor` with the same filters. Null: there is none.");
    answer(
        "A page of the list of runs, newest first.",
        [required("data", list(named("RunItem"))), required("next_cursor", next)],
    )
}

fn batches() -> [(&'static str, Schema); 3] {
    let id = || required("batch_id", text().with("format", "uuid"));
    let counts = || required("counts", named("StatusCounts"));
    let created = answer(
        "A batch that was created.",
        [
            id(),
            required(
                "run_ids",
                list(text()).about(
                    "In the order of the request's `runs`, without those that were erased since.",
                ),
            ),
            counts(),
        ],
    );
    let batch = answer(
        "A batch as it is now.",
        [id(), counts(), required("metadata", named("Metadata")), required("created_at", time())],
    );
    let of_status = Status::ALL.map(|status| required(status.name(), count()));
    [
        ("BatchCreated", created),
        ("Batch", batch),
        ("StatusCounts", answer("How many runs stand where.", of_status)),
    ]
}

fn stream_token() -> Schema {
    answer(
        "A token that reads one run's stream, and does nothing else.",
        [
            required("token", text()),
            required("expires_at", time()),
            required("url", text().about("The stream with the token, for an `EventSource`.")),
        ],
    )
}

fn agent() -> Schema {
    answer(
        "The agent of a run.",
        [
            required("name", text().or_null()),
            optional("version", whole().or_null().about("Reserved: of a stored agent.")),
        ],
    )
}

fn config() -> Schema {
    answer(
        "The limits and labels that hold, defaults filled in.",
        [
            required("max_turns", count()),
            required("max_time", seconds()),
            required("timeout_per_turn", seconds()),
            required("stop_on_tool_error", flag()),
            required("verbose", flag()),
            required("trace_enabled", flag()),
            required("metadata", named("Metadata")),
            optional("max_total_tokens", count()),
            optional("max_cost_usd", number()),
            optional("max_tool_calls", count()),
            required("on_limit", text().known(&["fail", "finalize"])),
        ],
    )
}

fn tool_call() -> Schema {
    let outcomes = ["ok", "error", "timeout", "denied", "cancelled", "unknown"];
    answer(
        "A tool call of a run.",
        [
            required("call_id", text().about("Unique over all runs.")),
            required("provider_call_id", text().or_null()),
            required("tool_name", text()),
            required("arguments", one_of([anything(), text()])),
            required("result", any().about("Null while there is none.")),
            required("is_error", flag().or_null()),
            required("outcome", text().known(&outcomes).or_null()),
            required("turn", whole()),
            required("elapsed_time", seconds().or_null()),
            required("child_run_id", text().or_null().about("Reserved: null.")),
        ],
    )
}

fn usage() -> Schema {
    let tokens = || count().or_null();
    let estimated = flag().about("True: a part of it was counted here, not told by the provider.");
    answer(
        "Tokens and money. Totals contain their parts. Null is not known; it does not mean 0.",
        [
            required("input_tokens", tokens()),
            required("cached_input_tokens", tokens()),
            required("cache_write_input_tokens", tokens()),
            required("output_tokens", tokens()),
            required("reasoning_tokens", tokens()),
            required("total_tokens", tokens()),
            required("cost_usd", number().or_null()),
            optional("estimated", estimated),
        ],
    )
}

fn run_error() -> Schema {
    answer(
        "Why a run failed.",
        [
            required("code", stop_reason()),
            required("message", text()),
            required("retryable", flag().about("Whether the same request may do better later.")),
            required("details", any()),
        ],
    )
}

fn page() -> Schema {
    let next = count().about("How far the log was looked through: the `after` of the next page.");
    answer(
        "A page of a run's log.",
        [
            required("data", list(named("Event"))),
            required("next_after", next),
            required("last_seq", count().about("The `seq` of the log's last event.")),
            required("status", named("Status")),
        ],
    )
}

fn models() -> Schema {
    answer(
        "What agents may name as their model.",
        [
            required("data", list(named("Provider"))),
            required("default_model", text().about("For agents that name none.")),
        ],
    )
}

fn provider() -> Schema {
    let models = list(text()).or_null().about("Null: it is asked for any name.");
    answer(
        "A provider of models.",
        [
            required("provider", text().about("What stands before the slash.").example("demo")),
            required("kind", text().known(&["openai", "anthropic", "demo"])),
            required("models", models),
            required("default", text().or_null().about("Its model that is the default one.")),
            required("prices", map(named("Price"))),
        ],
    )
}

fn price() -> Schema {
    answer(
        "US dollars per million tokens.",
        [
            required("input", number()),
            required("cached_input", number().or_null().about("Null: as other input.")),
            required("cache_write_input", number().or_null().about("Null: as other input.")),
            required("output", number()),
        ],
    )
}

fn problem() -> Schema {
    let codes: Vec<&str> = ErrorCode::ALL.iter().map(|code| code.name()).collect();
    let code = text()
        .known(&codes)
        .about("What to branch on. The set grows: treat one that you don't know by its status.");
    answer(
        "What went wrong: RFC 9457.",
        [
            required("type", text().with("format", "uri")),
            required("title", text()),
            required("status", whole().between(400u64, 599u64)),
            required("code", code),
            required("detail", text().about("What is wrong, and what would be right.")),
            required("retryable", flag().about("Whether the same request may succeed later.")),
            required("request_id", text().about("Also in `X-Request-Id`, and in the log.")),
            optional("errors", list(named("FieldError"))),
        ],
    )
    .example(super::examples::problem())
}

fn field_error() -> Schema {
    answer(
        "One mistake, with the one place where it is.",
        [
            optional("pointer", text().about("JSON pointer into the body.")),
            optional("parameter", text().about("Name of a query parameter.")),
            optional("header", text()),
            required("detail", text()),
        ],
    )
}

fn about() -> Schema {
    answer(
        "What the service is.",
        [
            required("name", exactly("runledger")),
            required("version", text()),
            required("docs", text().about("Where the reference is.")),
        ],
    )
}

fn readiness() -> Schema {
    answer(
        "The node may take work.",
        [
            required("status", exactly("ready")),
            required("store", text().example("SQLite")),
            required(
                "runs_stuck",
                whole().about(
                    "How many runs nobody moves: no node owns them or waits for them, or their \
                     driver hangs. It is 0 unless something is wrong with the service.",
                ),
            ),
        ],
    )
}
