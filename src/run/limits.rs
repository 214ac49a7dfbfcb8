//! Every bound on what a client may ask for, each with its reason.

/// Turns a run may be allowed.
pub const MAX_TURNS: std::ops::RangeInclusive<u32> = 1..=1000;
/// Seconds a run may be allowed: a day at most, so that no limit is forgotten for ever.
pub const MAX_TIME: std::ops::RangeInclusive<f64> = 0.001..=86_400.0;
/// Seconds a turn may be allowed.
pub const TIMEOUT_PER_TURN: std::ops::RangeInclusive<f64> = 0.001..=3600.0;
/// Seconds a tool may be allowed.
pub const TOOL_TIMEOUT: std::ops::RangeInclusive<f64> = 0.001..=3600.0;
/// Keys of metadata, and the longest key and value in characters: it is for finding, not keeping.
pub const METADATA: (usize, usize, usize) = (32, 64, 512);
/// Bytes of variables as JSON: they are part of every terminal event.
pub const VARIABLES_BYTES: usize = 64 * 1024;
/// Bytes of a request's body.
pub const BODY_BYTES: usize = 8 * 1024 * 1024;
/// Messages of a history.
pub const HISTORY_MESSAGES: usize = 10_000;
/// How deep a request's JSON may be nested, so that no reader of it can run out of stack.
pub const JSON_DEPTH: usize = 64;
/// Characters of an agent's name.
pub const AGENT_NAME: std::ops::RangeInclusive<usize> = 1..=128;
/// Tools of an agent.
pub const TOOLS: usize = 128;
/// Bytes of a tool's JSON Schema: it is compiled for each call.
pub const PARAMETERS_BYTES: usize = 64 * 1024;
/// Bytes of a tool's URL: proxies and servers refuse longer ones.
pub const TOOL_URL_BYTES: usize = 2048;
/// Headers of a tool, and the bytes of all their names and values: servers refuse more than 8 KiB.
pub const TOOL_HEADERS: (usize, usize) = (32, 8 * 1024);
/// Models of an agent: the first and its fallbacks.
pub const MODELS: usize = 8;
/// Characters of a model's name: every attempt's event repeats it.
pub const MODEL_NAME_CHARS: usize = 256;
/// Attempts at a model within one turn, the first included.
pub const ATTEMPTS_PER_MODEL: u32 = 4;
/// How often a node may die under a run, without a turn finished between, before it is given up.
pub const CRASHES: u32 = 5;
/// Events of a run's log.
pub const LOG_EVENTS: u64 = 100_000;
/// Room in the log that is kept for the closing events.
pub const LOG_RESERVE: u64 = 1_000;
/// Tool calls of one turn; a model that asks for more gets its surplus told, not run.
pub const CALLS_PER_TURN: usize = 128;
/// Tries at one call of a tool, the first included; a crash may add one more each.
pub const TOOL_TRIES: u32 = 5;
/// Tools of one run that are under way at once.
pub const TOOLS_AT_ONCE: usize = 8;
/// Characters of an input's or output's preview.
pub const PREVIEW_CHARS: usize = 160;
/// Bytes of input text that `run.queued` repeats.
pub const QUEUED_INPUT_BYTES: usize = 64 * 1024;
/// Bytes of a tool's result.
pub const TOOL_RESULT_BYTES: usize = 256 * 1024;
/// Characters of a tool's words in a run's error; the whole result is in the log.
pub const ERROR_CHARS: usize = 512;
/// How deep a model's arguments and a provider's opaque data may be nested: within a stored event
/// and within a history they must still be read, the latter by the bound of `JSON_DEPTH`.
pub const NESTED_DEPTH: usize = 32;
/// Bytes of instructions after their variables were put in: a name is short and its value is not.
pub const INSTRUCTIONS_BYTES: usize = BODY_BYTES;
