//! The design that one would write first, on the same schema and the same database: a transaction
//! for each change of a run's state (bench/naive). No model is asked and no HTTP is spoken, so it is
//! flattered.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::plain::{self, DELTAS};
use super::rate::{Way, rate};
use crate::report::{Figure, Goal, Outcome};
use crate::rig::Rig;
use crate::rig::postgres::Until;
use crate::rig::script::text;
use crate::rig::service::Setup;
use crate::{Size, Store};

const CASE: &str = "naive";

const BEGIN: &str = include_str!("../../naive/begin.sql");
const TEXT: &str = include_str!("../../naive/text.sql");
const END: &str = include_str!("../../naive/end.sql");

/// Runs at once, of both designs.
const LEVELS: &[u32] = &[64, 256];
const LEVELS_SMOKE: &[u32] = &[8];

/// The service's rate divided by this design's.
const GOAL: f64 = 10.0;

/// How this design keeps text.
#[derive(Clone, Copy, Debug)]
enum Keeps {
    /// Each delta, before it is shown.
    Deltas,
    /// All of it in one piece: nothing can be shown before the answer is whole.
    Whole,
}

pub(super) async fn run(rig: &Rig) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let levels = if rig.options.size == Size::Smoke { LEVELS_SMOKE } else { LEVELS };
    for at_once in levels {
        let service = rig.service_on(Store::Postgres, 1, &Setup::default()).await?;
        let in_flight = usize::try_from(*at_once)?;
        let ours = rate(rig, &service, &plain::ask(), in_flight, Way::Wait).await?;
        outcome.violations.extend(ours.violations);
        rig.stop(service).await?;
        for (keeps, name) in
            [(Keeps::Deltas, "each delta kept"), (Keeps::Whole, "text kept as one")]
        {
            let naive = naive(rig, *at_once, keeps, &mut outcome).await?;
            let name = |what: &str| format!("{at_once} at once, {name}{what}");
            let figure = Figure::new(CASE, name(""), naive, "runs/s");
            outcome.figures.push(figure.beside("B", ours.bare));
            let figure = Figure::new(CASE, name(": the service"), ours.runs, "runs/s");
            let figure = figure.beside("naive", naive);
            outcome.figures.push(match keeps {
                Keeps::Deltas => figure.goal(Goal::AtLeast(GOAL)),
                Keeps::Whole => figure,
            });
        }
    }
    Ok(outcome)
}

/// Runs a second, on an empty database.
async fn naive(rig: &Rig, at_once: u32, keeps: Keeps, outcome: &mut Outcome) -> Result<f64> {
    let database = migrated(rig)?;
    let whole = text(DELTAS);
    let texts: String = match keeps {
        Keeps::Deltas => {
            whole.split_inclusive(' ').map(|word| TEXT.replace("CONTENT", word)).collect()
        }
        Keeps::Whole => TEXT.replace("CONTENT", &whole),
    };
    let script = rig.postgres.folder().join("naive.sql");
    std::fs::write(&script, format!("{BEGIN}{texts}{END}").replace("WHOLE", &whole))?;
    let until = match (rig.options.size, rig.options.seconds) {
        (Size::Smoke, None) => Until::Count(2),
        (_, Some(seconds)) => Until::Seconds(seconds),
        (Size::Short, None) => Until::Seconds(5),
        (Size::Whole, None) => Until::Seconds(20),
    };
    let done = rig.postgres.pgbench(&database, &script, at_once, until)?;
    let sound = rig.postgres.sql(&database, &sound(&whole))?;
    outcome.violations.check(sound.trim() == done.done.to_string(), || {
        format!("of {} naive runs {} are whole", done.done, sound.trim())
    });
    rig.postgres.sql("postgres", &format!("drop database {database}"))?;
    Ok(done.per_second)
}

/// A database with the service's schema, and no service.
fn migrated(rig: &Rig) -> Result<String> {
    let database = rig.postgres.database()?;
    let mut migrate = Command::new(&rig.options.binary);
    migrate.arg("migrate").env_clear().env("DATABASE_URL", rig.postgres.url(&database));
    let output = migrate.output().context("the binary runs")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // A node makes the days' partitions; this one makes the first of them too.
    rig.postgres.sql(&database, "select make_days(1)")?;
    Ok(database)
}

/// How many runs have ended with dense numbers and all of their text.
fn sound(text: &str) -> String {
    format!(
        "select count(*) from runs
          where status = 'COMPLETED'
            and last_seq = (select count(*) from events where run_id = id)
            and last_seq = (select max(seq) from events where run_id = id)
            and '{text}' = (select string_agg(data::json ->> 'content', '' order by seq)
                              from events where run_id = id and type = 3)"
    )
}
