//! Lists of runs: exact, in order, and quick however many runs there are.

use std::time::{Duration, Instant};

use runledger::run::{RunId, Status};
use runledger::store::{Append, Appended, Create, Filter, Listed, PLACES, RunUpdate, Shown};
use uuid::Uuid;

use crate::bench::{Bench, Node, TENANT, client_id, event, intent, to};

/// What the runs of these tests differ in.
const AGENTS: [Option<&str>; 4] = [None, Some("a"), Some("b"), Some("c")];
const MODELS: [&str; 3] = ["demo/assistant", "openai/x", "openai/y"];
const LABELS: [&str; 3] = ["{}", r#"{"env":"prod","team":"blue"}"#, r#"{"env":"test"}"#];
const ENDS: [(Status, &str); 4] = [
    (Status::Completed, "end_turn"),
    (Status::Failed, "max_time"),
    (Status::Cancelled, "cancelled"),
    (Status::Completed, "max_turns"),
];

/// A run that was made at this millisecond.
fn made_at(ms: i64, place: u64) -> RunId {
    let first = RunId::first_of(ms).0.as_u128();
    RunId(Uuid::from_u128(first | (7 << 76) | (2 << 62) | u128::from(place)))
}

/// Run number `n` of many, the first of which was made at `first_ms`.
fn run(node: &Node, first_ms: i64, n: usize) -> Create {
    let id = made_at(first_ms + (n as i64 / 3) * 10, n as u64);
    let is_named = n.is_multiple_of(5);
    let name = format!("name-{n}");
    Create {
        id,
        public_id: if is_named { name.clone() } else { id.to_string() },
        keys: if is_named { vec![client_id(&name)] } else { Vec::new() },
        // Every sixth waits in the queue.
        owner: (!n.is_multiple_of(6)).then_some(node.id),
        agent: AGENTS[n % 4].map(str::to_owned),
        model: MODELS[n % 3].to_owned(),
        metadata: LABELS[n / 2 % 3].to_owned(),
        created_at_ms: id.made_at_ms(),
        ..intent("listed")
    }
}

/// How run number `n` has ended, if it has.
fn end(n: usize) -> Option<(Status, &'static str)> {
    (!n.is_multiple_of(6) && !n.is_multiple_of(7)).then(|| ENDS[n % 4])
}

fn ended(run: RunId, status: Status, reason: &str) -> Append {
    let name = match status {
        Status::Failed => "run.failed",
        Status::Cancelled => "run.cancelled",
        Status::Queued | Status::Running | Status::Completed => "run.completed",
    };
    let update = RunUpdate {
        status,
        stop_reason: Some(reason.to_owned()),
        output_preview: None,
        at_ms: 1_700_000_000_001,
    };
    Append { events: vec![event(2, name)], update: Some(update), ..to(run) }
}

/// So many runs of all kinds.
async fn many(bench: &Bench, node: &mut Node, count: usize) -> Vec<RunId> {
    let mut ids = Vec::with_capacity(count);
    let first_ms = bench.store.now_ms();
    for from in (0..count).step_by(500) {
        let part = from..count.min(from + 500);
        let creates: Vec<Create> = part.clone().map(|n| run(node, first_ms, n)).collect();
        ids.extend(creates.iter().map(|create| create.id));
        bench.store.create(creates).await.expect("they are created");
        let ends: Vec<Append> = part
            .filter_map(|n| end(n).map(|(status, reason)| ended(ids[n], status, reason)))
            .collect();
        let answers = node.append(ends).await.expect("they end");
        assert!(answers.iter().all(|answer| *answer == Appended::All));
    }
    ids
}

async fn list(bench: &Bench, filter: &Filter, limit: u32) -> Vec<Listed> {
    bench.store.list(TENANT, filter, limit).await.expect("the list is read")
}

async fn ids(bench: &Bench, filter: &Filter) -> Vec<RunId> {
    list(bench, filter, 10_000).await.into_iter().map(|run| run.id).collect()
}

/// Whether run number `n` passes, by what was put in.
fn passes(filter: &Filter, n: usize, id: RunId) -> bool {
    let (status, reason) = end(n).map_or((Status::Queued, None), |(s, r)| (s, Some(r)));
    let has = |(key, value): &(String, String)| {
        LABELS[n / 2 % 3].contains(&format!(r#""{key}":"{value}""#))
    };
    let is_named = |name: &String| {
        *name == id.to_string() || (n.is_multiple_of(5) && *name == format!("name-{n}"))
    };
    (filter.statuses.is_empty() || filter.statuses.contains(&status))
        && (filter.stop_reasons.is_empty()
            || reason.is_some_and(|reason| filter.stop_reasons.iter().any(|one| one == reason)))
        && filter.agent.as_deref().is_none_or(|agent| AGENTS[n % 4] == Some(agent))
        && filter.model.as_deref().is_none_or(|model| MODELS[n % 3] == model)
        && filter.names.as_ref().is_none_or(|names| names.iter().any(is_named))
        && filter.labels.iter().all(has)
        && filter.from.is_none_or(|from| id >= from)
        && filter.below.is_none_or(|below| id < below)
        && filter.thread.is_none()
        && filter.batch.is_none()
        && filter.parent.is_none()
        && filter.waiting.is_empty()
}

fn label(key: &str, value: &str) -> (String, String) {
    (key.to_owned(), value.to_owned())
}

/// Each filter alone, and some together.
fn filters(ids: &[RunId]) -> Vec<(&'static str, Filter)> {
    let none = Filter::default;
    let text = |text: &str| Some(text.to_owned());
    let of = |statuses: &[Status]| Filter { statuses: statuses.to_vec(), ..none() };
    let reasons = |reasons: &[&str]| Filter {
        stop_reasons: reasons.iter().map(|&reason| reason.to_owned()).collect(),
        ..none()
    };
    let names = ["name-5", "name-10", "nobody", &ids[7].to_string(), &ids[10].to_string()];
    let both = vec![label("env", "prod"), label("team", "blue")];
    vec![
        ("none", none()),
        ("status queued", of(&[Status::Queued])),
        ("status running", of(&[Status::Running])),
        ("status completed", of(&[Status::Completed])),
        ("status failed", of(&[Status::Failed])),
        ("two statuses", of(&[Status::Failed, Status::Cancelled])),
        ("status completed or queued", of(&[Status::Completed, Status::Queued])),
        ("stop_reason max_time", reasons(&["max_time"])),
        ("stop_reason end_turn", reasons(&["end_turn"])),
        ("two stop_reasons", reasons(&["max_turns", "cancelled"])),
        ("end_turn or max_time", reasons(&["end_turn", "max_time"])),
        ("an unknown stop_reason", reasons(&["nothing"])),
        ("agent", Filter { agent: text("a"), ..none() }),
        ("an unknown agent", Filter { agent: text("z"), ..none() }),
        ("model", Filter { model: text("openai/x"), ..none() }),
        ("thread", Filter { thread: text("t"), ..none() }),
        ("parent", Filter { parent: Some(ids[0]), ..none() }),
        ("waiting", Filter { waiting: vec!["tool_output", "approval"], ..none() }),
        ("names", Filter { names: Some(names.map(str::to_owned).to_vec()), ..none() }),
        ("a label", Filter { labels: vec![label("env", "test")], ..none() }),
        ("two labels", Filter { labels: both.clone(), ..none() }),
        ("an unknown label", Filter { labels: vec![label("env", "")], ..none() }),
        ("from", Filter { from: Some(ids[ids.len() - 9]), ..none() }),
        ("below", Filter { below: Some(ids[9]), ..none() }),
        (
            "a failed run of an agent with a label",
            Filter { agent: text("b"), labels: both.clone(), ..of(&[Status::Failed]) },
        ),
        ("completed of an agent", Filter { agent: text("a"), ..of(&[Status::Completed]) }),
        (
            "everything",
            Filter {
                agent: text("b"),
                model: text("openai/y"),
                stop_reasons: vec!["max_time".to_owned()],
                from: Some(ids[3]),
                below: Some(ids[ids.len() - 3]),
                labels: both,
                names: Some(ids.iter().map(RunId::to_string).take(200).collect()),
                ..of(&[Status::Failed, Status::Completed])
            },
        ),
    ]
}

pub(crate) async fn each_filter_finds_its_runs_and_no_others_newest_first(bench: Bench) {
    let mut node = bench.node().await;
    let all = many(&bench, &mut node, 240).await;
    let mut found = 0;
    for (name, filter) in filters(&all) {
        let expected: Vec<RunId> = all
            .iter()
            .enumerate()
            .rev()
            .filter(|(n, id)| passes(&filter, *n, **id))
            .map(|(_, id)| *id)
            .collect();
        assert_eq!(ids(&bench, &filter).await, expected, "{name}");
        assert_eq!(bench.store.list("other", &filter, 9).await.ok(), Some(Vec::new()), "{name}");
        found += expected.len();
    }
    assert!(found > 1000, "{found}");
}

pub(crate) async fn pages_follow_each_other_whatever_is_created_or_ends_between(bench: Bench) {
    let mut node = bench.node().await;
    let all = many(&bench, &mut node, 60).await;
    let mut filter = Filter { statuses: vec![Status::Queued], ..Filter::default() };
    let expected = ids(&bench, &filter).await;
    let mut seen = Vec::new();
    loop {
        let page = list(&bench, &filter, 5).await;
        let Some(last) = page.last() else { break };
        filter.below = Some(last.id);
        seen.extend(page.iter().map(|run| run.id));
        // A newer one comes, and one that was seen ends.
        let later_ms = bench.store.now_ms() + 3_600_000;
        let newer = Create { id: made_at(later_ms, seen.len() as u64), ..run(&node, later_ms, 6) };
        bench.create_one(Create { keys: Vec::new(), ..newer }).await;
        if seen.contains(&all[7]) && !seen.is_empty() {
            // It has ended already, or ends now.
            let _ = node.append(vec![ended(all[7], Status::Failed, "max_time")]).await;
        }
    }
    assert_eq!(seen, expected);
}

pub(crate) async fn runs_are_found_by_the_labels_that_they_have_now(bench: Bench) {
    let mut node = bench.node().await;
    let metadata = r#"{"a":"1","b":"2"}"#.to_owned();
    let create = Create { owner: Some(node.id), metadata, ..intent("labels") };
    let run = create.id;
    bench.create_one(create).await;
    let with = |key: &str, value: &str| Filter {
        labels: vec![(key.to_owned(), value.to_owned())],
        ..Filter::default()
    };
    assert_eq!(ids(&bench, &with("b", "2")).await, [run]);
    let metadata = Some(r#"{"b":"3","ü:":"x:y"}"#.to_owned());
    let shown = Shown { metadata: metadata.clone(), ..Shown::default() };
    let relabelled = Append { events: vec![event(2, "run.updated")], shown, ..to(run) };
    assert_eq!(node.append(vec![relabelled.clone()]).await, Ok(vec![Appended::All]));
    for (key, value, expected) in
        [("a", "1", &[][..]), ("b", "2", &[]), ("b", "3", &[run]), ("ü:", "x:y", &[run])]
    {
        assert_eq!(ids(&bench, &with(key, value)).await, expected, "{key}:{value}");
    }
    assert_eq!(Some(list(&bench, &Filter::default(), 1).await[0].metadata.clone()), metadata);
    // What is refused relabels nothing.
    let stranger = bench.node().await;
    let mut stranger = Node { number: node.number, ..stranger };
    let shown = Shown { metadata: Some("{}".to_owned()), ..Shown::default() };
    let refused = Append { events: vec![event(3, "run.updated")], shown, ..to(run) };
    assert_eq!(stranger.append(vec![refused]).await, Ok(vec![Appended::NotOwner]));
    assert_eq!(ids(&bench, &with("b", "3")).await, [run]);
}

pub(crate) async fn a_list_shows_what_the_last_append_said(bench: Bench) {
    let mut node = bench.node().await;
    let run = node.started().await;
    let shown = Shown {
        turn_count: Some(2),
        usage: Some(r#"{"total_tokens":7}"#.to_owned()),
        ..Shown::default()
    };
    let turn = Append { events: vec![event(3, "turn.completed")], shown, ..to(run) };
    assert_eq!(node.append(vec![turn]).await, Ok(vec![Appended::All]));
    let text = Append { events: vec![event(4, "text")], ..to(run) };
    assert_eq!(node.append(vec![text]).await, Ok(vec![Appended::All]));
    let seen = list(&bench, &Filter::default(), 9).await.remove(0);
    assert_eq!((seen.turn_count, seen.last_seq.0, seen.status), (2, 4, Status::Running));
    assert_eq!(seen.usage.as_deref(), Some(r#"{"total_tokens":7}"#));
    assert_eq!((seen.error, seen.elapsed, seen.queue_position), (None, None, None));
    let shown = Shown {
        error: Some(r#"{"code":"max_time"}"#.to_owned()),
        elapsed: Some(1.25),
        ..Shown::default()
    };
    let update = ended(run, Status::Failed, "max_time").update;
    let end = Append { events: vec![event(5, "run.failed")], update, shown, ..to(run) };
    assert_eq!(node.append(vec![end]).await, Ok(vec![Appended::All]));
    let seen = list(&bench, &Filter::default(), 9).await.remove(0);
    assert_eq!((seen.status, seen.stop_reason.as_deref()), (Status::Failed, Some("max_time")));
    assert_eq!(seen.error.as_deref(), Some(r#"{"code":"max_time"}"#));
    assert_eq!((seen.turn_count, seen.elapsed), (2, Some(1.25)), "the rest stays");
}

pub(crate) async fn places_in_the_queue_are_told(bench: Bench) {
    let node = bench.node().await;
    let first_ms = bench.store.now_ms() - 10_000;
    let born = node.born().await;
    let mut queued = Vec::new();
    for n in 0..5 {
        let id = made_at(first_ms + n, 0);
        let create = Create { id, created_at_ms: first_ms + n, ..intent("queued") };
        bench.create_one(create).await;
        queued.push(id);
    }
    // One with news stands in the same order.
    bench.leave(queued[1], "cancel", "cancel").await;
    for run in list(&bench, &Filter::default(), 9).await {
        let place = bench.store.queue_position(run.id).await.expect("it is read");
        assert_eq!(run.queue_position, place);
        assert_eq!(place.is_none(), run.id == born);
    }
    let mut later: Vec<Create> = Vec::new();
    for n in 0..u64::from(PLACES) {
        let id = made_at(first_ms + 1000, n);
        later.push(Create { id, created_at_ms: first_ms + 1000, ..intent("queued") });
    }
    let last = later[later.len() - 1].id;
    let (told, untold) = (later[later.len() - 6].id, later[later.len() - 5].id);
    bench.store.create(later).await.expect("they are created");
    let place = async |run| bench.store.queue_position(run).await.expect("it is read");
    assert_eq!(place(told).await, Some(u64::from(PLACES)));
    assert_eq!((place(untold).await, place(last).await), (None, None));
    let far =
        Filter { from: Some(last), below: Some(made_at(first_ms + 1001, 0)), ..Filter::default() };
    let seen = list(&bench, &far, 1).await.remove(0);
    assert_eq!((seen.id, seen.queue_position), (last, None), "nobody counts that far for a list");
}

/// Prints how long each filter takes. `RUNLEDGER_LIST_RUNS` says over how many runs: 100 000 are
/// the figure that is promised, few are enough to see that it works.
pub(crate) async fn every_filter_answers_in_milliseconds(bench: Bench) {
    let count = std::env::var("RUNLEDGER_LIST_RUNS").map_or(1500, |n| n.parse().expect("a number"));
    let mut node = bench.node().await;
    let all = many(&bench, &mut node, count).await;
    let mut slowest = Duration::ZERO;
    for (name, filter) in filters(&all) {
        let began = Instant::now();
        let found = list(&bench, &filter, 51).await.len();
        let took = began.elapsed();
        slowest = slowest.max(took);
        println!("{:>9.2} ms {found:>3} of {count}: {name}", took.as_secs_f64() * 1000.0);
    }
    // Far above what is measured: the machine may be busy with other tests.
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
}
