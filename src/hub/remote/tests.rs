//! What is heard of other nodes: notices in any order, lost ones, and what is told to whom.

use std::sync::Mutex;

use super::*;
use crate::hub::SOON;
use crate::store::StoredEvent;

fn run(number: u128) -> RunId {
    RunId(uuid::Uuid::from_u128(number))
}

fn event(seq: u64) -> [StoredEvent; 1] {
    [StoredEvent { seq: Seq(seq), kind: 3, data: Arc::from("{}") }]
}

/// A hub of node 1 whose notices are read here, and what it was woken for.
struct Bench {
    hub: Hub,
    remote: Remote,
    woken: Arc<Mutex<Vec<String>>>,
    _folder: tempfile::TempDir,
}

impl Bench {
    async fn new() -> Bench {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open_sqlite(folder.path()).await.expect("the store opens");
        let woken = Arc::new(Mutex::new(Vec::new()));
        let (queued, news) = (Arc::clone(&woken), Arc::clone(&woken));
        let wakes = Wakes {
            node: Arc::new(|| NodeId(1)),
            queued: Arc::new(move || queued.lock().unwrap().push("queued".to_owned())),
            news: Arc::new(move |run| news.lock().unwrap().push(format!("news of {run}"))),
        };
        let (hub, remote) = Hub::among_others(store, wakes);
        Bench { hub, remote, woken, _folder: folder }
    }

    fn hear(&self, notice: Notice) {
        heard(notice, &self.hub, &self.remote.wakes);
    }

    fn told(&mut self) -> Vec<Notice> {
        std::iter::from_fn(|| self.remote.notices.try_recv().ok()).collect()
    }
}

#[tokio::test]
async fn a_commit_elsewhere_wakes_a_listener_who_then_reads_the_store() {
    let bench = Bench::new().await;
    let mut watch = bench.hub.watch(run(1));
    bench.hub.advance([(run(1), event(1).as_slice())]);
    assert!(watch.tail(Seq(0)).is_some());
    for seq in [4, 3, 4] {
        bench.hear(Notice::Committed(run(1), Seq(seq)));
    }
    watch.beyond(Seq(3)).await;
    assert_eq!(watch.position(), Seq(4));
    assert!(watch.tail(Seq(0)).is_none(), "memory has 1 only");
    assert!(watch.tail(Seq(1)).is_none(), "and an empty tail would say that nothing came");
    bench.hub.advance([(run(1), event(5).as_slice())]);
    assert_eq!(watch.tail(Seq(4)).map(|tail| tail.len()), Some(1), "it is driven here again");
}

#[tokio::test]
async fn others_are_told_of_a_runs_commits_only_while_they_listen_to_it() {
    let mut bench = Bench::new().await;
    bench.hub.advance([(run(1), event(1).as_slice())]);
    assert_eq!(bench.told(), []);
    bench.hear(Notice::Listened(run(1)));
    bench.hub.advance([(run(1), event(2).as_slice()), (run(2), event(1).as_slice())]);
    assert_eq!(bench.told(), [Notice::Committed(run(1), Seq(2))]);
    tokio::time::pause();
    tokio::time::advance(LISTENED + Duration::from_secs(1)).await;
    bench.hub.forget_listened();
    bench.hub.advance([(run(1), event(3).as_slice())]);
    assert_eq!(bench.told(), []);
}

#[tokio::test]
async fn a_listener_asks_for_notices_of_runs_that_are_driven_elsewhere() {
    let mut bench = Bench::new().await;
    bench.hub.set_local(run(1), true);
    let (mut first, mut second) = (bench.hub.watch(run(1)), bench.hub.watch(run(2)));
    let mut third = bench.hub.watch(run(2));
    assert_eq!(bench.told(), [], "whoever only looks at it needs no notices");
    tokio::time::pause();
    let waited = tokio::time::timeout(Duration::ZERO, second.beyond(Seq(0))).await;
    assert!(waited.is_err(), "nothing came");
    assert_eq!(bench.told(), [], "it may have just been created here");
    for waiting in [&mut first, &mut second, &mut third] {
        let waited = tokio::time::timeout(2 * SOON, waiting.beyond(Seq(0))).await;
        assert!(waited.is_err(), "nothing came");
    }
    assert_eq!(bench.told(), [Notice::Listened(run(2))]);
    assert_eq!(bench.hub.remote(), [run(2)]);
    bench.hub.set_local(run(1), false);
    assert_eq!(bench.told(), [Notice::Listened(run(1))], "it left this node under a listener");
    assert_eq!(bench.hub.remote().len(), 2);
}

#[tokio::test]
async fn a_run_that_is_only_being_created_is_not_missed() {
    let bench = Bench::new().await;
    let (expected, _known) = (bench.hub.expect(run(1)), bench.hub.watch(run(2)));
    assert_eq!(bench.hub.remote(), [run(2)], "the store does not have it yet");
    bench.hub.advance([(run(1), event(1).as_slice())]);
    assert_eq!(bench.hub.remote(), [run(1), run(2)], "now it has");
    assert_eq!(expected.position(), Seq(1));
}

#[tokio::test]
async fn news_are_for_the_node_that_they_name() {
    let bench = Bench::new().await;
    bench.hear(Notice::News(NodeId(2), run(1)));
    bench.hear(Notice::News(NodeId(1), run(2)));
    bench.hear(Notice::Queued);
    let woken = bench.woken.lock().unwrap().clone();
    assert_eq!(woken, [format!("news of {}", run(2)), "queued".to_owned()]);
}

#[tokio::test]
async fn a_run_that_is_gone_ends_the_wait_of_its_listeners() {
    let bench = Bench::new().await;
    let Bench { hub, remote, .. } = bench;
    let mut watch = hub.watch(run(1));
    let over = CancellationToken::new();
    let looking = tokio::spawn(remote.run(over.clone()));
    watch.beyond(Seq(1_000_000)).await;
    over.cancel();
    looking.await.expect("it does not panic");
}
