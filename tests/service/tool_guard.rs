//! Where tools may be, and where secrets may go, through the socket.

use serde_json::{Value, json};

use crate::client::of;
use crate::service::{Service, Setup};
use crate::stub::Stub;
use crate::tool_stub::{Called, ToolStub, json as good, send, text};
use crate::tools::{body, calls, ended, one_call};

#[tokio::test]
async fn an_address_that_is_not_open_is_not_called_and_the_setting_is_named() {
    let (stub, tools) = (Stub::start().await, ToolStub::start().await);
    tools.on("/t", |_| text("called"));
    let port = tools.url.rsplit(':').next().unwrap().to_owned();
    let closed = Setup::default().env("RUNLEDGER_ALLOW_NETWORKS", "none");
    let closed = Service::start_with(&stub, closed).await;
    let hosts = ["127.0.0.1", "localhost", "0x7f.1", "2130706433", "[::ffff:127.0.0.1]", "0.0.0.0"];
    for host in hosts {
        let fields = json!({"url": format!("http://{host}:{port}/t")});
        let (result, log) = one_call(&closed, &stub, &tools, fields).await;
        let words = result["result"].as_str().unwrap();
        assert!(words.contains("RUNLEDGER_ALLOW_NETWORKS"), "{host}: {words}");
        assert_eq!(of(&log, "tool.started").len(), 1, "another try would come to the same");
    }
    assert_eq!(tools.calls("/t").len(), 0);
    // The control: the same addresses are called where this machine is open.
    let open = Service::start(&stub).await;
    for host in hosts.iter().filter(|host| **host != "0.0.0.0") {
        let fields = json!({"url": format!("http://{host}:{port}/t")});
        let (result, _) = one_call(&open, &stub, &tools, fields).await;
        assert_eq!(result["result"], "called", "{host}");
    }
    println!("row=23 faults_fired={} ops_ok={} value=0", hosts.len(), tools.calls("/t").len());
}

#[tokio::test]
async fn a_secret_goes_to_its_host_and_is_shown_nowhere() {
    const CANARY: &str = "canary-5e5d-shop-key";
    let (stub, tools) = (Stub::start().await, ToolStub::start().await);
    let folder = tempfile::tempdir().unwrap();
    let file = "[secrets.SHOP]\nvalue_env = \"SHOP_KEY\"\nhosts = [\"127.0.0.1\"]\n";
    let setup = Setup::default().env("SHOP_KEY", CANARY).file(folder.path(), file);
    let service = Service::start_with(&stub, setup).await;
    // Tools repeat what they were sent: in results, in errors, and in what is tried again.
    let echo = |call: &Called| call.headers["authorization"].to_str().unwrap().to_owned();
    tools.on("/good", move |call| good(&json!({"you sent": echo(call)})));
    tools.on("/bad", move |call| send(401, "text/plain", &format!("wrong: {}", echo(call))));
    tools.on("/busy", move |call| match call.attempt {
        1 => send(503, "text/plain", &echo(call)),
        _ => text("ok"),
    });
    let names = ["good", "bad", "busy"];
    calls(&stub, "secret", &names.map(|name| (name, json!({}))));
    let header = || json!({"headers": {"Authorization": "Bearer ${secret:SHOP}"}});
    let run = body("secret", &tools, &names.map(|name| (name, header())));
    let (done, log) = ended(&service.client, &run).await;
    assert_eq!(done["status"], "COMPLETED");
    for path in ["/good", "/bad", "/busy"] {
        assert_eq!(
            tools.calls(path)[0].headers["authorization"],
            format!("Bearer {CANARY}").as_str()
        );
    }
    let id = done["run_id"].as_str().unwrap();
    let spec = service.client.get(&format!("/runs/{id}/spec")).await.text;
    assert!(spec.contains("${secret:SHOP}"), "{spec}");
    let shown = format!("{spec}{done}{}", Value::from(log));
    assert!(!shown.contains(CANARY) && shown.contains("***"), "{shown}");
    let asked: String = stub.calls("secret").iter().map(|call| call.request.to_string()).collect();
    assert!(!asked.contains(CANARY));

    let with = |url: &str, secret: &str| {
        let fields = json!({"url": url, "headers": {"X-Key": format!("${{secret:{secret}}}")}});
        body("secret", &tools, &[("good", fields)])
    };
    let port = tools.url.rsplit(':').next().unwrap();
    let other = format!("http://localhost:{port}/good");
    let refused = service.client.post("/runs", &with(&other, "SHOP")).await.expect(422);
    assert_eq!(refused["code"], "secret_not_allowed", "{refused}");
    assert_eq!(refused["errors"][0]["pointer"], "/agent/tools/0/headers/X-Key");
    let refused = service.client.post("/runs", &with(&tools.url, "NONE")).await.expect(422);
    assert_eq!(refused["code"], "invalid_request", "{refused}");
    assert!(refused["detail"].as_str().unwrap().contains("NONE"), "{refused}");
    // What `/spec` says is a body again.
    let again = service.client.post("/runs", &serde_json::from_str(&spec).unwrap()).await;
    service.client.ended(again.expect(201)["run_id"].as_str().unwrap()).await;
}
