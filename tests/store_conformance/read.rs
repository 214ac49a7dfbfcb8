//! Reading: pages, the log for a fold, finding.

use std::sync::Arc;

use runledger::run::event::{AbortReason, FinishReason, OutputPart, Usage, kind_of};
use runledger::run::{Body, Draft, Event, RunId, Seq, State};
use runledger::store::{Append, Appended, Create, Created, StoredEvent, TypeFilter};

use crate::bench::{Bench, TENANT, client_id, event, intent, texts, to};

pub(crate) async fn pages_follow_each_other_through_ten_thousand_events(bench: Bench) {
    let mut node = bench.node().await;
    let run = node.born().await;
    for thousand in 0..10 {
        let from = 2 + thousand * 1000;
        let appended = node.append(vec![texts(run, from..=from + 999)]).await;
        assert_eq!(appended, Ok(vec![Appended::All]));
    }
    let mut seqs = Vec::new();
    loop {
        let after = Seq(seqs.last().copied().unwrap_or(0));
        let page = bench.store.events(run, after, 700).await.expect("the log is read");
        if page.is_empty() {
            break;
        }
        assert!(page.len() <= 700);
        seqs.extend(page.iter().map(|event| event.seq.0));
    }
    assert!(seqs.iter().copied().eq(1..=10_001));
    assert!(bench.store.events(run, Seq(u64::MAX), 9).await.expect("it is read").is_empty());
}

pub(crate) async fn a_page_ends_at_some_megabytes(bench: Bench) {
    let mut node = bench.node().await;
    let run = node.born().await;
    for seq in 2..12 {
        let data = Arc::from(format!(r#"{{"content":"{}"}}"#, "x".repeat(1024 * 1024)));
        let large = StoredEvent { data, ..event(seq, "text") };
        let append = Append { events: vec![large], ..to(run) };
        assert_eq!(node.append(vec![append]).await, Ok(vec![Appended::All]));
    }
    let seqs = |page: &[StoredEvent]| page.iter().map(|event| event.seq.0).collect::<Vec<u64>>();
    let forwards = bench.store.events(run, Seq(1), 500).await.expect("it is read");
    assert_eq!(seqs(&forwards), [2, 3, 4, 5]);
    let all = TypeFilter::All;
    let backwards = bench.store.events_before(run, Seq(12), 500, &all).await.expect("it is read");
    assert_eq!(seqs(&backwards), [8, 9, 10, 11]);
    let mut readers = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let store = bench.store.clone();
        readers.spawn(async move { store.events(run, Seq(5), 500).await.map(|page| page.len()) });
    }
    for read in readers.join_all().await {
        assert_eq!(read.ok(), Some(4), "a page that was cut leaves its connection whole");
    }
}

pub(crate) async fn pages_backwards_take_a_filter(bench: Bench) {
    let mut node = bench.node().await;
    let run = node.born().await;
    let names = ["run.started", "turn.started", "text", "reasoning", "text", "turn.completed"];
    let events = names.iter().zip(2..).map(|(name, seq)| event(seq, name)).collect();
    assert_eq!(node.append(vec![Append { events, ..to(run) }]).await, Ok(vec![Appended::All]));
    let text = kind_of("text").expect("there is such a type");
    for (filter, before, limit, expected) in [
        (TypeFilter::All, u64::MAX, 3, vec![5, 6, 7]),
        (TypeFilter::All, 5, 2, vec![3, 4]),
        (TypeFilter::All, 1, 9, vec![]),
        (TypeFilter::Only(vec![text]), 7, 9, vec![4, 6]),
        (TypeFilter::Only(vec![text]), 6, 9, vec![4]),
        (TypeFilter::Only(vec![]), 7, 9, vec![]),
        (TypeFilter::Without(vec![text, 4]), 8, 3, vec![2, 3, 7]),
        (TypeFilter::Without(vec![]), 4, 9, vec![1, 2, 3]),
    ] {
        let page = bench.store.events_before(run, Seq(before), limit, &filter).await;
        let seqs: Vec<u64> = page.expect("it is read").iter().map(|event| event.seq.0).collect();
        assert_eq!(seqs, expected, "{filter:?} before {before}, {limit} at most");
    }
}

/// Two turns, with a void attempt and a long answer, and then one that is cut for good.
fn bodies() -> Vec<(u32, u32, Body)> {
    let started = || Body::TurnStarted { model: "m".to_owned(), request_sha256: String::new() };
    let text = |item| Body::Text { item, content: format!("text {item} ") };
    let thought =
        |item| Body::Reasoning { item, content: "hm".to_owned(), provider_metadata: None };
    let aborted = |reason, last_item| Body::TurnAborted {
        reason,
        provider_status: None,
        message: None,
        discard_from_seq: Seq(1),
        last_item,
        retry_in: Some(0.5),
        elapsed_time: None,
        usage: None,
    };
    let completed = |item, text: &str| Body::TurnCompleted {
        finish_reason: FinishReason::Stop,
        parts: vec![OutputPart::Text { item, text: text.to_owned() }],
        usage: Usage::default(),
        model: "m".to_owned(),
        provider_request_id: None,
        provider_metadata: None,
        elapsed_time: 0.1,
        first_output_time: None,
    };
    vec![
        (1, 1, started()),
        (1, 1, thought(1)),
        (1, 1, text(2)),
        (1, 1, aborted(AbortReason::Cut, 2)),
        (1, 2, started()),
        (1, 2, text(3)),
        (1, 2, text(3)),
        (1, 2, completed(3, "text 3 text 3 ")),
        (2, 1, started()),
        (2, 1, text(4)),
        (2, 1, aborted(AbortReason::Crash, 4)),
        (2, 2, started()),
        (2, 2, text(5)),
        (2, 2, text(5)),
        (2, 2, aborted(AbortReason::Cancelled, 5)),
    ]
}

fn fold(log: &[StoredEvent]) -> State {
    let events: Vec<Event> = log
        .iter()
        .map(|stored| serde_json::from_str(&stored.data).expect("it is an event"))
        .collect();
    State::fold(&events)
}

pub(crate) async fn the_log_for_a_fold_folds_to_the_state_of_the_whole_log(bench: Bench) {
    let mut node = bench.node().await;
    let run = RunId(uuid::Uuid::now_v7());
    let create = Create { id: run, owner: Some(node.id), events: Vec::new(), ..intent("") };
    assert_eq!(bench.create_one(create).await, Created::New);
    let mut deltas = Vec::new();
    for ((turn, attempt, body), seq) in bodies().into_iter().zip(1..) {
        let draft = Draft { turn, attempt, body };
        let data = format!(r#"{{"seq":{seq},"at":"",{}"#, draft.to_text());
        let kind = draft.body.kind();
        let stored = StoredEvent { seq: Seq(seq), kind, data: Arc::from(data) };
        let append = Append { events: vec![stored], ..to(run) };
        assert_eq!(node.append(vec![append]).await, Ok(vec![Appended::All]));
        let whole = bench.store.events(run, Seq(0), 100).await.expect("it is read");
        let log = bench.store.log_for_fold(run).await.expect("it is read");
        assert_eq!(fold(&log), fold(&whole), "after {seq} events");
        deltas.push(log.iter().filter(|event| matches!(event.kind, 3 | 4)).count());
    }
    // Only of an open attempt, and of one whose cut text stands.
    assert_eq!(deltas, [0, 1, 2, 0, 0, 1, 2, 0, 0, 1, 0, 0, 1, 2, 2]);
}

pub(crate) async fn a_run_is_found_by_its_id_and_by_its_clients_name_for_it(bench: Bench) {
    let name = "order-17";
    let create =
        Create { keys: vec![client_id(name)], public_id: name.to_owned(), ..intent("body") };
    let id = create.id;
    assert_eq!(bench.create_one(create.clone()).await, Created::New);
    for known in [id.to_string(), name.to_owned()] {
        let row = bench.store.find(TENANT, &known).await.expect("it is asked");
        let row = row.expect("it is found");
        assert_eq!((row.id, row.public_id.as_str()), (id, name));
        assert_eq!((&*row.spec, row.created_by.as_str()), (create.spec.as_str(), "local"));
        assert!(bench.store.find("other", &known).await.expect("it is asked").is_none());
    }
    let simple = id.0.simple().to_string();
    for unknown in [&*intent("").id.to_string(), "order-18", "", "a/b", &simple, "order-17\0"] {
        let row = bench.store.find(TENANT, unknown).await.expect("it is asked");
        assert!(row.is_none(), "{unknown:?}");
    }
}
