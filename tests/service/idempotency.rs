//! One intent, one run: however often it is sent, however many race.

use serde_json::{Value, json};

use crate::client::spec;
use crate::service::Service;
use crate::stub::{Do, Gate, Stub, say};

#[tokio::test]
async fn sixty_four_racers_with_one_key_make_one_run() {
    const RACERS: usize = 64;
    const KEYS: usize = 8;
    let stub = Stub::start().await;
    stub.on("race", |_| say("Once."));
    let service = Service::start(&stub).await;
    let http = &service.client;
    for n in 0..KEYS {
        let input = format!("key {n}");
        let mut body = spec("openai/race", &input);
        let key = format!("key-{n}");
        // Half of the keys are header keys, half are run ids.
        let headers: Vec<(&str, &str)> =
            if n % 2 == 0 { vec![("idempotency-key", &key)] } else { Vec::new() };
        if n % 2 == 1 {
            body["config"] = json!({"run_id": key});
        }
        let racing = (0..RACERS).map(|_| http.post_with("/runs", &body, &headers));
        let answers = futures_util::future::join_all(racing).await;
        let created = answers.iter().filter(|answer| answer.status == 201).count();
        let replayed: Vec<_> = answers.iter().filter(|answer| answer.status == 200).collect();
        assert_eq!((created, replayed.len()), (1, RACERS - 1));
        for answer in replayed {
            assert_eq!(answer.header("idempotent-replayed"), "true");
        }
        let ids: Vec<Value> =
            answers.iter().map(|answer| answer.json()["run_id"].clone()).collect();
        assert!(ids.iter().all(|id| *id == ids[0]));
        http.ended(ids[0].as_str().unwrap()).await;
        assert_eq!(stub.counts(&input), [(1, 1)].into(), "the model was asked once");
    }
}

#[tokio::test]
async fn a_finished_run_is_never_executed_again_not_even_after_a_restart() {
    let stub = Stub::start().await;
    let service = Service::start(&stub).await;
    let mut body = spec("openai/any", "once");
    body["config"] = json!({"run_id": "order-17"});
    service.client.post("/runs", &body).await.expect(201);
    let done = service.client.ended("order-17").await;
    let again = service.client.post("/runs?wait=80", &body).await;
    assert_eq!(again.header("idempotent-replayed"), "true");
    assert_eq!(again.expect(200), done);
    let service = service.kill().await.start().await;
    assert_eq!(service.client.post("/runs", &body).await.expect(200), done);
    let keyed = service.client.post_with("/runs", &body, &[("idempotency-key", "new")]).await;
    assert_eq!(keyed.expect(200), done, "a new key is bound to the run that is there");
    let by_key_alone =
        service.client.post_with("/runs", &body, &[("idempotency-key", "\"new\"")]).await;
    assert_eq!(by_key_alone.expect(200), done);
    assert_eq!(stub.counts("once"), [(1, 1)].into());
}

#[tokio::test]
async fn a_key_of_another_request_is_refused_and_nothing_is_made() {
    let stub = Stub::start().await;
    let service = Service::start(&stub).await;
    let http = &service.client;
    let (one, two) = (spec("openai/any", "one"), spec("openai/any", "two"));
    let key = [("idempotency-key", "abc")];
    let first = http.post_with("/runs", &one, &key).await.expect(201);
    let quoted = http.post_with("/runs", &one, &[("idempotency-key", "\"abc\"")]).await;
    assert_eq!(quoted.expect(200)["run_id"], first["run_id"], "quotes are no part of a key");
    let refused = http.post_with("/runs", &two, &key).await.expect(422);
    assert_eq!(
        (&refused["code"], &refused["retryable"]),
        (&json!("idempotency_conflict"), &json!(false))
    );

    let mut named = one.clone();
    named["config"] = json!({"run_id": "abc"});
    http.post("/runs", &named).await.expect(201);
    let two_runs = http.post_with("/runs", &named, &[("idempotency-key", "def")]).await;
    assert_eq!(
        two_runs.expect(200)["run_id"],
        "abc",
        "header keys and run ids are two name spaces"
    );
    let both = http.post_with("/runs", &named, &key).await.expect(422);
    assert_eq!(both["code"], "idempotency_conflict", "two keys of two runs");
    // The order of fields and white space say nothing.
    let spelt = http
        .request(reqwest::Method::POST, "/runs")
        .header("content-type", "application/json")
        .header("idempotency-key", "abc")
        .body(format!("{{ \"input\" : \"one\",\n\"agent\":{} }}", one["agent"]))
        .send()
        .await
        .unwrap();
    assert_eq!(spelt.status(), 200);

    for wrong in ["", "a b", "ü", &"x".repeat(256)] {
        let refused = http
            .request(reqwest::Method::POST, "/runs")
            .header("content-type", "application/json")
            .header(
                "idempotency-key",
                reqwest::header::HeaderValue::from_bytes(wrong.as_bytes()).unwrap(),
            )
            .body(one.to_string())
            .send()
            .await
            .unwrap();
        assert_eq!(refused.status(), 422, "{wrong:?}");
        let body: Value = serde_json::from_str(&refused.text().await.unwrap()).unwrap();
        assert_eq!(body["errors"][0]["header"], "Idempotency-Key");
    }
}

#[tokio::test]
async fn a_repeated_stream_attaches_to_the_live_run_also_behind_its_cursor() {
    let stub = Stub::start().await;
    let gate = Gate::new();
    let opened = gate.clone();
    stub.on("live", move |_| {
        [vec![Do::Say("A".into()), Do::Wait(opened.clone())], say("B")].concat()
    });
    let service = Service::start(&stub).await;
    let http = &service.client;
    let body = spec("openai/live", "go");
    let mut first = http.post_stream(&body, &[("idempotency-key", "s")]).await;
    assert!(!first.headers.contains_key("idempotent-replayed"));
    let mut seen = first.take(4).await;
    let mut second = http.post_stream(&body, &[("idempotency-key", "s")]).await;
    assert_eq!(second.headers["idempotent-replayed"], "true");
    assert_eq!(second.headers["location"], first.headers["location"]);
    let mut behind =
        http.post_stream(&body, &[("idempotency-key", "s"), ("last-event-id", "3")]).await;
    gate.open();
    seen.extend(first.rest().await);
    assert_eq!(second.rest().await, seen);
    assert_eq!(behind.rest().await, seen[3..]);
    let last = seen.len().to_string();
    let ended =
        http.post_stream(&body, &[("idempotency-key", "s"), ("last-event-id", &last)]).await;
    assert_eq!(ended.status, 204);
    assert_eq!(stub.calls("live").len(), 1);
}

#[tokio::test]
async fn a_cursor_makes_no_run_without_a_key_and_hides_nothing_of_a_new_one() {
    let stub = Stub::start().await;
    let service = Service::start(&stub).await;
    let http = &service.client;
    let body = spec("openai/any", "cursor");
    let stream = [("accept", "text/event-stream"), ("last-event-id", "3")];
    let refused = http.post_with("/runs", &body, &stream).await.expect(422);
    assert_eq!(refused["errors"][0]["header"], "Last-Event-ID");
    assert_eq!(stub.calls("any").len(), 0, "what is refused costs nothing");

    let keyed = [("idempotency-key", "new"), ("last-event-id", "3")];
    let mut whole = http.post_stream(&body, &keyed).await;
    assert_eq!(whole.status, 200);
    let whole = whole.rest().await;
    assert!(whole[0].lines.contains("id: 1\n"), "{}", whole[0].lines);
    let resumed = http.post_stream(&body, &keyed).await.rest().await;
    assert_eq!(resumed, whole[3..], "the second time it is a resume");
    let id_alone = json!({"agent": body["agent"], "input": "x", "config": {"run_id": "r"}});
    let by_id = http.post_stream(&id_alone, &[("last-event-id", "99")]).await;
    assert_eq!(by_id.status, 200);
}
