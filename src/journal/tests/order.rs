//! A property: whatever several drivers do at once, each log is what its driver gave, in order.

use proptest::prelude::*;
use tokio::task::JoinSet;

use super::bench::{Bench, joined, note, text, words};
use crate::journal::{Effects, Journal};
use crate::run::{RunId, Seq};
use crate::store::{Node, Store};

/// What a driver does next.
#[derive(Clone, Debug)]
enum Act {
    Push { item: u32, content: String },
    Append { notes: usize },
    CloseAndOpen,
    DropAndOpen,
    Yield,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => (1..3_u32, "[a-z\"ß]{1,5}").prop_map(|(item, content)| Act::Push { item, content }),
        1 => Just(Act::Push { item: 3, content: "x".repeat(70_000) }),
        3 => (0..4_usize).prop_map(|notes| Act::Append { notes }),
        1 => Just(Act::CloseAndOpen),
        1 => Just(Act::DropAndOpen),
        3 => Just(Act::Yield),
    ]
}

/// Does all of it; gives what was given, piece by piece.
async fn drive(
    journal: Journal,
    store: Store,
    node: Node,
    run: RunId,
    acts: Vec<Act>,
) -> Vec<String> {
    let mut given = Vec::new();
    let mut pen = journal.open(&node, run, Seq(1), 0).await.expect("it is opened");
    let mut told = 1;
    for act in acts {
        match act {
            Act::Push { item, content } => {
                pen.push(text(item, &content)).await.expect("it is taken");
                given.push(format!("{item}:{content}"));
            }
            Act::Append { notes } => {
                let drafts = (0..notes).map(note).collect();
                given.extend((0..notes).map(|number| format!("note {number}")));
                let committed =
                    pen.append(drafts, Effects::default()).await.expect("it is committed");
                for event in committed.events {
                    told += 1;
                    assert_eq!(event.seq.0, told, "a driver is told of every event, in order");
                }
            }
            closing @ (Act::CloseAndOpen | Act::DropAndOpen) => {
                match closing {
                    Act::DropAndOpen => {
                        drop(pen);
                        journal.close(run).await;
                    }
                    _ => pen.close().await,
                }
                let row = store.load(run).await.expect("it is read").expect("it is there");
                told = row.last_seq.0;
                pen = journal.open(&node, run, row.last_seq, 0).await.expect("it is opened");
            }
            Act::Yield => tokio::task::yield_now().await,
        }
    }
    pen.close().await;
    given
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn each_log_is_what_its_driver_gave(
        drivers in prop::collection::vec(prop::collection::vec(act(), 0..40), 1..5),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime starts");
        runtime.block_on(async {
            let bench = Bench::started().await;
            let mut tasks = JoinSet::new();
            for (run, acts) in bench.runs(drivers.len()).await.into_iter().zip(drivers) {
                let (journal, store) = (bench.journal.clone(), bench.store.clone());
                let node = bench.node.clone();
                tasks.spawn(async move { (run, drive(journal, store, node, run, acts).await) });
            }
            for (run, given) in tasks.join_all().await {
                let log = bench.log(run).await;
                assert!(log.iter().map(|event| event.seq.0).eq(1..=log.len() as u64));
                let logged = log[1..].iter().map(|event| words(&event.body));
                assert_eq!(joined(logged), joined(given));
            }
        });
    }
}
