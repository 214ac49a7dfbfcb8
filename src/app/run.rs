//! `runledger run`: one run, on a server or on a private service in this process.

use std::fs::DirBuilder;
use std::io::{IsTerminal, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use serde_json::{Map, Value, json};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio_util::sync::CancellationToken;

use super::Service;
use crate::client::{Ask, Client, Look, Outcome, session};
use crate::config::{Config, Flags, RunFlags, Secret};
use crate::model::registry;
use crate::telemetry::{self, LogFormat};

/// What an input or an agent may have: the server takes no larger body.
const READ_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// The tools of the agent that is run where none is given.
const TOOLS_DEFAULT: [&str; 2] = ["calculator", "current_time"];

/// Runs what the flags say, and shows it. Once `cancel` is cancelled, so is the run.
///
/// # Errors
/// Where the private service can't be had.
///
/// # Cancel safety
/// Dropped, it leaves a server's run to the server; a private service ends at once.
pub async fn run(flags: RunFlags, cancel: CancellationToken) -> anyhow::Result<Outcome> {
    let Some(body) = cancel.run_until_cancelled(body(&flags)).await else {
        return Ok(Outcome::Cancelled);
    };
    let body = match body {
        Ok(body) => body,
        Err(wrong) => return Ok(refused(&wrong)),
    };
    let url = flags.url.as_deref().filter(|url| !url.is_empty());
    let ask = Ask { body, key: uuid::Uuid::now_v7().to_string(), is_shared: url.is_some() };
    let look = look(flags.json);
    let patience = Duration::from_secs_f64(flags.patience);
    let Some(url) = url else { return private(&ask, look, patience, &cancel).await };
    let key = flags.api_key.as_deref().filter(|key| !key.is_empty());
    match Client::new(http(url)?, url, key, patience) {
        Ok(client) => Ok(session(&client, &ask, look, &cancel).await),
        Err(wrong) => Ok(refused(&wrong)),
    }
}

fn refused(wrong: &dyn std::fmt::Display) -> Outcome {
    // Nobody reads it: the exit code says enough.
    let _ = writeln!(std::io::stderr(), "runledger: {wrong}");
    Outcome::Refused
}

fn look(is_json: bool) -> Look {
    let err_is_terminal = std::io::stderr().is_terminal();
    let is_set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let is_dumb = is_set("TERM").is_some_and(|term| term == "dumb");
    Look {
        is_json,
        out_is_terminal: std::io::stdout().is_terminal(),
        err_is_terminal: err_is_terminal && !is_dumb,
        has_colour: err_is_terminal && !is_dumb && is_set("NO_COLOR").is_none(),
    }
}

/// A proxy of the environment is for other machines than this one.
pub(super) fn http(url: &str) -> anyhow::Result<reqwest::Client> {
    let client = registry::client().context("TLS can't be set up")?;
    let host = reqwest::Url::parse(url).ok().and_then(|url| url.host_str().map(str::to_owned));
    let is_local = host.is_some_and(|host| {
        let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
        host == "localhost" || address.is_ok_and(|address| address.is_loopback())
    });
    if !is_local {
        return Ok(client);
    }
    Ok(reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build()?)
}

/// The run on a service of its own, which nobody else can use: on a free port of loopback, with a
/// key that is told to nobody, and its data in a folder that goes with it.
async fn private(
    ask: &Ask,
    look: Look,
    patience: Duration,
    cancel: &CancellationToken,
) -> anyhow::Result<Outcome> {
    let folder = Folder::make()?;
    let flags = Flags {
        listen: Some("127.0.0.1:0".to_owned()),
        data_dir: Some(folder.0.display().to_string()),
        ..Flags::default()
    };
    let config = match Config::load(&flags) {
        Ok(config) => config,
        Err(mistakes) => return Ok(refused(&mistakes)),
    };
    let key = format!("{}{}", uuid::Uuid::now_v7(), uuid::Uuid::now_v7());
    let config = Config { api_keys: vec![Secret::new(&key)], drain: Duration::ZERO, ..config };
    telemetry::init("error", Some(LogFormat::Text))?;
    let metrics = telemetry::Metrics::install()?.handle();
    let stop = CancellationToken::new();
    let service = Service::open(&config, metrics, stop.clone()).await?;
    let url = format!("http://{}", service.address);
    let client = Client::new(http(&url)?, &url, Some(&key), patience)?;
    let outcome = {
        let mut serving = std::pin::pin!(service.run(config.drain));
        let outcome = tokio::select! {
            biased;
            outcome = session(&client, ask, look, cancel) => outcome,
            ended = &mut serving => {
                ended?;
                anyhow::bail!("the private service ended before the run");
            }
        };
        drop(client);
        stop.cancel();
        serving.await?;
        outcome
    };
    drop(folder);
    Ok(outcome)
}

/// A folder that only this user can read, removed when it is dropped.
struct Folder(PathBuf);

impl Folder {
    fn make() -> anyhow::Result<Folder> {
        let path = std::env::temp_dir().join(format!("runledger-{}", uuid::Uuid::now_v7()));
        let made = DirBuilder::new().mode(0o700).create(&path);
        made.with_context(|| format!("can't make the folder {}", path.display()))?;
        Ok(Folder(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What can't be removed is the system's to clean up.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What is wrong with the command line, beyond what its parser sees.
#[derive(Debug, thiserror::Error)]
enum Wrong {
    #[error("nothing to run: give the input as an argument, or on standard input")]
    NoInput,
    #[error("standard input can't be both the agent and the input: give one of them otherwise")]
    StandardInputTwice,
    #[error("can't read {0}: {1}")]
    Unreadable(String, std::io::Error),
    #[error("{0} is larger than 8 MiB")]
    TooLarge(String),
    #[error("{0} is not UTF-8")]
    NotText(String),
    #[error("{0} is no agent: {1}")]
    NoAgent(String, String),
}

/// The body of `POST /runs`.
async fn body(flags: &RunFlags) -> Result<Value, Wrong> {
    let agent_is_read = flags.agent.as_deref() == Some(Path::new("-"));
    let input = flags.input.as_deref().filter(|input| *input != "-");
    if input.is_none() && agent_is_read {
        return Err(Wrong::StandardInputTwice);
    }
    let mut agent = agent(flags).await?;
    if let Some(model) = &flags.model {
        agent.insert("model".to_owned(), json!(model));
    }
    let input = match input {
        Some(input) => input.to_owned(),
        None if flags.input.is_none() && std::io::stdin().is_terminal() => {
            return Err(Wrong::NoInput);
        }
        None => {
            let text = read("standard input", tokio::io::stdin()).await?;
            text.strip_suffix('\n').map(str::to_owned).unwrap_or(text)
        }
    };
    let mut body = json!({"agent": agent, "input": input});
    if !flags.variables.is_empty() {
        body["variables"] = flags.variables.iter().cloned().collect();
    }
    if let Some(seconds) = flags.max_time {
        body["config"] = json!({"max_time": seconds});
    }
    Ok(body)
}

async fn agent(flags: &RunFlags) -> Result<Map<String, Value>, Wrong> {
    let Some(path) = &flags.agent else {
        let given: Vec<&str> = flags.tools.iter().map(String::as_str).collect();
        let tools = if given.is_empty() { TOOLS_DEFAULT.to_vec() } else { given };
        let tools = tools.iter().map(|name| json!({"type": "builtin", "name": name}));
        let mut agent = Map::new();
        agent.insert("name".to_owned(), json!("Assistant"));
        agent.insert("tools".to_owned(), tools.collect());
        return Ok(agent);
    };
    let (name, text) = if path == Path::new("-") {
        let name = "standard input".to_owned();
        (name.clone(), read(&name, tokio::io::stdin()).await?)
    } else {
        let name = path.display().to_string();
        let file = tokio::fs::File::open(path).await;
        let file = file.map_err(|error| Wrong::Unreadable(name.clone(), error))?;
        (name.clone(), read(&name, file).await?)
    };
    match serde_json::from_str(&text) {
        Ok(Value::Object(agent)) => Ok(agent),
        Ok(_) => Err(Wrong::NoAgent(name, "it must be a JSON object".to_owned())),
        Err(error) => Err(Wrong::NoAgent(name, error.to_string())),
    }
}

async fn read(name: &str, from: impl AsyncRead + Unpin) -> Result<String, Wrong> {
    let mut bytes = Vec::new();
    let read = from.take(READ_BYTES_MAX + 1).read_to_end(&mut bytes).await;
    read.map_err(|error| Wrong::Unreadable(name.to_owned(), error))?;
    if bytes.len() as u64 > READ_BYTES_MAX {
        return Err(Wrong::TooLarge(name.to_owned()));
    }
    String::from_utf8(bytes).map_err(|_not_text| Wrong::NotText(name.to_owned()))
}
