//! What `POST /runs` takes: the run as it is asked for, with its bounds taken from the code that
//! checks them.

use super::node::object;
use super::schema::{
    Field, Schema, any, anything, exactly, flag, list, map, named, number, one_of, optional,
    request, required, text, told_apart, whole, word,
};
use crate::api::{batches, tokens};
use crate::run::limits;

/// A name that a client may choose: `run::id` checks it.
pub(super) const CLIENT_ID: &str = "^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$";

/// Base 64 with padding and without line ends, as the decoder wants it: no bits are left over.
const BASE_64: &str = "^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/][AQgw]==|\
    [A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?$";

/// A tool's name: `run::spec` checks it.
const TOOL_NAME: &str = "^[A-Za-z0-9_-]{1,64}$";

/// The built-in tools; a test asks the service which it has.
const BUILTINS: [&str; 2] = ["calculator", "current_time"];

pub(super) fn schemas() -> Vec<(&'static str, Schema)> {
    let mut all = vec![
        ("RunRequest", run()),
        ("BatchRequest", batch()),
        ("BatchRun", batch_run()),
        ("RunChange", change()),
        ("RaisedLimits", raised()),
        ("StreamTokenRequest", stream_token()),
        ("Agent", agent()),
        ("Models", models()),
        ("ModelSettings", model_settings()),
        ("Config", config()),
        ("OnLimit", word(&["fail", "finalize"])),
        ("ToolEffect", word(&["read", "idempotent", "once"])),
        ("Metadata", metadata()),
    ];
    all.extend(tools());
    all.extend(messages());
    all.extend(parts());
    all
}

fn run() -> Schema {
    let [agent, input] = who_and_what();
    let fields = [required("agent", agent), required("input", input)];
    request("A run to be created.", fields.into_iter().chain(details()))
}

fn who_and_what() -> [Schema; 2] {
    [named("Agent"), named("Input").about("What the agent is asked.")]
}

/// What may be left out of any run.
fn details() -> [Field; 3] {
    let history = list(named("Message")).with("maxItems", limits::HISTORY_MESSAGES).about(
        "The conversation before. Every tool call in it has its answer. If its last message is \
             the user's and says exactly what `input` says, that counts once.",
    );
    let variables = anything().about(&format!(
        "What instructions and tools may read. At most {} bytes as JSON.",
        limits::VARIABLES_BYTES
    ));
    [
        optional("history", history),
        optional("variables", variables),
        optional("config", named("Config")),
    ]
}

fn batch() -> Schema {
    let runs = list(named("BatchRun"))
        .with("minItems", 1u64)
        .with("maxItems", batches::RUNS_MAX)
        .about("They are created all, or none of them.");
    let defaults = named("BatchRun").about(
        "A field that a run leaves out is taken from here, of `config` each by itself. A \
         `config.run_id` can't be shared.",
    );
    request(
        "Runs to be created together.",
        [
            required("runs", runs),
            optional("defaults", defaults),
            optional("metadata", named("Metadata").about("Of the batch itself.")),
        ],
    )
}

fn batch_run() -> Schema {
    let [agent, input] = who_and_what();
    let fields = [optional("agent", agent), optional("input", input)];
    request(
        "A body of `POST /runs`, or a part of one: `defaults` have the rest.",
        fields.into_iter().chain(details()),
    )
}

fn change() -> Schema {
    request(
        "A change to a run that is under way: at least one of the two.",
        [
            optional("config", named("RaisedLimits")),
            optional("metadata", named("Metadata").about("The labels, whole.")),
        ],
    )
}

/// As in a config; the run's own can only be raised.
fn raised() -> Schema {
    request(
        "Limits to be raised. One that the run does not have, or that is lower, is refused.",
        limits_of_a_run(),
    )
}

fn limits_of_a_run() -> [Field; 6] {
    let bounds =
        |bounds: &std::ops::RangeInclusive<f64>| number().between(*bounds.start(), *bounds.end());
    let turns = whole().between(*limits::MAX_TURNS.start(), *limits::MAX_TURNS.end());
    [
        optional("max_turns", turns),
        optional("max_time", bounds(&limits::MAX_TIME).about("Seconds from the first start.")),
        optional(
            "timeout_per_turn",
            bounds(&limits::TIMEOUT_PER_TURN)
                .about("Seconds of one turn: its model call, retries, tools."),
        ),
        optional(
            "max_total_tokens",
            whole().between(1u64, u64::MAX).about("Tokens in all, void attempts included."),
        ),
        optional(
            "max_cost_usd",
            number().with("exclusiveMinimum", 0u64).about(
                "Money in all, void attempts included. Every model of the agent needs a price.",
            ),
        ),
        optional("max_tool_calls", whole().between(0u64, u32::MAX)),
    ]
}

fn stream_token() -> Schema {
    let ttl = whole().between(*tokens::TTL.start(), *tokens::TTL.end());
    request(
        "How long the token is good.",
        [optional("ttl", ttl.absent(tokens::TTL_DEFAULT).about("Seconds."))],
    )
}

fn agent() -> Schema {
    let (low, high) = (*limits::AGENT_NAME.start(), *limits::AGENT_NAME.end());
    let instructions = text().about(
        "What it is told. `{{user}}` and `{{order.id}}` are replaced by the run's variables; a \
         name that is not among them is refused.",
    );
    let model = named("Models").about(
        "The model, and the models to fall back on. Absent: the service's default, see \
         `GET /models`.",
    );
    let tools = list(named("Tool"))
        .with("maxItems", limits::TOOLS)
        .about("What it may call. No two have the same name.");
    // That it needs one of the two is said in words: a generator makes two types of it otherwise.
    request(
        "An agent, given whole. It needs `instructions` or `name`.",
        [
            optional("name", text().with("minLength", low).with("maxLength", high)),
            optional("instructions", instructions),
            optional("model", model),
            optional("model_settings", named("ModelSettings")),
            optional("tools", tools),
        ],
    )
}

fn models() -> Schema {
    let name = || {
        text()
            .with("maxLength", limits::MODEL_NAME_CHARS)
            .about("`provider/name`; which there are, `GET /models` says.")
            .example("demo/assistant")
    };
    one_of([name(), list(name()).with("maxItems", limits::MODELS)])
        .about("A model, or a list: the next is asked where one fails.")
}

fn model_settings() -> Schema {
    let named_tool = request(
        "This tool.",
        [required("name", text().about("The name of one of the agent's tools."))],
    );
    let tool_choice =
        one_of([word(&["auto", "none", "required"]), named_tool]).about("Which tools to call.");
    request(
        "What the model is told beside the messages. What is not set is not sent.",
        [
            optional("temperature", number().between(0u64, 2u64)),
            optional("top_p", number().between(0u64, 1u64)),
            optional("stop", list(text())),
            optional("max_output_tokens", whole().between(1u64, u32::MAX)),
            optional("tool_choice", tool_choice),
            optional(
                "reasoning_effort",
                text().about("In the provider's words, such as `low` or `high`."),
            ),
            optional("extra", anything().about("Passed to the provider as it is.")),
        ],
    )
}

fn config() -> Schema {
    let defaults = crate::run::Config::default();
    let run_id = text().with("pattern", CLIENT_ID).example("order-17").about(
        "A name for the run, of your choosing, and a key: the same body again finds the same run. \
         Not in the form of a UUID.",
    );
    let [turns, time, of_turn, tokens, cost, calls] = limits_of_a_run();
    request(
        "Limits and labels.",
        [
            optional("run_id", run_id),
            turns.absent(defaults.max_turns),
            time.absent(defaults.max_time),
            of_turn.absent(defaults.timeout_per_turn),
            optional("stop_on_tool_error", flag().absent(defaults.stop_on_tool_error)),
            optional("verbose", flag().absent(defaults.verbose).about("The log has `log` events.")),
            optional("trace_enabled", flag().absent(defaults.trace_enabled)),
            optional("metadata", named("Metadata")),
            tokens,
            cost,
            calls,
            optional(
                "on_limit",
                named("OnLimit").absent("fail").about(
                    "At a limit that is no time limit: fail, or take one last turn without tools.",
                ),
            ),
        ],
    )
}

fn metadata() -> Schema {
    let (keys, key_chars, value_chars) = limits::METADATA;
    map(text().with("maxLength", value_chars))
        .with("maxProperties", keys)
        .with("propertyNames", object! { "maxLength" => key_chars })
        .about(&format!(
            "Labels for finding runs: at most {keys}, with at most {key_chars} characters in a key."
        ))
        .example(object! { "user_id" => "123" })
}

fn tools() -> Vec<(&'static str, Schema)> {
    let timeout = || {
        number()
            .between(*limits::TOOL_TIMEOUT.start(), *limits::TOOL_TIMEOUT.end())
            .absent(30u64)
            .about("Seconds that one call may take, all its tries together.")
    };
    let parameters = anything().about(&format!(
        "JSON Schema of the arguments, at most {} bytes. They are checked before a call.",
        limits::PARAMETERS_BYTES
    ));
    let effect = named("ToolEffect").absent("idempotent").about(
        "What a call does to the world. `once`: it is never called again once it may have been \
         called.",
    );
    let url = text().with("format", "uri").with("maxLength", limits::TOOL_URL_BYTES);
    let (headers, bytes) = limits::TOOL_HEADERS;
    let headers = map(text()).with("maxProperties", headers).about(&format!(
        "Sent along, at most {bytes} bytes. Values may name secrets: `${{secret:NAME}}`."
    ));
    let http = request(
        "A tool over HTTP: it is sent a POST with the call.",
        [
            required("type", exactly("http")),
            required("name", text().with("pattern", TOOL_NAME)),
            required("url", url.about("An http or https URL without user and password.")),
            optional("description", text().about("What it is for: the model reads it.")),
            optional("parameters", parameters),
            optional("effect", effect),
            optional("timeout", timeout()),
            optional("headers", headers),
        ],
    );
    let builtin = request(
        "A tool of the service itself.",
        [
            required("type", exactly("builtin")),
            required("name", word(&BUILTINS)),
            optional("timeout", timeout()),
        ],
    );
    vec![
        ("Tool", told_apart("type", &[("builtin", "BuiltinTool"), ("http", "HttpTool")])),
        ("BuiltinTool", builtin),
        ("HttpTool", http),
    ]
}

fn messages() -> Vec<(&'static str, Schema)> {
    let call = request(
        "A tool that the model asked for.",
        [
            required("call_id", text().about("Which call it is, within the conversation.")),
            required("tool_name", text()),
            required(
                "arguments",
                one_of([anything(), text()])
                    .about("An object; a string where the model's were no JSON object."),
            ),
            optional("provider_metadata", any()),
        ],
    );
    let user = request(
        "What a person said.",
        [required("role", exactly("user")), required("content", named("Input"))],
    );
    let content = one_of([text(), list(named("AssistantPart"))]);
    let assistant = request(
        "What the model said, and the tools that it asked for.",
        [
            required("role", exactly("assistant")),
            optional("content", content),
            optional("tool_calls", list(named("MessageToolCall"))),
            optional("reasoning", list(named("ReasoningPart"))),
        ],
    );
    let tool = request(
        "What a tool answered.",
        [
            required("role", exactly("tool")),
            required("call_id", text().about("The call that is answered.")),
            required("content", named("Input")),
            optional("is_error", flag().about("It says what went wrong.")),
        ],
    );
    let roles =
        [("user", "UserMessage"), ("assistant", "AssistantMessage"), ("tool", "ToolMessage")];
    let message = told_apart("role", &roles)
        .about("One message of a conversation. What a `system` message says are `instructions`.");
    vec![
        ("Message", message),
        ("UserMessage", user),
        ("AssistantMessage", assistant),
        ("ToolMessage", tool),
        ("MessageToolCall", call),
    ]
}

fn parts() -> Vec<(&'static str, Schema)> {
    let kind = |name| required("type", exactly(name));
    let by_url =
        request("A picture that the provider fetches.", [kind("image"), required("url", text())]);
    let by_data = request(
        "A picture, given whole.",
        [
            kind("image"),
            required("media_type", text().example("image/png")),
            required("data", text().with("contentEncoding", "base64").with("pattern", BASE_64)),
        ],
    );
    let reasoning = request(
        "What the model let us see of its reasoning.",
        [
            kind("reasoning"),
            optional("text", text()),
            optional(
                "provider_metadata",
                any().about("What its provider wants back as it was; it goes to no other."),
            ),
        ],
    );
    let part = || one_of([named("TextPart"), named("ImageUrlPart"), named("ImageDataPart")]);
    let of_model = one_of([
        named("TextPart"),
        named("ImageUrlPart"),
        named("ImageDataPart"),
        named("ReasoningPart"),
    ]);
    vec![
        ("Input", one_of([text(), list(named("Part"))]).about("Text, or a list of parts.")),
        ("Part", part()),
        ("AssistantPart", of_model),
        ("TextPart", request("Text.", [kind("text"), required("text", text())])),
        ("ImageUrlPart", by_url),
        ("ImageDataPart", by_data),
        ("ReasoningPart", reasoning),
    ]
}
