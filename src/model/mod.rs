//! How we talk to a language model: a request goes out, deltas come back, then a reply or a failure.

pub mod anthropic;
pub mod endpoint;
mod exchange;
mod failure;
pub mod openai;
mod reading;
pub mod registry;
pub mod replay;
pub mod scripted;
pub mod sse_decoder;
#[cfg(feature = "testing")]
pub mod stand_in;

use std::time::Duration;

use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use crate::run::Request;
use crate::run::event::{AbortReason, FinishReason, Usage};

pub use registry::Registry;

/// How many deltas may wait for the driver before the model's stream is read no further.
pub const DELTAS_MAX: usize = 64;

/// The largest reply that is taken, bytes of text, reasoning and arguments together.
pub const REPLY_BYTES_MAX: usize = 512 * 1024;

/// A piece of the model's output, as it comes.
#[derive(Clone, Debug, PartialEq)]
pub enum Delta {
    /// Answer text, never empty.
    Text(String),
    /// Visible reasoning. `provider_metadata` ends the stretch that it belongs to.
    Reasoning {
        /// The visible text, may be empty.
        text: String,
        /// Opaque data that must go back to this provider with this stretch.
        provider_metadata: Option<Value>,
    },
}

/// A tool call that the model proposed; its arguments are complete but not checked.
#[derive(Clone, Debug, PartialEq)]
pub struct ProposedCall {
    /// The provider's id of it, where it gave one.
    pub provider_call_id: Option<String>,
    /// The tool's name as the model wrote it.
    pub tool_name: String,
    /// The arguments as the model wrote them (an empty text means none).
    pub arguments_raw: String,
    /// Opaque data that must go back to this provider with the call.
    pub provider_metadata: Option<Value>,
}

/// The whole message has come: the provider itself said that it ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    /// Why it ended. `ToolCalls` exactly where calls are present and may run.
    pub finish_reason: FinishReason,
    /// The provider's own word for it, for error messages.
    pub finish_reason_raw: String,
    /// The tools it asked for, in order.
    pub calls: Vec<ProposedCall>,
    /// As far as the provider said.
    pub usage: Usage,
    /// The model that answered, as the provider names it; else the name asked for.
    pub model: String,
    /// The provider's id of this call.
    pub provider_request_id: Option<String>,
}

/// What may be done about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// The same call may be made again, after a wait.
    Retry,
    /// This model will never answer; the next fallback may.
    Fallback,
    /// No model will take this request.
    Final,
    /// The conversation is longer than the model can read.
    ContextOverflow,
}

/// The model did not answer, or broke off.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// What the log says of it.
    pub reason: AbortReason,
    /// What may be done.
    pub remedy: Remedy,
    /// The provider's HTTP status (or the status inside its error event).
    pub status: Option<u16>,
    /// What went wrong in words, without secrets, at most 512 characters.
    pub message: String,
    /// How long the provider asks us to wait at least.
    pub retry_after: Option<Duration>,
    /// What the provider said it had used all the same.
    pub usage: Option<Usage>,
    /// Whether the provider had taken the request: it bills what it did by then.
    pub has_begun: bool,
}

/// A model that can be called. Two kinds today: a provider's HTTP API, and the scripted demo.
#[derive(Clone, Debug)]
pub enum Model {
    /// OpenAI Chat Completions, at any base URL.
    OpenAi(openai::OpenAi),
    /// Anthropic Messages, at any base URL.
    Anthropic(anthropic::Anthropic),
    /// Plays a script; needs no network.
    Scripted(scripted::Scripted),
    /// Played by a simulation.
    #[cfg(feature = "testing")]
    StandIn(stand_in::StandIn),
}

impl Model {
    /// Calls the model once and sends its output through `deltas` as it comes.
    ///
    /// # Errors
    /// A [`Failure`] where the provider refused, could not be reached, or broke off. What was sent
    /// through `deltas` before it is void.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection to the provider; nothing else is held.
    pub async fn call(
        &self,
        request: &Request,
        deltas: mpsc::Sender<Delta>,
    ) -> Result<Reply, Failure> {
        match self {
            Model::OpenAi(model) => model.call(request, deltas).await,
            Model::Anthropic(model) => model.call(request, deltas).await,
            Model::Scripted(model) => model.call(request, deltas).await,
            #[cfg(feature = "testing")]
            Model::StandIn(model) => model.play.call(&model.name, request, deltas).await,
        }
    }
}

/// `request_sha256`: the hex digest of the request as the core made it.
pub fn request_sha256(request: &Request) -> String {
    Sha256::digest(request.canonical_json()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The opaque data, where it is this provider's own.
fn own_fields<'a>(metadata: Option<&'a Value>, provider: &str) -> Option<&'a Value> {
    let metadata = metadata?;
    let is_own = metadata.get("provider").and_then(Value::as_str) == Some(provider);
    if is_own { metadata.get("fields") } else { None }
}
