//! Measures the service as its clients would meet it, and beside it the limit of its database
//! (bench/README.md). It starts all that it needs, and ends it.

#![expect(dead_code, reason = "some of the rig waits for its cases")]

mod cases;
mod load;
mod report;
mod rig;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

use crate::cases::{CASES, Case};
use crate::report::Report;
use crate::rig::{Options, Rig};

/// Where runs are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Store {
    Postgres,
    Sqlite,
}

/// How much is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Size {
    /// A few runs of everything: whether it is right, not how fast.
    Smoke,
    /// Seconds a figure.
    Short,
    /// As the published figures are measured.
    Whole,
}

/// Measures the service beside the limit of its database.
#[derive(Debug, Parser)]
#[command(name = "runledger-bench")]
struct Arguments {
    /// The cases to run; all, where none is named.
    cases: Vec<String>,
    /// Lists the cases.
    #[arg(long)]
    list: bool,
    #[arg(long, value_enum, default_value = "short")]
    size: Size,
    /// The same as `--size smoke`.
    #[arg(long)]
    smoke: bool,
    #[arg(long, value_enum, default_value = "postgres")]
    store: Store,
    /// The service.
    #[arg(long, default_value = "target/release/runledger")]
    binary: PathBuf,
    /// Where the report goes as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// How long each loop is measured.
    #[arg(long)]
    seconds: Option<u64>,
    /// Tells which statements took a service's time in the database (slower: for looking, not for
    /// figures).
    #[arg(long)]
    statements: bool,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    if arguments.list {
        for case in CASES {
            println!("{:<12} {}", case.name, case.says);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let cases = chosen(&arguments.cases)?;
    // Thousands of connections.
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        // The rig is dropped with the work, and ends what it has started.
        tokio::select! {
            biased;
            _ = interrupt.recv() => Ok(ExitCode::FAILURE),
            _ = terminate.recv() => Ok(ExitCode::FAILURE),
            done = measure(&arguments, &cases) => done,
        }
    })
}

fn chosen(names: &[String]) -> Result<Vec<&'static Case>> {
    let unknown = names.iter().find(|name| CASES.iter().all(|case| case.name != **name));
    ensure!(unknown.is_none(), "there is no case {:?}; `--list` lists them", unknown);
    let is_chosen = |case: &&Case| names.is_empty() || names.iter().any(|name| name == case.name);
    Ok(CASES.iter().filter(is_chosen).collect())
}

async fn measure(arguments: &Arguments, cases: &[&'static Case]) -> Result<ExitCode> {
    let began = Instant::now();
    let size = if arguments.smoke { Size::Smoke } else { arguments.size };
    let options = Options {
        binary: arguments.binary.clone(),
        store: arguments.store,
        size,
        seconds: arguments.seconds,
        statements: arguments.statements,
    };
    let rig = Rig::start(options).await?;
    let [store, size] = [format!("{:?}", arguments.store), format!("{size:?}")];
    let mut report = Report::new(rig.machine.clone(), &store.to_lowercase(), &size.to_lowercase());
    for case in cases {
        eprintln!("{}: {}", case.name, case.says);
        let outcome = (case.run)(&rig).await.with_context(|| format!("case {}", case.name))?;
        report.add(case.name, outcome);
        report.took(began.elapsed().as_secs_f64());
        // Also what was measured until then, where a later case fails.
        if let Some(path) = &arguments.json {
            std::fs::write(path, report.to_json())?;
        }
    }
    print!("{}", report.to_table());
    Ok(if report.is_sound() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
