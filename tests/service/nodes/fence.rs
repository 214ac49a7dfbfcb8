//! The fence: a dead node writes nothing, and where the database lets it write, it is found.

use std::sync::Arc;
use std::time::Duration;

use sqlx::{Connection, Executor};

use super::Nodes;
use super::storm::metric;
use crate::client::of;
use crate::recovery::violations;
use crate::service::Service;
use crate::stub::Do;

/// Takes the fence out of the function that appends: it asks neither whether the node lives nor whether
/// it owns the runs.
async fn cut_the_fence(nodes: &Nodes) {
    // The schema comes with a node.
    drop(nodes.start().await.kill().await);
    let mut connection = sqlx::postgres::PgConnection::connect(&nodes.url).await.unwrap();
    let (mut function,): (String,) =
        sqlx::query_as("select pg_get_functiondef('commit_batch'::regproc)")
            .fetch_one(&mut connection)
            .await
            .unwrap();
    for (fence, without) in [
        ("where node_id = me and dead_at is null", "where node_id = me"),
        (" and node_id is not distinct from me", ""),
        // A dead node's row is gone from here as well.
        (
            "select n, answers into strict last",
            "insert into node_batches values (me, 0, '') on conflict do nothing;
             select n, answers into strict last",
        ),
    ] {
        assert_eq!(function.matches(fence).count(), 1, "{fence}");
        function = function.replace(fence, without);
    }
    connection.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(function))).await.unwrap();
    connection.close().await.unwrap();
}

/// What came of runs whose node counts as dead and writes on, while another has taken over.
#[derive(Default)]
struct TwoOwners {
    runs: usize,
    takeovers: usize,
    /// Appends of the dead node that the database has refused.
    fenced: usize,
    found: Vec<String>,
}

async fn two_owners(has_fence: bool) -> TwoOwners {
    let nodes = Nodes::new().await.with("RUNLEDGER_LEASE", "1").with("RUNLEDGER_LOG", "off");
    let long = Do::Words(200, Duration::from_millis(20));
    nodes.stub.on("long", move |_| vec![long.clone(), Do::Finish("stop")]);
    if !has_fence {
        cut_the_fence(&nodes).await;
    }
    let [other] = nodes.start_many::<1>().await;
    // Two seconds into its life its heartbeat is held up for longer than the lease.
    // That holds a whole thread: there are others for what is to go on.
    let setup = nodes.setup.clone().env("TOKIO_WORKER_THREADS", "8");
    let setup = setup.env("FAILPOINTS", "beat.asked=10*off->1*sleep(3500)");
    let dies = Service::in_folder(Arc::new(tempfile::tempdir().unwrap()), setup).await;
    let mut runs = Vec::new();
    for n in 0..RUNS {
        runs.push(dies.client.run("openai/long", &format!("long {n}")).await);
    }
    let mut done = TwoOwners { runs: RUNS, ..TwoOwners::default() };
    for (n, run) in runs.iter().enumerate() {
        // Where two write, a run may never end.
        let wait = if has_fence { 80 } else { 10 };
        let ended = other.client.get(&format!("/runs/{run}?wait={wait}")).await.expect(200);
        let log = other.client.log(run).await;
        done.takeovers += of(&log, "run.started").len() - 1;
        done.found.extend(violations(&log, &[], &nodes.stub.counts(&format!("long {n}"))));
        if ended["status"] != "COMPLETED" {
            done.found.push(format!("{}: {}", ended["status"], ended["error"]));
        }
    }
    // Its answer may be late: it was held up.
    let metrics = dies.client.get("/metrics").await.text;
    done.fenced = metric(&metrics, "runledger_appends_fenced_total");
    done
}

/// Runs of the node that dies.
const RUNS: usize = 6;

#[tokio::test]
async fn a_node_that_counts_as_dead_and_writes_on_is_refused() {
    let (mut tries, mut fenced, mut takeovers, mut found) = (0, 0, 0, Vec::new());
    while fenced == 0 && tries < TRIES {
        tries += 1;
        let done = two_owners(true).await;
        fenced += done.fenced;
        takeovers += done.takeovers;
        found.extend(done.found);
    }
    println!(
        "row=1 faults_fired={tries} ops_ok={} value={} fenced={fenced} takeovers={takeovers}",
        tries * RUNS,
        found.len()
    );
    assert_eq!(found, Vec::<String>::new());
    assert!(fenced > 0 && takeovers > 0, "{fenced} {takeovers}");
}

/// How often it is tried until two owners meet. The held-up heartbeat holds a whole thread, and where
/// the journal's next step waits for that thread, both wake together and nobody writes in vain.
const TRIES: usize = 4;

/// reliability.md, row 2.
#[tokio::test]
async fn without_the_fence_a_dead_nodes_writes_are_found() {
    let (mut tries, mut done) = (0, TwoOwners::default());
    while done.found.is_empty() && tries < TRIES {
        tries += 1;
        done = two_owners(false).await;
    }
    println!(
        "row=2 control=true faults_fired={tries} ops_ok={} value={} takeovers={}",
        done.runs,
        done.found.len(),
        done.takeovers
    );
    println!("found: {:?}", done.found);
    assert!(!done.found.is_empty(), "a dead node wrote, and nobody noticed");
}
