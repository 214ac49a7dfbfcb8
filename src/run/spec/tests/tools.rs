//! Tools over HTTP, as a body may describe them.

use super::*;

fn tool(fields: &Value) -> Value {
    let mut tool = json!({"type": "http", "name": "find", "url": "https://shop.example/find"});
    for (name, value) in fields.as_object().expect("fields") {
        tool[name] = value.clone();
    }
    json!([tool])
}

#[track_caller]
fn refused(fields: Value, place: &str, words: &[&str]) {
    check_body(&with("/agent/tools", tool(&fields)), &format!("/agent/tools/0/{place}"), words);
}

#[test]
fn a_tool_over_http_is_read_whole_and_its_spec_is_a_body_again() {
    let fields = json!({
        "description": "Finds.",
        "parameters": {"type": "object", "properties": {"q": {"type": "string"}}},
        "effect": "once",
        "timeout": 2.5,
        "headers": {"Authorization": "Bearer ${secret:SHOP_KEY}", "X-Team": "blue"},
    });
    let body = with("/agent/tools", tool(&fields));
    let spec = Spec::parse(&body, &catalog()).expect("it is right");
    let one = &spec.agent.tools[0];
    assert_eq!(
        (one.kind, one.effect(&catalog()), one.timeout),
        (ToolKind::Http, Effect::Once, 2.5)
    );
    let again = serde_json::to_value(&spec).expect("a spec is plain data");
    assert_eq!(again["agent"]["tools"], body["agent"]["tools"]);
    assert_eq!(Spec::parse(&again, &catalog()).expect("it is a body"), spec);
}

#[test]
fn a_tool_that_says_nothing_is_taken_to_be_idempotent_whatever_its_name_is() {
    let body = with("/agent/tools", tool(&json!({"name": "calculator"})));
    let spec = Spec::parse(&body, &catalog()).expect("it is right");
    let one = &spec.agent.tools[0];
    assert_eq!(one.effect(&catalog()), Effect::Idempotent);
    assert_eq!((one.builtin(&catalog()), one.timeout), (None, 30.0));
    let request =
        crate::run::request::request(&spec, &crate::run::State::default(), &catalog(), true);
    assert_eq!(request.tools[0].description, None, "it is not the built-in one");
}

#[test]
fn a_url_is_one_that_can_be_called() {
    for (url, word) in [
        ("shop.example/find", "http or https URL"),
        ("ftp://shop.example/", "ftp"),
        ("file:///etc/passwd", "file"),
        ("javascript:alert(1)", "javascript"),
        ("http://", "http or https URL"),
        ("https://user@shop.example/", "without user and password"),
        ("https://:word@shop.example/", "without user and password"),
    ] {
        refused(json!({"url": url}), "url", &[word]);
    }
    refused(json!({"url": format!("https://x/{}", "a".repeat(2048))}), "url", &["2048", "2058"]);
    refused(json!({"url": 7}), "url", &["http or https URL", "got 7"]);
    refused(json!({"url": Value::Null}), "url", &["is required"]);
    let word = "hunter2-hunter2";
    let url = format!("https://me:{word}@shop.example/");
    let found = refusals(&with("/agent/tools", tool(&json!({"url": url}))));
    assert!(!found[0].1.contains(word), "{found:?}");
}

#[test]
fn parameters_are_a_schema_that_can_be_used() {
    let wrong = json!({"parameters": {"properties": {"q": {"type": "strin"}}}});
    refused(wrong, "parameters/properties/q/type", &["JSON Schema", "strin"]);
    for place in ["http://127.0.0.1/s", "file:///etc/passwd"] {
        refused(
            json!({"parameters": {"$ref": place}}),
            "parameters/$ref",
            &["a place in this schema"],
        );
    }
    refused(json!({"parameters": true}), "parameters", &["an object", "got true"]);
    let long = json!({"parameters": {"description": "x".repeat(65_536)}});
    refused(long, "parameters", &["65536 bytes"]);
}

#[test]
fn headers_are_names_and_visible_values_and_none_of_our_own() {
    for name in ["Idempotency-Key", "TRACEPARENT", "host", "Content-Length", "Proxy-Authorization"]
    {
        refused(json!({"headers": {name: "x"}}), &format!("headers/{name}"), &["leave it out"]);
    }
    refused(json!({"headers": {"a b": "x"}}), "headers/a b", &["no name of a header"]);
    refused(json!({"headers": {"a": "x\r\ny: z"}}), "headers/a", &["visible ASCII"]);
    refused(json!({"headers": {"a": "ß"}}), "headers/a", &["visible ASCII"]);
    refused(json!({"headers": {"a": 1}}), "headers", &["an object of strings"]);
    refused(json!({"headers": {"A": "1", "a": "2"}}), "headers/a", &["twice"]);
    refused(json!({"headers": {"a": "x".repeat(8192)}}), "headers", &["8192", "8193"]);
}

#[test]
fn a_secret_is_there_and_goes_to_its_own_hosts_only() {
    let of = |url: &str, value: &str| {
        with("/agent/tools", tool(&json!({"url": url, "headers": {"X-Key": value}})))
    };
    let place = "/agent/tools/0/headers/X-Key";
    let known = "a ${secret:SHOP_KEY}";
    for url in ["https://shop.example:8443/x", "http://SHOP.example/"] {
        Spec::parse(&of(url, known), &catalog()).expect("the host is its own");
    }
    for url in
        ["https://evil.example/", "https://shop.example.evil.example/", "https://shop.example./"]
    {
        let found = Spec::parse(&of(url, known), &catalog()).expect_err("another's host");
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].pointer.as_str(), found[0].code), (place, Code::SecretNotAllowed));
        assert!(found[0].detail.contains("SHOP_KEY"), "{found:?}");
    }
    let url = "https://shop.example/";
    check_body(&of(url, "${secret:NONE}"), place, &["there is no secret `NONE`"]);
    check_body(&of(url, "${secret:SHOP_KEY"), place, &["${secret:NAME}"]);
}

#[test]
fn a_built_in_tool_has_no_url_and_no_headers() {
    let tool = json!([{"type": "builtin", "name": "calculator", "url": "https://a/"}]);
    check_body(&with("/agent/tools", tool), "/agent/tools/0/url", &["has no url"]);
    let tool = json!([{"type": "builtin", "name": "calculator", "headers": {"a": "b"}}]);
    check_body(&with("/agent/tools", tool), "/agent/tools/0/headers", &["has no headers"]);
}
