//! A recorded answer, read as if a server had just sent it. Pure: for tests over a corpus, and for
//! fuzzers.

use super::reading::{Assemble, Reading};
use super::{Delta, Failure, Reply, anthropic, openai};

/// The dialect of a recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoken {
    /// OpenAI's.
    ChatCompletions,
    /// Anthropic's.
    Messages,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Replayed {
    /// The output, as it came.
    pub deltas: Vec<Delta>,
    /// How it ended.
    pub ended: Result<Reply, Failure>,
}

/// Reads the body of a `200` in reads of so many bytes, at least 1; then the body ends cleanly. The
/// provider's name is `recorded`.
pub fn replay(spoken: Spoken, body: &[u8], read_bytes: usize) -> Replayed {
    const PROVIDER: &str = "recorded";
    match spoken {
        Spoken::ChatCompletions => read(openai::assembly(PROVIDER), body, read_bytes),
        Spoken::Messages => read(anthropic::assembly(PROVIDER), body, read_bytes),
    }
}

fn read<A: Assemble>(assembly: A, body: &[u8], read_bytes: usize) -> Replayed {
    let mut reading = Reading::new(assembly);
    let mut deltas = Vec::new();
    let mut read = Ok(());
    for bytes in body.chunks(read_bytes.max(1)) {
        read = reading.push(bytes, &mut deltas).map(|_has_data| ());
        if read.is_err() || reading.is_over() {
            break;
        }
    }
    if read.is_ok() && !reading.is_over() {
        read = reading.finish(&mut deltas);
    }
    Replayed { deltas, ended: reading.conclude(read, None) }
}
