//! The flags of `runledger run`.

use std::path::PathBuf;

/// How long a server may be away, seconds: a restart takes some, a failed-over one a minute.
const PATIENCE_SECONDS_DEFAULT: f64 = 60.0;

/// What `runledger run --help` says below the flags.
const RUN_HELP: &str = "\
Without --url the run is driven by a private service inside this process, which ends with it; its
providers are those of the environment and of ./runledger.toml (see `runledger --help`). Without a
model's key the scripted demo/assistant answers.

On a terminal, text comes as it is said. Elsewhere the answer is written once it is whole, so that a
file or a pipe never holds text that the run took back. Tool calls, progress and errors go to
standard error. NO_COLOR turns colours off.

Ctrl-C cancels the run and waits for its end; a second one leaves at once.

Exit codes:
  0    COMPLETED
  1    FAILED: the code and the message stand on standard error; or no private service could start
  2    wrong usage, or a request that the server refuses: each mistake is listed
  3    the server can't be reached, or stayed away longer than --patience
  130  CANCELLED, by Ctrl-C or by somebody else
  141  the output can't be written, or nobody reads it any more; a run on a server goes on";

/// What is run, and where.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = RUN_HELP)]
pub struct RunFlags {
    /// What the agent is told; `-`, or nothing, reads it from standard input
    pub input: Option<String>,
    /// The server; without one, a private service in this process
    #[arg(long, value_name = "URL", env = "RUNLEDGER_URL")]
    pub url: Option<String>,
    /// The server's key; the variable keeps it out of the list of processes
    #[arg(long, value_name = "KEY", env = "RUNLEDGER_API_KEY", hide_env_values = true)]
    pub api_key: Option<String>,
    /// A JSON file with the agent, `-` for standard input [default: one with both built-in tools]
    #[arg(long, value_name = "FILE")]
    pub agent: Option<PathBuf>,
    /// PROVIDER/MODEL, instead of the agent's own
    #[arg(long, value_name = "MODEL")]
    pub model: Option<String>,
    /// A built-in tool that the agent may call, instead of all of them; repeatable
    #[arg(long = "tool", value_name = "NAME", conflicts_with = "agent")]
    pub tools: Vec<String>,
    /// A variable for the agent's instructions, a string; repeatable
    #[arg(long = "var", value_name = "KEY=VALUE", value_parser = variable)]
    pub variables: Vec<(String, String)>,
    /// The most seconds that the run may take
    #[arg(long, value_name = "SECONDS")]
    pub max_time: Option<f64>,
    /// Write the run's events, one JSON object per line, byte for byte as the log has them
    #[arg(long)]
    pub json: bool,
    /// How many seconds a server may be away before it is given up
    #[arg(long, value_name = "SECONDS", default_value_t = PATIENCE_SECONDS_DEFAULT,
          value_parser = seconds)]
    pub patience: f64,
}

fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        Some(_) | None => Err("give KEY=VALUE".to_owned()),
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    let day = 86_400.0;
    text.parse()
        .ok()
        .filter(|seconds| (0.0..=day).contains(seconds))
        .ok_or_else(|| "give seconds from 0 to 86400".to_owned())
}
