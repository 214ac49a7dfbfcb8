//! Which index each list walks, and what a database of the first release shows.

use sqlx::{ConnectOptions, Connection};

use super::*;
use crate::run::Status;
use crate::store::sqlite::writer::{MIGRATIONS, migrations};
use crate::store::{BatchId, Filter};

fn label(key: &str) -> (String, String) {
    (key.to_owned(), "x".to_owned())
}

#[tokio::test]
async fn each_list_walks_its_index_from_the_newest_run_on() {
    let folder = Folder::new();
    let store = folder.open().await;
    let id = RunId(uuid::Uuid::now_v7());
    let none = Filter::default;
    let text = || Some("x".to_owned());
    let of = |statuses: &[Status]| Filter { statuses: statuses.to_vec(), ..none() };
    let reasons = |reasons: &[&str]| Filter {
        stop_reasons: reasons.iter().map(|reason| (*reason).to_owned()).collect(),
        ..none()
    };
    for (index, walks, filter) in [
        ("runs_listed", 1, none()),
        ("runs_listed", 1, Filter { below: Some(id), from: Some(id), ..none() }),
        ("runs_by_status", 1, of(&[Status::Failed])),
        ("runs_by_status", 2, of(&[Status::Failed, Status::Completed])),
        ("runs_by_reason", 1, reasons(&["max_time"])),
        ("runs_by_reason", 2, reasons(&["max_time", "cancelled"])),
        ("runs_listed", 1, reasons(&["end_turn"])),
        ("runs_by_agent", 1, Filter { agent: text(), ..none() }),
        ("runs_by_agent", 1, Filter { agent: text(), ..of(&[Status::Completed]) }),
        ("runs_by_status", 1, Filter { agent: text(), ..of(&[Status::Running]) }),
        ("runs_by_model", 1, Filter { model: text(), ..none() }),
        ("runs_by_thread", 1, Filter { thread: text(), model: text(), ..none() }),
        ("runs_by_batch", 1, Filter { batch: Some(BatchId(id.0)), ..of(&[Status::Failed]) }),
        ("runs_by_parent", 1, Filter { parent: Some(id), labels: vec![label("a")], ..none() }),
        ("runs_by_waiting", 2, Filter { waiting: vec!["approval", "budget"], ..none() }),
    ] {
        let steps = store.explain_list(&filter).await;
        let step = "SEARCH r USING ";
        let of_index = |step: &&String| step.contains(&format!("INDEX {index} ("));
        let walked: Vec<&String> = steps.iter().filter(|one| one.starts_with(step)).collect();
        assert_eq!(walked.len(), walks, "{index}: {steps:#?}");
        assert!(walked.iter().all(of_index), "{index}: {steps:#?}");
        // Nothing is sorted but what few walks have found, and nothing is gone through whole.
        let sorts = steps.iter().filter(|one| one.contains("TEMP B-TREE")).count();
        assert!(sorts <= if walks > 1 { walks } else { 0 }, "{index}: {steps:#?}");
        let whole = |step: &&String| step.starts_with("SCAN r") && !step.contains("SCAN runs");
        assert_eq!(steps.iter().filter(whole).count(), 0, "{index}: {steps:#?}");
    }
    for (first, filter) in [
        ("SEARCH l USING PRIMARY KEY (tenant=? AND key=? AND value=?", vec![label("a")]),
        (
            "SEARCH l USING PRIMARY KEY (tenant=? AND key=? AND value=?",
            vec![label("a"), label("b")],
        ),
    ] {
        let steps = store.explain_list(&Filter { labels: filter, ..none() }).await;
        assert!(steps.iter().any(|step| step.starts_with(first)), "{steps:#?}");
        assert!(!steps.iter().any(|step| step.contains("TEMP B-TREE")), "{steps:#?}");
    }
    let names = Filter { names: Some(vec!["x".to_owned()]), ..none() };
    let steps = store.explain_list(&names).await;
    let by_id = "SEARCH r USING INDEX sqlite_autoindex_runs_1 (id=?)";
    assert!(steps.iter().any(|step| step == by_id), "{steps:#?}");
}

/// As the first release left it: a run that has ended, and one that is under way.
const OLD: &str = r#"
    insert into nodes (name, started_at, dead_at) values ('old', 1, 2);
    insert into runs (id, public_id, tenant, status, last_seq, model, created_by, created_at,
                      started_at, finished_at, stop_reason, metadata, spec)
    values (x'01930000000070008000000000000001', 'ended', 'default', 'FAILED', 4, 'demo/assistant',
            'local', 1, 2, 3, 'max_turns', '{"user":"17"}', '{"input":"Hi"}'),
           (x'01930000000070008000000000000002', 'active', 'default', 'RUNNING', 2,
            'demo/assistant', 'local', 1, 2, null, null, '{}', '{"input":"Ho"}');
    insert into run_keys (tenant, kind, key, run_id, digest)
    values ('default', 'run_id', 'ended', x'01930000000070008000000000000001', 'd');
    insert into queue (run_id, kind, reason, tenant, priority, run_at)
    values (x'01930000000070008000000000000002', 'drive', 'crash', 'default', 0, 1);
    insert into events (run_id, seq, type, data)
    values (x'01930000000070008000000000000001', 1, 0, '{}'),
           (x'01930000000070008000000000000001', 2, 6, '{}'),
           (x'01930000000070008000000000000001', 3, 6, '{}'),
           (x'01930000000070008000000000000001', 4, 14,
            '{"result":{"usage":{"total_tokens":7},"error":{"code":"max_turns"},
              "elapsed_time":1.5,"turn_count":2}}'),
           (x'01930000000070008000000000000002', 1, 0, '{}'),
           (x'01930000000070008000000000000002', 2, 6, '{}');
"#;

#[tokio::test]
async fn a_database_of_the_first_release_is_brought_up_to_date_and_loses_nothing() {
    let folder = Folder::new();
    std::fs::create_dir_all(&folder.0).expect("the folder is made");
    let options = SqliteConnectOptions::new().filename(folder.database()).create_if_missing(true);
    let mut old = options.connect().await.expect("it is made");
    migrations(&MIGRATIONS[..1]).run(&mut old).await.expect("the first step is made");
    sqlx::raw_sql(OLD).execute(&mut old).await.expect("it is filled");
    old.close().await.expect("it is closed");

    let store = folder.open().await;
    let listed = store.list("default", &Filter::default(), 9).await.expect("it is read");
    assert_eq!(listed.len(), 2);
    let (active, ended) = (&listed[0], &listed[1]);
    assert_eq!((ended.public_id.as_str(), ended.status), ("ended", Status::Failed));
    assert_eq!((ended.turn_count, ended.elapsed), (2, Some(1.5)));
    assert_eq!(ended.usage.as_deref(), Some(r#"{"total_tokens":7}"#));
    assert_eq!(ended.error.as_deref(), Some(r#"{"code":"max_turns"}"#));
    assert_eq!((active.turn_count, &active.error, active.elapsed), (1, &None, None));
    let labels = vec![("user".to_owned(), "17".to_owned())];
    let found = store.list("default", &Filter { labels, ..Filter::default() }, 9).await;
    assert_eq!(found.expect("it is read"), std::slice::from_ref(ended));
    let row = store.find("default", "ended").await.expect("it is read").expect("it is there");
    assert_eq!(&*row.spec, r#"{"input":"Hi"}"#);
    let (node, _) = store.register("new").await.expect("it registers");
    let claims = store.claim(node, 9).await.expect("the queue is read");
    assert_eq!(claims.runs.len(), 1);
    append(&store, node, claims.runs[0].run, 3, 10).await;
}
