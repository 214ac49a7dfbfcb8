//! With many runs stored, nothing reads more than it needs: only the partition of a run's day, and no
//! table from end to end. PostgreSQL itself counts it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use runledger::run::{RunId, Seq};
use runledger::store::{Append, Create, Filter, LetGo, NodeId, TypeFilter};
use sqlx::postgres::PgConnection;

use crate::bench::{Bench, PATIENCE, TENANT, intent, key, texts};

/// Runs that have ended, as many each day, with three events each.
const SEED: &str = "with run as (
         select (lpad(to_hex((extract(epoch from now()) * 1000)::bigint + day * 86400000), 12, '0')
                 || '7' || substr(md5(n || '.' || day), 1, 3)
                 || '8' || substr(md5(day || '.' || n), 1, 15))::uuid as id
           from generate_series(-1, 7) as day, generate_series(1, 11200) as n
     ), stored as (
         insert into runs (id, public_id, tenant, status, last_seq, model, created_by, created_at,
                           finished_at, metadata, spec)
         select id, id::text, 'default', 'COMPLETED', 3, 'm', 'local', 0, 1, '{}', '{}' from run
         returning id
     )
     insert into events (run_id, seq, type, data)
     select id, seq, 3, '{\"seq\":1,\"type\":\"text\",\"content\":\"Hello\"}'
       from stored, generate_series(1, 3) as seq";

/// How often each partition was read from end to end, and by an index.
type Reads = BTreeMap<String, (i64, i64)>;

async fn reads(session: &mut PgConnection) -> Reads {
    let rows: Vec<(String, i64, i64)> = sqlx::query_as(
        "select relname::text, seq_scan, coalesce(idx_scan, 0) from pg_stat_user_tables
          where relname like 'runs\\_%' or relname like 'events\\_%'",
    )
    .fetch_all(session)
    .await
    .expect("it is counted");
    rows.into_iter().map(|(name, whole, index)| (name, (whole, index))).collect()
}

/// What has been read since, when all who read have told it.
async fn read_since(bench: &mut Bench, session: &mut PgConnection, before: &Reads) -> Reads {
    // A session tells what it counted at its end.
    bench.reopen_beside(session).await;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut since = reads(session).await;
        for (name, (whole, index)) in &mut since {
            let (whole_before, index_before) = before.get(name).copied().unwrap_or_default();
            *whole -= whole_before;
            *index -= index_before;
        }
        if since.values().any(|(_, index)| *index > 0) {
            return since;
        }
        assert!(Instant::now() < deadline, "nothing was read");
    }
}

async fn by_id(bench: &Bench, node: NodeId, times: &mut Times) -> Vec<RunId> {
    let creates: Vec<Create> = (0..50)
        .map(|n| {
            let keys = if n % 2 == 0 { vec![key(&n.to_string())] } else { vec![] };
            Create { owner: Some(node).filter(|_| n < 40), keys, ..intent("body") }
        })
        .collect();
    let runs: Vec<RunId> = creates.iter().take(40).map(|create| create.id).collect();
    bench.store.create(creates).await.expect("they are created");
    for _ in 0..10 {
        let more = (0..50).map(|_| Create { keys: vec![key(&intent("").public_id)], ..intent("") });
        let began = Instant::now();
        bench.store.create(more.collect()).await.expect("they are created");
        times.note("create 50 runs", began);
    }
    for number in 1..=20 {
        let head = 2 * number;
        let batch: Vec<Append> = runs.iter().map(|run| texts(*run, head..=head + 1)).collect();
        let number = runledger::store::BatchNumber(number);
        let began = Instant::now();
        bench.store.append(node, number, batch.into()).await.expect("it is committed");
        times.note("append to 40 runs 2 events each", began);
    }
    for run in &runs {
        let began = Instant::now();
        bench.row(*run).await;
        times.note("load a run", began);
        let began = Instant::now();
        assert_eq!(bench.store.events(*run, Seq(1), 500).await.expect("they are read").len(), 40);
        times.note("read 40 events", began);
        bench.store.log_for_fold(*run).await.expect("it is read");
        let filter = TypeFilter::Only(vec![3]);
        bench.store.events_before(*run, Seq(20), 9, &filter).await.expect("they are read");
        bench.store.find(TENANT, &run.to_string()).await.expect("it is found");
        bench.leave(*run, "note", "a").await;
        bench.store.inbox(*run).await.expect("it is read");
    }
    // So often, and of so many, that PostgreSQL would begin to plan for any ids.
    for _ in 0..12 {
        let many = runs.iter().cycle().take(1000).copied().collect();
        bench.store.positions(many).await.expect("they are read");
        let metadata = r#"{"user":"a"}"#.to_owned();
        let labelled = Create { metadata, ..intent("") };
        bench.store.create(vec![labelled]).await.expect("it is created");
    }
    runs
}

async fn by_owner_and_in_lists(bench: &Bench, node: NodeId, runs: &[RunId], times: &mut Times) {
    for run in &runs[..20] {
        let began = Instant::now();
        bench.store.requeue(node, *run, LetGo::ForSlot).await.expect("it is let go");
        times.note("let go of a run", began);
    }
    for _ in 0..10 {
        let began = Instant::now();
        bench.store.claim(node, 8).await.expect("the queue is read");
        times.note("claim", began);
        let began = Instant::now();
        bench.owned(node).await;
        times.note("heartbeat", began);
    }
    for _ in 0..10 {
        let below = runs.first().copied();
        let began = Instant::now();
        let newest = Filter { below, ..Filter::default() };
        bench.store.list(TENANT, &newest, 50).await.expect("they are listed");
        times.note("list 50 runs", began);
    }
    bench.store.counts().await.expect("they are counted");
    bench.successor().await;
}

/// How long things took; the median of each kind is told.
#[derive(Default)]
struct Times(BTreeMap<&'static str, Vec<Duration>>);

impl Times {
    fn note(&mut self, what: &'static str, began: Instant) {
        self.0.entry(what).or_default().push(began.elapsed());
    }

    fn tell(self) {
        for (what, mut took) in self.0 {
            took.sort();
            println!("{what}: {:?}", took[took.len() / 2]);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_reads_more_than_it_needs_of_100_000_runs() {
    let mut bench = Bench::postgres().await;
    let mut session = bench.session().await;
    let seeded = sqlx::raw_sql(SEED).execute(&mut session).await.expect("they are stored");
    sqlx::raw_sql("analyze").execute(&mut session).await.expect("they are looked at");
    let (node, _) = bench.store.register("plans").await.expect("it registers");
    let mut times = Times::default();

    let before = reads(&mut session).await;
    let runs = by_id(&bench, node, &mut times).await;
    let today: String =
        sqlx::query_scalar("select to_char(clock_timestamp() at time zone 'UTC', '_YYYYMMDD')")
            .fetch_one(&mut session)
            .await
            .expect("it is told");
    let since = read_since(&mut bench, &mut session, &before).await;
    for (name, (whole, index)) in &since {
        let is_of_today = name.ends_with(&today);
        assert_eq!((*whole, *index > 0), (0, is_of_today), "{name}, {today}: {since:?}");
    }

    let before = reads(&mut session).await;
    by_owner_and_in_lists(&bench, node, &runs, &mut times).await;
    let since = read_since(&mut bench, &mut session, &before).await;
    let whole: i64 = since.values().map(|(whole, _)| whole).sum();
    assert_eq!(whole, 0, "{since:?}");

    println!("row=plans faults_fired={} ops_ok={} value=0", seeded.rows_affected() / 3, runs.len());
    times.tell();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_read_from_end_to_end_before_the_statistics_know_of_it() {
    let mut bench = Bench::postgres().await;
    let mut session = bench.session().await;
    // They are told that all is empty, and nothing else until the end.
    sqlx::raw_sql(
        "do $$ declare part regclass; begin
             for part in select inhrelid from pg_inherits
                          where inhparent in ('runs'::regclass, 'events'::regclass) loop
                 execute format('alter table %s set (autovacuum_enabled = off)', part);
             end loop; end $$",
    )
    .execute(&mut session)
    .await
    .expect("they are told");
    sqlx::raw_sql("vacuum analyze").execute(&mut session).await.expect("they are told");
    let node = bench.node().await;
    let before = reads(&mut session).await;
    let mut runs = Vec::new();
    let mut times = Times::default();
    for _ in 0..40 {
        let owner = Some(node.id);
        let creates: Vec<Create> = (0..256).map(|_| Create { owner, ..intent("") }).collect();
        runs.extend(creates.iter().map(|create| create.id));
        let began = Instant::now();
        bench.store.create(creates).await.expect("they are created");
        times.note("create 256 runs", began);
    }
    for number in 1..=20 {
        let head = number + 1;
        let part = runs.iter().step_by(40);
        let batch: Vec<Append> = part.map(|run| texts(*run, head..=head)).collect();
        let number = runledger::store::BatchNumber(number);
        let began = Instant::now();
        bench.store.append(node.id, number, batch.into()).await.expect("it is committed");
        times.note("append to 256 runs", began);
    }
    bench.store.hand_over(node.id).await.expect("it stops");
    let next = bench.node().await;
    for _ in 0..10 {
        assert_eq!(next.claim_runs(64).await.len(), 64);
    }
    bench.row(runs[0]).await;
    bench.seqs(runs[0]).await;
    let since = read_since(&mut bench, &mut session, &before).await;
    let whole: i64 = since.values().map(|(whole, _)| whole).sum();
    assert_eq!(whole, 0, "{since:?}");
    println!("row=plans_of_a_new_day faults_fired=1 ops_ok={} value=0", runs.len());
    times.tell();
}
