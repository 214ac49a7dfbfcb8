//! The command line.

use std::convert::Infallible;
use std::io::Write;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use runledger::client::Outcome;
use runledger::config::{Config, Flags, HealthcheckFlags, RunFlags};
use runledger::{app, telemetry};
use rustix::process::{Resource, getrlimit, setrlimit};
use rustix::thread::disable_transparent_huge_pages;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Returns memory to the system after a peak, and is faster under many small allocations.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Runs LLM agents as a durable service: the log is the run.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    flags: Flags,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the API and drive runs; what is done without a command too
    Serve(Flags),
    /// Bring the store's schema up to date and end; the service does so too, at its start
    Migrate(Flags),
    /// Run an agent once and show what it says, on a server or in this process
    Run(RunFlags),
    /// Ask a service whether it is well, for a container's health check
    Healthcheck(HealthcheckFlags),
    /// Print the reference of the API: OpenAPI 3.1 as YAML
    Openapi(OpenapiFlags),
}

#[derive(Debug, Args)]
struct OpenapiFlags {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Print OpenAPI 3.0.3 as JSON, for generators that read no other
    #[arg(long = "3.0")]
    older: bool,
}

/// What the process says with its exit code when a setting is wrong, as for a wrong flag.
const WRONG_SETTINGS: u8 = 2;

fn main() -> ExitCode {
    want_small_pages();
    let Cli { command, flags } = Cli::parse();
    let flags = match command {
        Some(Command::Serve(flags)) => flags,
        Some(Command::Migrate(flags)) => Flags { only_migrates: true, ..flags },
        Some(Command::Run(flags)) => return run(flags),
        Some(Command::Healthcheck(flags)) => return healthcheck(&flags),
        Some(Command::Openapi(flags)) => return openapi(&flags),
        None => flags,
    };
    let config = match Config::load(&flags) {
        Ok(config) => config,
        Err(mistakes) => {
            say(&mistakes);
            return ExitCode::from(WRONG_SETTINGS);
        }
    };
    match if flags.only_migrates { migrate(&config) } else { serve(config) } {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format_args!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn serve(config: Config) -> anyhow::Result<()> {
    telemetry::init(&config.log, config.log_format)?;
    allow_connections();
    let metrics = telemetry::Metrics::install()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let stop = CancellationToken::new();
        let signals = Signals::listen()?;
        // The service first: its end is the end. The signals alone never end this.
        tokio::select! {
            biased;
            served = app::serve(config, metrics.handle(), stop.clone()) => served,
            never = signals.stop(stop) => match never {},
        }
    })
}

fn migrate(config: &Config) -> anyhow::Result<()> {
    telemetry::init(&config.log, config.log_format)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let store = runtime.block_on(app::migrate(config))?;
    // Nobody reads it: the exit code says enough.
    let _ = writeln!(std::io::stdout(), "the schema is up to date: {store}");
    Ok(())
}

fn run(flags: RunFlags) -> ExitCode {
    let done =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().and_then(|runtime| {
            let done = runtime.block_on(async {
                let cancel = CancellationToken::new();
                let mut signals = Signals::listen()?;
                let left = async {
                    signals.next().await;
                    cancel.cancel();
                    signals.next().await;
                };
                // The run first: where it has ended, nobody needs to leave.
                Ok(tokio::select! {
                    biased;
                    outcome = app::run(flags, cancel.clone()) => outcome.map(Outcome::code),
                    () = left => Ok(Outcome::Cancelled.code()),
                })
            });
            // A read of standard input, or a write to somebody who does not read, never ends.
            runtime.shutdown_background();
            done
        });
    match done.map_err(anyhow::Error::from).flatten() {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            say(&format_args!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Well or not, one line says it; what a container's engine keeps of a check is a few kilobytes.
fn healthcheck(flags: &HealthcheckFlags) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let asked = runtime
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(app::healthcheck(flags)));
    match asked {
        Ok(words) => {
            // Nobody reads it: the exit code says enough.
            let _ = writeln!(std::io::stdout(), "{words}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            say(&format_args!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn openapi(flags: &OpenapiFlags) -> ExitCode {
    let form = match (flags.older, flags.json) {
        (true, _) => app::OpenapiForm::OlderJson,
        (false, true) => app::OpenapiForm::Json,
        (false, false) => app::OpenapiForm::Yaml,
    };
    match std::io::stdout().write_all(app::openapi(form).as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&error);
            ExitCode::FAILURE
        }
    }
}

/// Says why the process ends.
fn say(words: &dyn std::fmt::Display) {
    // Nobody reads it: the exit code says enough.
    let _ = writeln!(std::io::stderr(), "runledger: {words}");
}

/// The allocator asks for huge pages, of which a service that mostly waits fills little: idle it held a
/// third more memory, and twelve KiB more for each reader of a stream. What is in use already stays as it
/// is, so this comes first.
fn want_small_pages() {
    // Where the kernel refuses, all works the same, with more memory.
    let _ = disable_transparent_huge_pages(true);
}

/// As many open files as this process may have: every stream and every model call is a connection,
/// and many systems start programs with a thousand.
fn allow_connections() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(error = %error, "the number of open files stays as it is");
    }
}

/// What the operator and the orchestrator stop a process with.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// From here on the signals no longer end the process by themselves.
    fn listen() -> std::io::Result<Self> {
        let terminate = signal(SignalKind::terminate())?;
        Ok(Self { terminate, interrupt: signal(SignalKind::interrupt())? })
    }

    /// The first SIGTERM or SIGINT stops the service cleanly; the second ends it at once, and the
    /// next start goes on from the log.
    async fn stop(mut self, stop: CancellationToken) -> Infallible {
        self.next().await;
        tracing::info!("stopping; again to stop at once");
        stop.cancel();
        self.next().await;
        tracing::warn!("stopped at once");
        std::process::exit(130)
    }

    async fn next(&mut self) {
        tokio::select! {
            biased;
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
