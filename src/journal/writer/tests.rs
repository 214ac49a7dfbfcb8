//! How batches are formed: bounded, in order, and nobody is forgotten.

use super::*;
use crate::journal::journal;
use crate::run::Draft;
use crate::store::NodeId;

/// A writer over a store that is never asked.
async fn writer() -> (Writer, std::path::PathBuf) {
    let name = format!("runledger-writer-{}-{}", std::process::id(), uuid::Uuid::now_v7());
    let folder = std::env::temp_dir().join(name);
    let store = Store::open_sqlite(&folder).await.expect("the store opens");
    let (new_runs, _) = mpsc::channel(1);
    let (_journal, loops) = journal(store, Hub::alone(), new_runs);
    (loops.writer, folder)
}

fn run(number: u128) -> RunId {
    RunId(uuid::Uuid::from_u128(number))
}

fn open(run: RunId) -> Job {
    let node = Node::new(NodeId(1), "bench");
    Job::Open { node, run, pen: PenId(1), head: Seq(0), last_at_ms: 0 }
}

fn push(run: RunId, item: u32, content: String) -> Job {
    let text =
        Text { turn: 1, attempt: 1, item, is_reasoning: false, content, provider_metadata: None };
    Job::Push { run, pen: PenId(1), text }
}

fn append(run: RunId, notes: usize, only_if_inbox_n: Option<i64>) -> Job {
    let draft = Draft {
        turn: 1,
        attempt: 1,
        body: Body::Log {
            level: "info".to_owned(),
            message: "note".to_owned(),
            data: serde_json::Value::Null,
        },
    };
    let drafts = (0..notes).map(|_| Written::new(draft.clone())).collect();
    let (answer, _) = oneshot::channel();
    let effects = Effects { only_if_inbox_n, ..Effects::default() };
    Job::Append { run, pen: PenId(1), entry: Entry { drafts, effects, answer } }
}

/// What a batch holds: its runs in order, and the events of each.
fn shape(batch: &[Append]) -> Vec<(u128, usize)> {
    batch.iter().map(|append| (append.run.0.as_u128(), append.events.len())).collect()
}

/// Forms a batch and takes it as committed.
fn next(writer: &mut Writer) -> Vec<(u128, usize)> {
    let (batch, parts) = writer.assemble();
    let events: usize = batch.iter().map(|append| append.events.len()).sum();
    let bytes: usize =
        batch.iter().flat_map(|append| &append.events).map(|event| event.data.len()).sum();
    assert!(batch.len() <= 1 || (events <= 1000 && bytes <= 1024 * 1024), "{events}, {bytes}");
    let shape = shape(&batch);
    let done = vec![Appended::All; batch.len()];
    writer.committed(&batch, done, parts);
    shape
}

#[tokio::test]
async fn a_batch_is_bounded_and_what_is_left_goes_next_in_order() {
    let (mut writer, folder) = writer().await;
    for number in 1..=6 {
        writer.take(open(run(number)));
    }
    writer.take(append(run(1), 600, None));
    writer.take(append(run(2), 600, None));
    writer.take(append(run(3), 1, None));
    writer.take(append(run(4), 2500, None));
    for item in 0..20 {
        writer.take(push(run(5), item, "\u{1}".repeat(30_000)));
    }
    writer.take(push(run(6), 1, "x".to_owned()));
    assert_eq!(next(&mut writer), [(1, 600)]);
    assert!(writer.is_behind, "callers wait");
    assert_eq!(next(&mut writer), [(2, 600), (3, 1)]);
    assert_eq!(next(&mut writer), [(4, 2500)], "one that is too large for any goes alone");
    assert_eq!(next(&mut writer), [(5, 20)], "3.4 MiB once its control characters are escaped");
    assert_eq!(next(&mut writer), [(6, 1)]);
    assert!(!writer.is_behind && writer.ready.is_empty());
    assert_eq!(next(&mut writer), []);
    std::fs::remove_dir_all(folder).expect("it was there");
}

#[tokio::test]
async fn a_guarded_append_waits_for_its_text_and_then_goes_first() {
    let (mut writer, folder) = writer().await;
    for number in 1..=3 {
        writer.take(open(run(number)));
    }
    writer.take(push(run(1), 1, "x".to_owned()));
    writer.take(append(run(1), 1, Some(0)));
    writer.take(append(run(2), 999, None));
    writer.take(append(run(3), 1, Some(0)));
    assert_eq!(next(&mut writer), [(1, 1), (2, 999)]);
    assert_eq!(next(&mut writer), [(1, 1), (3, 1)]);
    assert_eq!(next(&mut writer), []);
    std::fs::remove_dir_all(folder).expect("it was there");
}

#[tokio::test]
async fn a_closed_run_is_forgotten_when_its_last_part_is_settled() {
    let (mut writer, folder) = writer().await;
    let close = || {
        let (done, forgotten) = oneshot::channel();
        (Job::Close { run: run(1), done }, forgotten)
    };
    writer.take(open(run(1)));
    writer.take(push(run(1), 1, "x".to_owned()));
    writer.take(append(run(1), 1, Some(0)));
    let ((first, mut forgotten), (second, mut forgotten_too)) = (close(), close());
    writer.take(first);
    writer.take(second);
    assert_eq!(next(&mut writer), [(1, 1)]);
    assert!(forgotten.try_recv().is_err(), "its append is not settled");
    assert_eq!(next(&mut writer), [(1, 1)]);
    assert_eq!((forgotten.try_recv(), forgotten_too.try_recv()), (Ok(()), Ok(())));
    assert!(writer.open.is_empty());
    let (job, mut forgotten) = close();
    writer.take(job);
    assert_eq!(forgotten.try_recv(), Ok(()), "whoever is not open is forgotten");
    std::fs::remove_dir_all(folder).expect("it was there");
}
