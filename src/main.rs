//! The command line.

use clap::{Parser, Subcommand};
use runledger::config::{Config, Flags};
use runledger::{app, telemetry};
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
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
}

fn main() -> anyhow::Result<()> {
    let Cli { command, flags } = Cli::parse();
    let flags = match command {
        Some(Command::Serve(flags)) => flags,
        None => flags,
    };
    let config = match Config::load(&flags) {
        Ok(config) => config,
        Err(mistakes) => {
            eprintln!("{mistakes}");
            std::process::exit(2);
        }
    };
    telemetry::init(&config.log, config.log_format)?;
    allow_connections();
    let metrics = telemetry::Metrics::install()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let stop = CancellationToken::new();
        tokio::spawn(stop_at_signal(stop.clone()));
        app::serve(config, metrics.handle(), stop).await
    })
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

/// The first SIGTERM or SIGINT stops the service cleanly; the second ends it at once, and the next
/// start goes on from the log.
async fn stop_at_signal(stop: CancellationToken) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    for is_second in [false, true] {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        if is_second {
            tracing::warn!("stopped at once");
            std::process::exit(130);
        }
        tracing::info!("stopping; again to stop at once");
        stop.cancel();
    }
    Ok(())
}
