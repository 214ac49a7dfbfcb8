//! The way to the database is disturbed: answers are lost, statements come late, connections go silent.

use std::sync::Arc;
use std::time::{Duration, Instant};

use runledger::run::{RunId, Seq};
use runledger::store::{Append, Appended, BatchNumber, Create, Created, Store, StoreError};
use sqlx::Connection;

use crate::bench::{Bench, Node, Place, intent, key, options, texts};
use crate::proxy::Proxy;
use crate::scale::scaled;

/// A store that reaches its database by a way that can be disturbed, and the same without.
async fn disturbed() -> (Bench, Proxy, Node) {
    let bench = Bench::postgres().await;
    let Place::Url(url) = &bench.place else { panic!("it is PostgreSQL") };
    let proxy = Proxy::to(url).await;
    let store = Store::open_postgres(options(&proxy.url)).await.expect("it opens");
    let (id, _) = store.register("disturbed").await.expect("it registers");
    (bench, proxy, Node { store, id, number: BatchNumber::default() })
}

/// Appends again and again with a lost answer, and sends each again; gives how often, how many of the
/// lost were committed, up to where the run was acknowledged, and what is not as it should be.
async fn through_lost_answers(is_protected: bool, times: usize) -> (usize, usize, u64, usize) {
    let (bench, proxy, mut node) = disturbed().await;
    if !is_protected {
        for condition in ["number = last.n", "number < last.n"] {
            assert_eq!(bench.change("commit_batch", condition, "false").await, 1);
        }
    }
    let run = node.born().await;
    let (mut head, mut lost, mut were_committed, mut wrong) = (1, 0, 0, 0);
    while lost < times {
        head += 1;
        assert_eq!(node.append(vec![texts(run, head..=head)]).await, Ok(vec![Appended::All]));
        let number = node.number.next();
        let batch: Vec<Append> = vec![texts(run, head + 1..=head + 2)];
        proxy.lose_next_answer("");
        let first = node.send(number, batch.clone()).await;
        let is_lost = proxy.has_lost_it() && first.is_err();
        lost += usize::from(is_lost);
        were_committed += usize::from(is_lost && bench.row(run).await.last_seq.0 == head + 2);
        if is_lost {
            assert!(matches!(first, Err(StoreError::Unavailable(_))), "{first:?}");
        }
        wrong += usize::from(node.send(number, batch).await.ok() != Some(vec![Appended::All]));
        node.number = number;
        head = if is_protected { head + 2 } else { bench.row(run).await.last_seq.0 };
    }
    wrong += usize::from(!bench.holds(run, head).await);
    (lost, were_committed, head, wrong)
}

impl Bench {
    /// Whether a run has the events that its node gave it, and no others.
    async fn holds(&self, run: RunId, head: u64) -> bool {
        let log = self.store.events(run, Seq(1), 100_000).await.expect("the log is read");
        log == texts(run, 2..=head).events
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_whose_answers_are_lost_are_committed_once() {
    let times = scaled(60, 200);
    let (lost, were_committed, head, wrong) = through_lost_answers(true, times).await;
    println!(
        "row=9 store=postgresql fault=lost-answers faults_fired={lost} ops_ok={head} \
         value={wrong} were_committed={were_committed}"
    );
    assert!(were_committed * 4 > lost * 3, "too few commits whose answers were lost");
    assert!(lost >= times && head >= 3 * times as u64, "too little to prove anything");
    assert_eq!(wrong, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_numbers_of_batches_what_is_sent_again_is_found_out() {
    let (lost, were_committed, head, wrong) = through_lost_answers(false, 10).await;
    println!("row=9 control=true faults_fired={lost} ops_ok={head} value={wrong}");
    assert!(wrong > 0 && wrong >= were_committed, "{wrong} {were_committed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn creates_whose_answers_are_lost_are_one_run_each() {
    let (bench, proxy, node) = disturbed().await;
    let times = scaled(30, 200);
    let (mut lost, mut ok, mut wrong) = (0, 0, 0);
    while lost < times {
        let keys = if ok % 2 == 0 { vec![key(&format!("{ok}"))] } else { vec![] };
        let create = Create { keys, owner: Some(node.id), ..intent("body") };
        proxy.lose_next_answer("");
        let first = node.store.create(vec![create.clone()]).await;
        lost += usize::from(proxy.has_lost_it() && first.is_err());
        let again = node.store.create(vec![create.clone()]).await.expect("it is there");
        let is_right = again == [Created::New] && bench.seqs(create.id).await == [1];
        wrong += usize::from(!is_right);
        ok += 1;
    }
    let owned = bench.owned(node.id).await.len();
    wrong += owned.abs_diff(ok);
    println!("row=29 fault=lost-answers-of-creates faults_fired={lost} ops_ok={ok} value={wrong}");
    assert_eq!(wrong, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_that_come_after_their_deadline_change_nothing() {
    let times = scaled(8, 200);
    let (mut fired, mut wrong) = (0, 0);
    while fired < times {
        let together = (times - fired).min(25);
        let rounds = (fired..fired + together).map(|round| late_append(round % 8));
        wrong += futures_util::future::join_all(rounds).await.iter().filter(|held| !**held).count();
        fired += together;
    }
    println!(
        "row=9 store=postgresql fault=late-statements faults_fired={fired} ops_ok={fired} \
         value={wrong}"
    );
    assert_eq!(wrong, 0);
}

/// A statement comes through after its deadline; whether the log is what it was said to be.
async fn late_append(round: usize) -> bool {
    let (bench, proxy, mut node) = disturbed().await;
    let run = node.born().await;
    assert_eq!(node.append(vec![texts(run, 2..=2)]).await, Ok(vec![Appended::All]));
    proxy.hold();
    let number = node.number.next();
    let batch = Arc::new(vec![texts(run, 3..=4)]);
    let late = node.store.append(node.id, number, Arc::clone(&batch)).await;
    assert!(matches!(late, Err(StoreError::Unavailable(_))), "{late:?}");
    assert_eq!(bench.seqs(run).await, [1, 2], "it is still on its way");
    let mut last = 4;
    // The control: where it is not sent again, the late one is the first, and is committed.
    if round > 0 {
        let again = node.store.append(node.id, number, batch).await;
        assert_eq!(again.expect("it is committed"), [Appended::All]);
    }
    if matches!(round, 2 | 4 | 6) {
        let next = Arc::new(vec![texts(run, 5..=5)]);
        let next = node.store.append(node.id, number.next(), next).await;
        assert_eq!(next.expect("it is committed"), [Appended::All]);
        last = 5;
    }
    proxy.release();
    nothing_is_under_way(&bench, i64::from(round > 0)).await;
    bench.holds(run, last).await
}

/// Waits until what was held has come through: the sessions of the disturbed store that were left
/// behind have done what they were sent, and seen that nobody is there any more; so many are in use.
async fn nothing_is_under_way(bench: &Bench, open: i64) {
    let mut session = bench.session().await;
    let deadline = Instant::now() + crate::bench::PATIENCE;
    loop {
        let appending: i64 = sqlx::query_scalar(
            "select count(*) from pg_stat_activity
              where datname = current_database() and application_name = 'runledger append'",
        )
        .fetch_one(&mut session)
        .await
        .expect("it is counted");
        if appending == open {
            break;
        }
        assert!(Instant::now() < deadline, "{appending} sessions are left");
        tokio::task::yield_now().await;
    }
    session.close().await.expect("it is closed");
}

/// A client's statement has three seconds, and one more is what a new connection may take.
const SILENCE_MAX: Duration = Duration::from_secs(4);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_goes_silent_costs_one_deadline() {
    let (bench, proxy, node) = disturbed().await;
    let times = scaled(2, 20);
    let (mut slowest, mut late) = (Duration::ZERO, 0);
    for _ in 0..times {
        // Several connections, all of which are about to be silent.
        let counts = futures_util::future::join_all((0..6).map(|_| node.store.counts())).await;
        assert!(counts.iter().all(Result::is_ok), "{counts:?}");
        proxy.hold();
        let began = Instant::now();
        let silent = node.store.counts().await;
        assert!(matches!(silent, Err(StoreError::Unavailable(_))), "{silent:?}");
        node.store.counts().await.expect("it has a new connection");
        slowest = slowest.max(began.elapsed());
        late += usize::from(began.elapsed() > SILENCE_MAX);
    }
    println!(
        "row=8 fault=silent-connections faults_fired={times} ops_ok={times} value={late} \
         back_ms={}",
        slowest.as_millis()
    );
    assert!(slowest < 2 * SILENCE_MAX, "{slowest:?}");
    drop(bench);
}

/// The control: a connection that nobody gives a deadline waits for as long as it is silent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_deadline_a_silent_connection_is_waited_for() {
    let (bench, proxy, _node) = disturbed().await;
    let mut bare = sqlx::postgres::PgConnection::connect(&proxy.url).await.expect("it connects");
    bare.ping().await.expect("it answers");
    proxy.part();
    let began = Instant::now();
    let answered = tokio::time::timeout(SILENCE_MAX, bare.ping()).await;
    let late = usize::from(answered.is_err());
    println!(
        "row=8 control=true faults_fired=1 value={late} waited_ms={}",
        began.elapsed().as_millis()
    );
    assert_eq!(late, 1, "{answered:?}");
    drop(bench);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_too_long_for_a_lock_is_told_and_the_next_goes_on() {
    let bench = Bench::postgres().await;
    let node = bench.node().await;
    let run = node.born().await;
    let mut session = bench.session().await;
    let mut open = session.begin().await.expect("it begins");
    sqlx::query("select from runs where id = $1 for update")
        .bind(run.0)
        .execute(&mut *open)
        .await
        .expect("it is held");
    let began = Instant::now();
    let note = runledger::store::InboxNote {
        kind: "note",
        dedupe_key: "a".to_owned(),
        body: "{}".to_owned(),
    };
    let late = bench.store.leave(crate::bench::TENANT, run, note).await;
    let Err(StoreError::Unavailable(told)) = late else { panic!("{late:?}") };
    assert!(told.contains("statement timeout"), "the server's word comes first: {told}");
    assert!(began.elapsed() < Duration::from_secs(4));
    open.rollback().await.expect("it is let go");
    assert_eq!(
        bench.leave(run, "note", "a").await,
        runledger::store::Left::Accepted(Some(node.id))
    );
    assert_eq!(bench.row(run).await.inbox_n, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_text_that_postgresql_can_not_keep_is_refused_as_data() {
    let bench = Bench::postgres().await;
    let mut node = bench.node().await;
    let run = node.born().await;
    let mut append = texts(run, 2..=2);
    append.events[0].data = Arc::from("a\0b");
    let refused = node.send(node.number.next(), vec![append]).await;
    assert!(matches!(refused, Err(StoreError::Data(_))), "{refused:?}");
    let spec = Create { spec: "\0".to_owned(), ..intent("") };
    let refused = bench.store.create(vec![spec]).await;
    assert!(matches!(refused, Err(StoreError::Data(_))), "{refused:?}");
    assert_eq!(node.append(vec![texts(run, 2..=2)]).await, Ok(vec![Appended::All]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn creates_that_are_asked_one_at_a_time_need_more_than_one_deadline() {
    let bench = Bench::postgres().await;
    // Each takes an eighth of a second; all together longer than a deadline.
    sqlx::raw_sql(
        "create function be_slow() returns trigger language plpgsql as
             $$ begin perform pg_sleep(0.125); return null; end $$;
         create trigger slow before insert on run_keys for each statement execute function be_slow()",
    )
    .execute(&mut bench.session().await)
    .await
    .expect("it is slow from now on");
    let two_keys = |n: usize| {
        let name = runledger::store::Key {
            kind: runledger::store::KeyKind::RunId,
            key: format!("name-{n}"),
        };
        Create { keys: vec![key(&n.to_string()), name], ..intent("body") }
    };
    let batch: Vec<Create> = (0..44).map(two_keys).collect();
    let began = Instant::now();
    let created = bench.store.create(batch).await.expect("they are created");
    assert_eq!(created, [Created::New; 44]);
    let took = began.elapsed();
    assert!(took > Duration::from_secs(5), "the control: one deadline would not do: {took:?}");
}
