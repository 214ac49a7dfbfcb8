//! Erasing a run: nothing of it is left, its names are free, and nobody reads on.

use serde_json::{Value, json};

use crate::client::spec;
use crate::service::Service;
use crate::stub::{Do, Gate, Stub, calculate, say};
use crate::waiting::until;

#[tokio::test]
async fn an_erased_run_is_gone_also_after_a_crash_and_its_keys_are_free() {
    let stub = Stub::start().await;
    stub.on("hang", |_| vec![Do::Hang]);
    let service = Service::start(&stub).await;
    let http = &service.client;
    let mut body = spec("openai/any", "first");
    body["config"] = json!({"run_id": "mine", "metadata": {"user": "canary-17"}});
    let key = [("idempotency-key", "order-17")];
    let first = http.post_with("/runs", &body, &key).await.expect(201);
    http.ended("mine").await;
    let uuid = http.log("mine").await[0]["uuid"].as_str().unwrap().to_owned();

    let purged = http.post("/runs/mine/purge", &Value::Null).await;
    assert_eq!((purged.status, purged.text.as_str()), (204, ""));
    let service = service.kill().await.start().await;
    let http = &service.client;
    for name in ["mine", &uuid] {
        for rest in ["", "/events", "/stream", "/spec"] {
            http.get(&format!("/runs/{name}{rest}")).await.expect(404);
        }
        http.post(&format!("/runs/{name}/purge"), &Value::Null).await.expect(404);
    }
    let listed = http.get("/runs?metadata=user:canary-17").await.expect(200);
    assert_eq!(listed["data"], json!([]));

    body["input"] = json!("second");
    let second = http.post_with("/runs", &body, &key).await.expect(201);
    assert_ne!(second["created_at"], first["created_at"]);
    assert_eq!(http.ended("mine").await["input"], "second", "both keys were free");

    let active = http.run("openai/hang", "active").await;
    let refused = http.post(&format!("/runs/{active}/purge"), &Value::Null).await.expect(409);
    assert_eq!(refused["code"], "run_active");
    assert_eq!(http.get(&format!("/runs/{active}")).await.status, 200);
    http.post("/runs/nobody/purge", &Value::Null).await.expect(404);
}

/// The poll's events never come: it must neither spin nor wait on.
#[tokio::test]
async fn a_poll_for_the_events_of_a_run_that_is_erased_meanwhile_ends() {
    let stub = Stub::start().await;
    let gate = Gate::new();
    let opened = gate.clone();
    stub.on("wait", move |_| [vec![Do::Wait(opened.clone())], say("x")].concat());
    let service = Service::start(&stub).await;
    let http = &service.client;
    let id = http.run("openai/wait", "x").await;
    stub.called("wait", 1).await;
    let last = http.log(&id).await.len();
    // No event of this type comes: the polls go on to the end of the run.
    let path = format!("/runs/{id}/events?after={last}&types=cancel.requested&wait=80");
    let polls = (0..32).map(|_| http.get(&path));
    let erase = async {
        gate.open();
        until("the run's end, and its erasing", async || {
            let purged = http.post(&format!("/runs/{id}/purge"), &Value::Null).await;
            (purged.status == 204).then_some(())
        })
        .await;
    };
    let (polls, ()) = tokio::join!(futures_util::future::join_all(polls), erase);
    for poll in polls {
        assert!([200, 404].contains(&poll.status), "{}", poll.text);
    }
}

/// More than a connection and the page under way can hold: it is all sent only to who reads.
#[tokio::test]
async fn a_stream_that_still_reads_an_erased_run_is_cut_and_not_ended() {
    const TURNS: usize = 12;
    let stub = Stub::start().await;
    stub.on("long", |call| {
        let text = vec![Do::Say("0123456789abcdef".repeat(24 * 1024))];
        let end = if call.turn < TURNS { calculate(1) } else { vec![Do::Finish("stop")] };
        [text, end].concat()
    });
    let service = Service::start(&stub).await;
    let http = &service.client;
    for (name, is_erased) in [("control", false), ("long", true)] {
        let mut body = spec("openai/long", name);
        body["config"] = json!({"run_id": name, "max_turns": TURNS});
        http.create(&body).await;
        assert_eq!(http.ended(name).await["turn_count"], TURNS);
        let mut stream = http.stream(&format!("/runs/{name}/stream"), &[]).await;
        assert_eq!(stream.take(1).await[0].kind(), "run.queued");
        if is_erased {
            let purged = http.post(&format!("/runs/{name}/purge"), &Value::Null).await;
            assert_eq!(purged.status, 204);
        }
        let (rest, is_clean) = stream.all().await;
        let has_end = rest.last().is_some_and(|last| last.kind() == "run.completed");
        assert_eq!((is_clean, has_end), (!is_erased, !is_erased), "{name}");
    }
}
