//! What the operator sees: log lines on standard error, and numbers for Prometheus.

use std::io::IsTerminal;

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::util::TryInitError;

/// Upper bounds of the duration histograms in seconds: from a local commit to a slow model.
const SECONDS_BUCKETS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 120.0];

/// Upper bounds of the histograms that count runs: from one to the largest batch.
const RUNS_BUCKETS: [f64; 9] = [1.0, 2.0, 4.0, 8.0, 16.0, 64.0, 256.0, 1024.0, 4096.0];

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Why logging did not start.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter is no list of levels and targets.
    #[error("the log filter is wrong: {0}")]
    Filter(#[from] ParseError),
    /// Somebody else's logging is in place.
    #[error("logging was already started: {0}")]
    Started(#[from] TryInitError),
}

/// Why the numbers are not recorded.
#[derive(Debug, thiserror::Error)]
#[error("metrics can't be recorded: {0}")]
pub struct MetricsError(#[from] BuildError);

/// Starts logging to standard error. Without a format: text on a terminal, else JSON.
pub fn init(level: &str, format: Option<LogFormat>) -> Result<(), LogError> {
    let filter = EnvFilter::try_new(level)?;
    let is_terminal = std::io::stderr().is_terminal();
    let default = if is_terminal { LogFormat::Text } else { LogFormat::Json };
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(is_terminal)
        // Its words about a line that can't be written would go to the same place, and panic there.
        .log_internal_errors(false)
        .with_writer(std::io::stderr);
    match format.unwrap_or(default) {
        LogFormat::Text => lines.finish().try_init()?,
        LogFormat::Json => lines.json().flatten_event(true).finish().try_init()?,
    }
    Ok(())
}

/// The numbers recorded so far.
#[derive(Clone)]
pub struct Metrics {
    handle: PrometheusHandle,
}

impl Metrics {
    /// Makes the `metrics` macros record here, once per process. A histogram's name ends in its
    /// unit: `_seconds` or `_runs`.
    pub fn install() -> Result<Self, MetricsError> {
        let (seconds, runs) = (Matcher::Suffix("_seconds".into()), Matcher::Suffix("_runs".into()));
        let builder = PrometheusBuilder::new()
            .set_buckets_for_metric(seconds, &SECONDS_BUCKETS)?
            .set_buckets_for_metric(runs, &RUNS_BUCKETS)?;
        Ok(Self { handle: builder.install_recorder()? })
    }

    /// Gives the text of `GET /metrics`, in Prometheus's format 0.0.4.
    pub fn handle(&self) -> PrometheusHandle {
        self.handle.clone()
    }

    /// Folds recorded durations into their histograms. To be called every few seconds: until
    /// then, or somebody asks for the text, each one takes memory.
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_rendered() {
        let metrics = Metrics::install().unwrap();
        metrics::counter!("telemetry_test_total").increment(3);
        metrics::histogram!("telemetry_test_seconds").record(0.02);
        metrics::histogram!("telemetry_test_runs").record(3.0);
        metrics.upkeep();
        let text = metrics.handle().render();
        assert!(text.contains("telemetry_test_total 3"), "{text}");
        assert!(text.contains("telemetry_test_seconds_bucket{le=\"0.025\"} 1"), "{text}");
        assert!(text.contains("telemetry_test_runs_bucket{le=\"2\"} 0"), "{text}");
        assert!(text.contains("telemetry_test_runs_bucket{le=\"4\"} 1"), "{text}");
        assert!(Metrics::install().is_err(), "a second recorder would take over");
    }

    #[test]
    fn logging_starts_once_and_only_with_a_sound_filter() {
        assert!(matches!(init("runledger=loud", None), Err(LogError::Filter(_))));
        init("warn,runledger=debug", Some(LogFormat::Json)).unwrap();
        assert!(matches!(init("info", Some(LogFormat::Text)), Err(LogError::Started(_))));
    }
}
