//! Several nodes at one PostgreSQL: leases, who takes over, and from whom.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use runledger::run::RunId;
use runledger::store::{BatchNumber, Create, Created, NodeId, PostgresOptions, Store, StoreError};
use sqlx::Connection;
use sqlx::postgres::PgConnection;

use crate::bench::{Bench, Node, PATIENCE, Place, intent, key, options, texts};
use crate::sessions::waiting;

impl Bench {
    /// A node's lease ends, without its knowing.
    async fn end_lease(&self, node: NodeId) {
        sqlx::query("update node_leases set lease_until = '-infinity' where node_id = $1")
            .bind(node.0)
            .execute(&mut self.session().await)
            .await
            .expect("its lease ends");
    }

    async fn rescue(&self, me: &Node) -> u64 {
        self.store.rescue(me.id).await.expect("it looks for dead nodes").crashed
    }

    async fn owner(&self, run: RunId) -> Option<i64> {
        sqlx::query_scalar("select node_id from runs where id = $1")
            .bind(run.0)
            .fetch_one(&mut self.session().await)
            .await
            .expect("it is read")
    }
}

/// What a node does as it dies: it makes a run of its own, and has not committed yet.
async fn give_birth(open: &mut PgConnection, node: NodeId) -> RunId {
    let run = intent("").id;
    sqlx::query("select from nodes where node_id = $1 and dead_at is null for share")
        .bind(node.0)
        .execute(&mut *open)
        .await
        .expect("it lives");
    sqlx::query(
        "insert into runs (id, public_id, tenant, status, node_id, last_seq, model, created_by,
                           created_at, metadata, spec)
         values ($1, '', 'default', 'RUNNING', $2, 0, '', '', 0, '{}', '{}')",
    )
    .bind(run.0)
    .bind(node.0)
    .execute(open)
    .await
    .expect("it is made");
    run
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_nodes_live_side_by_side() {
    let bench = Bench::postgres().await;
    let mut nodes = Vec::new();
    for _ in 0..4 {
        nodes.push(bench.node().await);
    }
    let mut owned = Vec::new();
    for node in &mut nodes {
        let run = node.started().await;
        owned.push(run);
        assert_eq!(bench.rescue(node).await, 0);
    }
    for (node, run) in nodes.iter().zip(&owned) {
        assert_eq!(bench.owned(node.id).await, [*run]);
    }
    let waiting: BTreeSet<RunId> = {
        let mut runs = BTreeSet::new();
        for _ in 0..100 {
            runs.insert(bench.queued().await);
        }
        runs
    };
    let claims = nodes.iter().map(|node| node.claim_runs(40));
    let claimed = futures_util::future::join_all(claims).await;
    let all: Vec<RunId> = claimed.concat();
    assert_eq!(
        all.iter().copied().collect::<BTreeSet<_>>().len(),
        all.len(),
        "each is claimed once"
    );
    assert!(all.iter().all(|run| waiting.contains(run)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_node_takes_its_share_by_free_slots() {
    let bench = Bench::postgres().await;
    let (a, b, dead) = (bench.node().await, bench.node().await, bench.node().await);
    let beat = async |node: &Node, slots, busy| {
        bench.store.heartbeat(node.id, slots, busy).await.expect("it lives");
    };
    beat(&a, 40, 10).await;
    beat(&b, 10, 0).await;
    beat(&dead, 1000, 0).await;
    bench.end_lease(dead.id).await;
    let mut waiting = Vec::new();
    for at in 0..40 {
        waiting.push(bench.queued_at(at).await);
    }
    let claims = bench.store.claim(a.id, 30).await.expect("the queue is read");
    let taken: Vec<RunId> = claims.runs.iter().map(|one| one.run).collect();
    assert_eq!(taken, waiting[..30], "30 of 40 free slots are here");
    assert!(claims.is_more, "the rest is another's");
    beat(&a, 40, 40).await;
    let claims = bench.store.claim(b.id, 10).await.expect("the queue is read");
    assert_eq!((claims.runs.len(), claims.is_more), (10, false));
    for at in 0..20 {
        bench.queued_at(at).await;
    }
    beat(&a, 1000, 0).await;
    assert_eq!(b.claim_runs(100).await.len(), 8, "a few in any case");
    assert_eq!(b.claim_runs(5).await.len(), 5, "never more than its slots");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_runs_of_a_node_whose_lease_ended_are_taken_over() {
    let bench = Bench::postgres().await;
    let Place::Url(url) = &bench.place else { panic!("it is PostgreSQL") };
    let short = PostgresOptions { lease: Duration::from_millis(300), ..options(url) };
    let dying = Store::open_postgres(short).await.expect("it opens");
    let (id, _) = dying.register("dying").await.expect("it registers");
    let mut dead = Node { store: dying, id, number: BatchNumber::default() };
    let node = bench.node().await;
    let (started, waiting) = (dead.started().await, dead.born().await);
    let deadline = Instant::now() + PATIENCE;
    while bench.rescue(&node).await == 0 {
        assert!(Instant::now() < deadline, "nobody takes over");
        tokio::task::yield_now().await;
    }
    let beat = dead.store.heartbeat(id, 1, 0).await;
    assert!(matches!(beat, Err(StoreError::Fenced)), "{beat:?}");
    let claim = dead.store.claim(id, 1).await;
    assert!(matches!(claim, Err(StoreError::Fenced)), "{claim:?}");
    assert_eq!(dead.append(vec![texts(started, 3..=3)]).await, Err(StoreError::Fenced.to_string()));
    let born = bench.create_one(Create { owner: Some(id), ..intent("") }).await;
    assert_eq!(born, Created::Fenced);
    let claimed = node.claim_runs(9).await;
    assert_eq!(claimed.into_iter().collect::<BTreeSet<_>>(), BTreeSet::from([started, waiting]));
    assert_eq!((bench.row(started).await.crashes, bench.row(waiting).await.crashes), (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_takes_over_from_itself_nor_twice() {
    let bench = Bench::postgres().await;
    let (a, b) = (bench.node().await, bench.node().await);
    let mut dead = bench.node().await;
    let run = dead.started().await;
    bench.end_lease(a.id).await;
    bench.end_lease(dead.id).await;
    assert_eq!(bench.rescue(&a).await, 1, "its own lease is for others");
    assert_eq!(bench.rescue(&a).await, 0);
    assert_eq!(bench.owned(a.id).await, [], "it lives as long as nobody has found it dead");
    bench.end_lease(a.id).await;
    assert_eq!(bench.rescue(&b).await, 0, "it had no runs");
    assert!(matches!(bench.store.heartbeat(a.id, 1, 0).await, Err(StoreError::Fenced)));
    assert_eq!(bench.row(run).await.crashes, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rescue_sees_what_the_dead_node_committed_last() {
    let bench = Bench::postgres().await;
    let mut session = bench.session().await;
    let mut watch = bench.session().await;
    // The control does it in one statement, which looks with eyes from before its wait.
    let one_statement = "with dead as (
             update nodes set dead_at = now_ms() where node_id = $2 returning node_id),
         freed as (
             update runs set node_id = null from dead where runs.node_id = dead.node_id
             returning id, tenant)
         insert into queue (run_id, kind, reason, tenant, priority, run_at)
         select id, 'drive', 'crash', tenant, 0, 0 from freed where $1 > 0";
    for (rescue, is_orphaned) in
        [("select rescue_node($1) where $2 > 0", false), (one_statement, true)]
    {
        let (node, dying) = (bench.node().await, bench.node().await);
        let mut open = session.begin().await.expect("it begins");
        let run = give_birth(&mut open, dying.id).await;
        bench.end_lease(dying.id).await;
        let mut rescuer = bench.session().await;
        let rescue = sqlx::query(rescue).bind(node.id.0).bind(dying.id.0).execute(&mut rescuer);
        let last = async {
            waiting(&mut watch, 1).await;
            open.commit().await.expect("it was in time");
        };
        let (rescued, ()) = tokio::join!(rescue, last);
        rescued.expect("it takes over");
        let place = bench.store.queue_position(run).await.expect("it is read");
        let found = (bench.owner(run).await, place.is_some());
        let expected = if is_orphaned { (Some(dying.id.0), false) } else { (None, true) };
        assert_eq!(found, expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_created_while_its_node_is_declared_dead_is_refused() {
    let bench = Bench::postgres().await;
    let node = bench.node().await;
    let mut session = bench.session().await;
    let mut watch = bench.session().await;
    let mut open = session.begin().await.expect("it begins");
    sqlx::query("update nodes set dead_at = 1 where node_id = $1")
        .bind(node.id.0)
        .execute(&mut *open)
        .await
        .expect("it is declared dead");
    let born = Create { owner: Some(node.id), keys: vec![key("a")], ..intent("body") };
    let other = intent("body");
    // A create waits for the fence for 200 ms at a time, a few times.
    let create = bench.store.create(vec![born.clone(), other.clone()]);
    let end = async {
        waiting(&mut watch, 1).await;
        open.commit().await.expect("it ends");
    };
    let (created, ()) = tokio::join!(create, end);
    assert_eq!(created.ok(), Some(vec![Created::Fenced, Created::New]));
    assert!(bench.store.load(born.id).await.expect("it is read").is_none());
    let queued = Create { owner: None, ..born };
    assert_eq!(bench.create_one(queued).await, Created::New, "its key is still free");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_dead_node_does_not_end_is_ended() {
    let bench = Bench::postgres().await;
    let (node, dead) = (bench.node().await, bench.node().await);
    let mut session = bench.session().await;
    let mut open = session.begin().await.expect("it begins");
    let run = give_birth(&mut open, dead.id).await;
    bench.end_lease(dead.id).await;
    let began = Instant::now();
    assert_eq!(bench.rescue(&node).await, 0, "what was not committed is not there");
    let took = began.elapsed();
    println!("row=stopped_commit faults_fired=1 ops_ok=1 value={took:?}");
    assert!(took < Duration::from_secs(3), "{took:?}");
    open.commit().await.expect_err("it was ended");
    assert!(bench.store.load(run).await.expect("it is read").is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stops_in_its_claim_holds_up_no_rescue_of_another() {
    let bench = Bench::postgres().await;
    let (stopped, mut dead) = (bench.node().await, bench.node().await);
    let node = bench.node().await;
    let claimed = bench.queued().await;
    let lost = dead.started().await;
    // Worse than any node of ours, whose claims are one statement.
    let mut session = bench.session().await;
    let mut open = session.begin().await.expect("it begins");
    let claim = sqlx::query("select claim_runs($1, 9)").bind(stopped.id.0);
    claim.execute(&mut *open).await.expect("it claims");
    bench.end_lease(dead.id).await;
    let began = Instant::now();
    assert_eq!(bench.rescue(&node).await, 1);
    let took = began.elapsed();
    println!("row=stopped_claim faults_fired=1 ops_ok=1 value={took:?}");
    assert!(took < Duration::from_secs(3), "{took:?}");
    assert_eq!(node.claim_runs(9).await, [lost]);
    bench.end_lease(stopped.id).await;
    assert_eq!(bench.rescue(&node).await, 0, "its claim was not committed");
    open.commit().await.expect_err("it was ended");
    assert_eq!(node.claim_runs(9).await, [claimed]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_whose_claims_answer_was_lost_show_in_the_heartbeat() {
    let bench = Bench::postgres().await;
    let node = bench.node().await;
    let run = bench.queued().await;
    let (mut session, mut watch) = (bench.session().await, bench.session().await);
    let mut open = session.begin().await.expect("it begins");
    sqlx::query("select from nodes where node_id = $1 for update")
        .bind(node.id.0)
        .execute(&mut *open)
        .await
        .expect("its fence is held");
    {
        let mut claim = std::pin::pin!(node.claim(9));
        tokio::select! {
            biased;
            claimed = &mut claim => panic!("it must wait: {claimed:?}"),
            () = waiting(&mut watch, 1) => {}
        }
        // Nobody is there for the answer any more.
    }
    open.rollback().await.expect("it is let go");
    let deadline = Instant::now() + PATIENCE;
    while bench.owned(node.id).await != [run] {
        assert!(Instant::now() < deadline, "the claim was not made");
    }
    assert_eq!(node.claim_runs(9).await, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clean_stop_and_a_rescue_of_the_same_node_do_not_wait_for_each_other() {
    let bench = Bench::postgres().await;
    let node = bench.node().await;
    let (mut late, mut in_time) = (bench.node().await, bench.node().await);
    let (rescued, handed_over) = (late.started().await, in_time.started().await);
    let (mut session, mut watch) = (bench.session().await, bench.session().await);
    // The rescue comes first.
    bench.end_lease(late.id).await;
    let mut open = session.begin().await.expect("it begins");
    let rescue = sqlx::query("select rescue_node($1)").bind(node.id.0);
    rescue.execute(&mut *open).await.expect("it takes over");
    let stop = bench.store.hand_over(late.id);
    let end = async {
        waiting(&mut watch, 1).await;
        open.commit().await.expect("it ends");
    };
    let (stopped, ()) = tokio::join!(stop, end);
    assert_eq!(stopped.ok(), Some(0), "nothing is left to hand over");
    // The clean stop comes first.
    bench.end_lease(in_time.id).await;
    let mut open = session.begin().await.expect("it begins");
    let stop = sqlx::query("select hand_over($1)").bind(in_time.id.0);
    stop.execute(&mut *open).await.expect("it stops");
    assert_eq!(bench.rescue(&node).await, 0, "there is nobody to rescue");
    open.commit().await.expect("it ends");
    assert_eq!(bench.rescue(&node).await, 0);
    let crashes = (bench.row(rescued).await.crashes, bench.row(handed_over).await.crashes);
    assert_eq!(crashes, (1, 0));
    assert_eq!(node.claim_runs(9).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_is_renewed_though_nobody_can_tell_what_the_node_owns() {
    let bench = Bench::postgres().await;
    let Place::Url(url) = &bench.place else { panic!("it is PostgreSQL") };
    let short = PostgresOptions { lease: Duration::from_secs(2), ..options(url) };
    let store = Store::open_postgres(short).await.expect("it opens");
    let (id, _) = store.register("slow").await.expect("it registers");
    let node = Node { store, id, number: BatchNumber::default() };
    let run = node.born().await;
    let mut session = bench.session().await;
    let mut open = session.begin().await.expect("it begins");
    sqlx::query("lock table runs in access exclusive mode")
        .execute(&mut *open)
        .await
        .expect("nobody looks at runs");
    bench.end_lease(id).await;
    let began = Instant::now();
    let beat = node.store.heartbeat(id, 1, 0).await.expect("its lease is renewed");
    assert!(!beat.is_listed && beat.owned.is_empty(), "{beat:?}");
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    let is_renewed: bool =
        sqlx::query_scalar("select lease_until > now() from node_leases where node_id = $1")
            .bind(id.0)
            .fetch_one(&mut bench.session().await)
            .await
            .expect("it is read");
    assert!(is_renewed);
    open.rollback().await.expect("it is let go");
    let deadline = Instant::now() + PATIENCE;
    loop {
        let beat = node.store.heartbeat(id, 1, 0).await.expect("it lives");
        if beat.is_listed {
            assert_eq!(beat.owned, [run]);
            break;
        }
        assert!(Instant::now() < deadline, "it is never listed");
    }
    node.store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_a_run_of_a_dead_node_in_hand_comes_to_the_end() {
    let bench = Bench::postgres().await;
    let (node, mut dead) = (bench.node().await, bench.node().await);
    for is_in_time in [true, false] {
        let run = dead.started().await;
        let (mut session, mut watch) = (bench.session().await, bench.session().await);
        let mut open = session.begin().await.expect("it begins");
        sqlx::query("select leave_note('default', $1, 'note', 'a', '{}')")
            .bind(run.0)
            .execute(&mut *open)
            .await
            .expect("it is left");
        bench.end_lease(dead.id).await;
        let began = Instant::now();
        let rescue = bench.rescue(&node);
        let end = async {
            waiting(&mut watch, 1).await;
            // The first round is over after half a second, the second after a whole one.
            while began.elapsed() < Duration::from_millis(700) {
                tokio::task::yield_now().await;
            }
            if is_in_time {
                open.commit().await.expect("it was spared");
            } else {
                waiting(&mut watch, 0).await;
                open.commit().await.expect_err("the control: it was ended");
            }
        };
        let (rescued, ()) = tokio::join!(rescue, end);
        assert_eq!(rescued, 1);
        let claimed = node.claim(9).await;
        assert_eq!(claimed.len(), 1);
        assert_eq!((claimed[0].run, claimed[0].for_inbox), (run, is_in_time));
        dead = bench.node().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_and_drivers_and_the_beginnings_of_nodes_wait_for_no_others() {
    let bench = Bench::postgres().await;
    let node = bench.node().await;
    let (run, other) = (node.born().await, node.born().await);
    let (mut session, mut watch) = (bench.session().await, bench.session().await);
    // Four connections of drivers and four of readers wait for this.
    for (drivers, clients) in [(4, 0), (0, 4)] {
        let mut open = session.begin().await.expect("it begins");
        sqlx::query("select from runs where id = $1 for update")
            .bind(run.0)
            .execute(&mut *open)
            .await
            .expect("it is held");
        let mut busy = tokio::task::JoinSet::new();
        for _ in 0..drivers {
            let (store, me) = (bench.store.clone(), node.id);
            let why = runledger::store::LetGo::ForSlot;
            busy.spawn(async move { drop(store.requeue(me, run, why).await) });
        }
        for n in 0..clients {
            let store = bench.store.clone();
            let note = runledger::store::InboxNote {
                kind: "note",
                dedupe_key: format!("{n}"),
                body: "{}".to_owned(),
            };
            busy.spawn(async move { drop(store.leave(crate::bench::TENANT, run, note).await) });
        }
        waiting(&mut watch, drivers + clients).await;
        if drivers > 0 {
            bench.store.load_for_client(other).await.expect("clients read");
            bench.store.log_for_client(other).await.expect("clients read");
            bench.store.ping().await.expect("clients read");
            let (next, _) = bench.store.register("next").await.expect("nodes begin");
            bench.store.hand_over(next).await.expect("nodes end");
        } else {
            bench.store.load(other).await.expect("drivers read");
            bench.store.log_for_fold(other).await.expect("drivers read");
        }
        let (mine, is_held) = (busy.len(), busy.try_join_next().is_none());
        assert!(is_held, "the control: {mine} wait still");
        open.rollback().await.expect("it is let go");
        while busy.join_next().await.is_some() {}
    }
}
