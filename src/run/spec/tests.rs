//! Every bound of the API, refused with its place, its bound and what it got.

use serde_json::{Value, json};

use super::*;
use crate::run::catalog::{Builtin, Provider};
use crate::run::price::Price;

mod messages;
mod models;
mod tools;

fn catalog() -> Catalog {
    let builtin = |name: &str| Builtin {
        name: name.to_owned(),
        description: "Does something.".to_owned(),
        parameters: json!({"type": "object"}),
        effect: Effect::Read,
    };
    Catalog {
        models: ["openai/*", "anthropic/*", "demo/assistant"].map(str::to_owned).to_vec(),
        default_model: "demo/assistant".to_owned(),
        builtins: vec![builtin("calculator"), builtin("current_time")],
        providers: providers(),
        secrets: [("SHOP_KEY".to_owned(), vec!["shop.example".to_owned()])].into(),
    }
}

/// One model with a price, and one provider that knows few efforts.
fn providers() -> Vec<Provider> {
    let price = Price { input: 1.0, cached_input: None, cache_write_input: None, output: 2.0 };
    let provider = |name: &str| Provider { name: name.to_owned(), ..Provider::default() };
    let prices = [("priced".to_owned(), price)].into();
    let reasoning_efforts = Some(vec!["low".to_owned(), "high".to_owned()]);
    vec![
        Provider { prices, ..provider("openai") },
        Provider { reasoning_efforts, ..provider("anthropic") },
    ]
}

fn body() -> Value {
    json!({"agent": {"name": "A"}, "input": "Hi"})
}

/// The smallest body with `value` put at `pointer`; objects on the way are made.
fn with(pointer: &str, value: Value) -> Value {
    let mut whole = body();
    let mut place = &mut whole;
    for name in pointer.split('/').skip(1) {
        place = &mut place[name];
    }
    *place = value;
    whole
}

fn refusals(body: &Value) -> Vec<(String, String)> {
    let found = Spec::parse(body, &catalog()).expect_err("it is refused");
    assert!(!found.is_empty(), "a refusal says why");
    found.into_iter().map(|one| (one.pointer, one.detail)).collect()
}

/// Exactly one refusal, at this place, and saying all of these.
#[track_caller]
fn check_body(body: &Value, pointer: &str, words: &[&str]) {
    let found = refusals(body);
    assert_eq!(found.len(), 1, "{found:?}");
    let (place, detail) = &found[0];
    assert_eq!(place, pointer, "{detail}");
    for word in words {
        assert!(detail.contains(word), "{word:?} is not in {detail:?}");
    }
}

#[track_caller]
fn check(pointer: &str, value: Value, words: &[&str]) {
    check_body(&with(pointer, value), pointer, words);
}

#[track_caller]
fn accepts(pointer: &str, value: Value) -> Spec {
    match Spec::parse(&with(pointer, value), &catalog()) {
        Ok(spec) => spec,
        Err(found) => panic!("{pointer} is refused: {found:?}"),
    }
}

#[test]
fn every_number_has_its_bounds() {
    for (pointer, low, high, below, above) in [
        ("/config/max_turns", json!(1), json!(1000), json!(0), json!(1001)),
        ("/config/max_time", json!(0.001), json!(86_400), json!(0), json!(86_400.001)),
        ("/config/timeout_per_turn", json!(0.001), json!(3600.0), json!(-1), json!(3600.5)),
        ("/agent/model_settings/temperature", json!(0), json!(2), json!(-0.1), json!(2.1)),
        ("/agent/model_settings/top_p", json!(0), json!(1), json!(-0.1), json!(1.1)),
    ] {
        for fits in [&low, &high] {
            accepts(pointer, fits.clone());
        }
        for off in [below, above] {
            // 0.0 and 0 are told alike, and 86400.0 is told as 86400.
            let number = |value: &Value| value.as_f64().expect("a number").to_string();
            let words = [number(&low), number(&high), format!("got {off}")];
            check(pointer, off, &words.each_ref().map(String::as_str));
        }
    }
    check("/config/max_turns", json!(0), &["must be between 1 and 1000, got 0"]);
}

#[test]
fn numbers_that_only_have_a_least_are_told_it() {
    check("/config/max_total_tokens", json!(0), &["at least 1", "got 0"]);
    accepts("/config/max_total_tokens", json!(u64::MAX));
    check("/agent/model_settings/max_output_tokens", json!(0), &["at least 1", "got 0"]);
    accepts("/config/max_tool_calls", json!(0));
}

#[test]
fn a_value_of_the_wrong_type_is_told_what_would_be_right_and_what_it_was() {
    for (pointer, value, words) in [
        ("/config/max_turns", json!("ten"), &["whole number between 1 and 1000", "\"ten\""][..]),
        ("/config/max_turns", json!(1.5), &["between 1 and 1000", "got 1.5"]),
        ("/config/max_turns", json!(-1), &["between 1 and 1000", "got -1"]),
        ("/config/max_time", json!("5m"), &["seconds", "0.001", "86400", "\"5m\""]),
        ("/config/timeout_per_turn", json!(true), &["seconds", "3600", "got true"]),
        ("/config/stop_on_tool_error", json!("no"), &["true or false", "\"no\""]),
        ("/config/verbose", json!(1), &["true or false", "got 1"]),
        ("/config/trace_enabled", json!([]), &["true or false", "a list"]),
        ("/config/metadata", json!(["a"]), &["object of strings", "a list"]),
        ("/config/run_id", json!(7), &["a string", "got 7"]),
        ("/config/max_total_tokens", json!(-5), &["at least 1", "got -5"]),
        ("/config/max_tool_calls", json!(-1), &["between 0 and", "got -1"]),
        ("/config/on_limit", json!("pause"), &["fail or finalize", "not available yet"]),
        ("/config/on_limit", json!("stop"), &["fail or finalize", "\"stop\""]),
        ("/config", json!("fast"), &["an object", "\"fast\""]),
        ("/variables", json!([1]), &["an object", "a list"]),
        ("/history", json!("Hi"), &["a list of messages", "\"Hi\""]),
        ("/input", json!(5), &["a string or a list of parts", "got 5"]),
        ("/input", json!({"type": "text"}), &["a string or a list of parts", "an object"]),
        ("/agent", json!(5), &["an object", "got 5"]),
        ("/agent/instructions", json!({"a": 1}), &["a string", "an object"]),
        ("/agent/model", json!(5), &["provider/name", "list", "got 5"]),
        ("/agent/model", json!(["demo/a", 5]), &["provider/name", "a list"]),
        ("/agent/tools", json!("calculator"), &["a list of tools", "\"calculator\""]),
        ("/agent/model_settings", json!([]), &["an object", "a list"]),
        ("/agent/model_settings/stop", json!("x"), &["a list of strings", "\"x\""]),
        ("/agent/model_settings/extra", json!("x"), &["an object", "\"x\""]),
        ("/agent/model_settings/temperature", json!("hot"), &["0 and 2", "\"hot\""]),
        ("/agent/model_settings/max_output_tokens", json!(1.5), &["whole number", "got 1.5"]),
    ] {
        check(pointer, value, words);
    }
}

#[test]
fn bounds_in_words_are_those_that_are_checked() {
    let said = |form: &form::Form, name: &str| form.expected(name).to_owned();
    let turns = &limits::MAX_TURNS;
    let bounds = format!("between {} and {}", turns.start(), turns.end());
    assert!(said(&form::CONFIG, "max_turns").contains(&bounds));
    for (form, name, range) in [
        (&form::CONFIG, "max_time", limits::MAX_TIME),
        (&form::CONFIG, "timeout_per_turn", limits::TIMEOUT_PER_TURN),
        (&form::TOOL, "timeout", limits::TOOL_TIMEOUT),
    ] {
        let bounds = format!("between {} and {}", range.start(), range.end());
        assert!(said(form, name).contains(&bounds), "{name}");
    }
}

#[test]
fn null_is_as_good_as_absent() {
    let mut asked = body();
    for (pointer, absent) in [("/history", json!(null)), ("/variables", json!(null))] {
        asked = with(pointer, absent);
    }
    asked["config"] = json!({"max_turns": null, "run_id": null, "on_limit": null});
    asked["agent"]["model"] = json!(null);
    asked["agent"]["tools"] = json!(null);
    let spec = Spec::parse(&asked, &catalog()).expect("nulls are fine");
    assert_eq!(spec.config, Config::default());
    assert_eq!(spec.model(), "demo/assistant");
}

#[test]
fn what_is_required_is_asked_for() {
    let found = refusals(&json!({}));
    assert_eq!(found.len(), 2, "{found:?}");
    for (place, words) in [("/agent", "an inline agent"), ("/input", "a string or a list")] {
        let told = found.iter().find(|(pointer, _)| pointer == place).expect("it is told");
        assert!(told.1.starts_with("is required") && told.1.contains(words), "{told:?}");
    }
    for wrong in [json!([]), json!("Hi"), json!(null), json!(3)] {
        check_body(&wrong, "", &["must be an object"]);
    }
    check("/input", json!(null), &["is required"]);
    check("/agent", json!({}), &["needs instructions or name"]);
    let tool = json!([{"type": "builtin"}]);
    check_body(&with("/agent/tools", tool), "/agent/tools/0/name", &["is required", "1 to 64"]);
}

#[test]
fn unknown_fields_are_named_at_every_level() {
    let asked = json!({
        "agent": {
            "name": "A", "temprature": 1,
            "model_settings": {"top_k": 5},
            "tools": [{"type": "builtin", "name": "calculator"},
                      {"type": "builtin", "name": "current_time", "retries": 1}],
        },
        "input": [{"type": "text", "text": "Hi", "lang": "en"}],
        "history": [
            {"role": "user", "content": "a", "name": "Bob"},
            {"role": "assistant", "content": [{"type": "text", "text": "b", "x": 1}],
             "tool_calls": [{"call_id": "c", "tool_name": "t", "arguments": {}, "index": 0}]},
            {"role": "tool", "call_id": "c", "content": "d", "ok": true},
        ],
        "config": {"max_turn": 3},
        "stream": true,
    });
    let found = refusals(&asked);
    for (pointer, name, known) in [
        ("/stream", "stream", "agent, input, history"),
        ("/agent/temprature", "temprature", "model_settings"),
        ("/agent/model_settings/top_k", "top_k", "top_p"),
        ("/agent/tools/1/retries", "retries", "timeout"),
        ("/input/0/lang", "lang", "text"),
        ("/history/0/name", "name", "role, content"),
        ("/history/1/content/0/x", "x", "text"),
        ("/history/1/tool_calls/0/index", "index", "provider_metadata"),
        ("/history/2/ok", "ok", "is_error"),
        ("/config/max_turn", "max_turn", "max_turns"),
    ] {
        let told = found.iter().find(|(place, _)| place == pointer);
        let (_, detail) = told.unwrap_or_else(|| panic!("{pointer} is not among {found:?}"));
        assert!(detail.starts_with(&format!("unknown field `{name}`; known are")), "{detail}");
        assert!(detail.contains(known), "{detail}");
    }
    assert_eq!(found.len(), 10, "{found:?}");
}

#[test]
fn what_comes_later_is_told_as_such() {
    for pointer in ["/thread_id", "/on_busy", "/continue_from"] {
        check(pointer, json!("x"), &["is not available yet"]);
    }
    let tool = json!([{"type": "builtin", "name": "calculator", "approval": "always"}]);
    let place = "/agent/tools/0/approval";
    check_body(&with("/agent/tools", tool), place, &["is not available yet"]);
    for kind in ["client", "mcp", "agent"] {
        let tool = json!([{"type": kind, "name": "find"}]);
        let words = ["client, mcp and agent are not available yet"];
        check_body(&with("/agent/tools", tool), "/agent/tools/0/type", &words);
    }
    check("/agent/output_schema", json!({"type": "object"}), &["is not available yet"]);
}

#[test]
fn every_mistake_is_reported_at_once() {
    let found = refusals(&json!({
        "agent": {"name": "", "model": "nobody/x", "instructions": "{{who}}", "modle": 1,
                  "model_settings": {"temperature": 3, "stop": 1},
                  "tools": [{"type": "builtin", "name": "no tool"}]},
        "input": [{"type": "image"}],
        "history": [{"role": "tool", "call_id": "x", "content": "y"}],
        "variables": {"a": "NUL: \u{0}"},
        "config": {"max_turns": 0, "max_time": "long", "run_id": "-", "max_total_tokens": 0,
                   "metadata": {"k": 1}},
    }));
    let mut places: Vec<&str> = found.iter().map(|(pointer, _)| pointer.as_str()).collect();
    places.sort_unstable();
    assert_eq!(
        places,
        [
            "/agent/instructions",
            "/agent/model",
            "/agent/model_settings/stop",
            "/agent/model_settings/temperature",
            "/agent/modle",
            "/agent/name",
            "/agent/tools/0/name",
            "/config/max_time",
            "/config/max_total_tokens",
            "/config/max_turns",
            "/config/metadata/k",
            "/config/run_id",
            "/history/0/call_id",
            "/input/0",
            "/variables/a",
        ]
    );
}

#[test]
fn a_body_full_of_mistakes_is_not_answered_at_length() {
    let fields: Map<String, Value> = (0..5000).map(|n| (format!("field{n}"), json!(n))).collect();
    assert_eq!(refusals(&Value::Object(fields)).len(), read::VIOLATIONS_MAX);
    let long = "x".repeat(100_000);
    for pointer in ["/agent/model", "/config/run_id", "/config/on_limit", "/agent"] {
        for (_, detail) in refusals(&with(pointer, json!(long))) {
            assert!(detail.len() < 500, "{} bytes", detail.len());
        }
    }
    let mut asked = body();
    asked[&long] = json!(1);
    let (pointer, detail) = refusals(&asked).remove(0);
    assert!(pointer.len() + detail.len() < 1000);
}

#[test]
fn nul_is_refused_wherever_it_stands() {
    for (pointer, value) in [
        ("/input", json!("a\0b")),
        ("/agent/instructions", json!("\0")),
        ("/config/metadata/k", json!("\0")),
        ("/variables/deep/er", json!("\0")),
    ] {
        check(pointer, value, &["NUL"]);
    }
    let mut asked = body();
    asked["variables"] = json!({"a\0": 1});
    check_body(&asked, "/variables/a\\u0000", &["NUL"]);
}

#[test]
fn names_that_could_not_be_read_again_are_refused() {
    let mut asked = body();
    asked["variables"] = json!({"a": 1, "$serde_json::private::RawValue": "x"});
    check_body(&asked, "/variables/$serde_json::private::RawValue", &["reserved name"]);
}

#[test]
fn json_is_nested_64_levels_at_most() {
    let nested = |levels: usize| (0..levels).fold(json!(1), |inner, _| json!([inner]));
    // The body, `variables`, `deep`, and the number in the middle are levels too.
    accepts("/variables/deep", nested(limits::JSON_DEPTH - 3));
    let found = refusals(&with("/variables/deep", nested(limits::JSON_DEPTH - 2)));
    assert_eq!(found.len(), 1);
    assert!(found[0].0.starts_with("/variables/deep/0/0"), "{found:?}");
    assert!(found[0].1.contains("64 levels"), "{found:?}");
}

#[test]
fn metadata_is_32_keys_of_64_characters_with_512_each() {
    let keys = |count: usize| -> Value {
        (0..count).map(|n| (n.to_string(), json!("v"))).collect::<Map<String, Value>>().into()
    };
    accepts("/config/metadata", keys(32));
    check("/config/metadata", keys(33), &["32 keys", "got 33"]);
    let mut asked = body();
    asked["config"] = json!({"metadata": {"ß".repeat(64): "ß".repeat(512)}});
    assert!(Spec::parse(&asked, &catalog()).is_ok());
    let key = "k".repeat(65);
    check(&format!("/config/metadata/{key}"), json!("v"), &["64 characters", "got 65"]);
    let long = json!("v".repeat(513));
    check("/config/metadata/k", long, &["512 characters", "got 513"]);
    check("/config/metadata/k", json!(1), &["a string", "512 characters", "got 1"]);
    check("/config/metadata/k", json!({"a": 1}), &["a string", "an object"]);
}

#[test]
fn variables_have_64_kib_as_json() {
    // {"v":"…"}
    let fits = limits::VARIABLES_BYTES - 8;
    accepts("/variables", json!({"v": "x".repeat(fits)}));
    let long = json!({"v": "x".repeat(fits + 1)});
    check("/variables", long, &["65536 bytes", "got 65537"]);
}

#[test]
fn a_run_id_is_one_of_a_client() {
    accepts("/config/run_id", json!("order-17.retry:2_b"));
    let uuid = "019aa8f2-5c1e-7cc3-8a5d-9b1f2c3d4e5f";
    for wrong in ["", "-a", "a b", "a/b", "ä", uuid, &uuid.to_uppercase(), &"a".repeat(129)] {
        check(
            "/config/run_id",
            json!(wrong),
            &["[A-Za-z0-9][A-Za-z0-9._:-]{0,127}", "UUID", "got"],
        );
    }
}

#[test]
fn a_model_is_one_or_a_list_and_absent_the_default() {
    assert_eq!(accepts("/agent/model", json!("openai/x")).agent.model.0, ["openai/x"]);
    let several = accepts("/agent/model", json!(["openai/x", "openai/y/z"]));
    assert_eq!(several.agent.model.0, ["openai/x", "openai/y/z"]);
    for absent in [json!(null), json!([])] {
        assert_eq!(accepts("/agent/model", absent).agent.model.0, ["demo/assistant"]);
    }
    let many: Value = (0..9).map(|n| json!(format!("openai/{n}"))).collect();
    check("/agent/model", many, &["at most 8", "got 9"]);
    accepts("/agent/model", json!(format!("openai/{}", "ß".repeat(249))));
    let long = json!(format!("openai/{}", "ß".repeat(250)));
    check("/agent/model", long, &["at most 256 characters", "got 257"]);
}

#[test]
fn codes_tell_unknown_models_agents_and_prices_from_other_mistakes() {
    let code = |body: &Value| {
        let found = Spec::parse(body, &catalog()).expect_err("it is refused");
        assert_eq!(found.len(), 1, "{found:?}");
        (found[0].code, found[0].detail.clone())
    };
    for unknown in ["nobody/x", "demo/", "demo", "demo/other", "openai/", "openai", "/x", ""] {
        let (code, detail) = code(&with("/agent/model", json!(unknown)));
        assert_eq!(code, Code::UnknownModel);
        assert!(detail.contains("openai/*, anthropic/*, demo/assistant"), "{detail}");
    }
    let (unknown, detail) = code(&with("/agent", json!("support@3")));
    assert_eq!(unknown, Code::UnknownAgent);
    assert!(detail.contains("`support@3`"), "{detail}");
    let (unknown, detail) = code(&with("/config/max_cost_usd", json!(0.5)));
    assert_eq!(unknown, Code::UnknownPrice);
    assert!(detail.contains("demo/assistant"), "{detail}");
    assert_eq!(code(&with("/config/max_turns", json!(0))).0, Code::InvalidRequest);
}

#[test]
fn instructions_name_known_variables_only() {
    let mut asked = with("/agent/instructions", json!("Help {{user}} with {{order.id}}"));
    asked["variables"] = json!({"user": "Ann", "order": {"id": 17}});
    let spec = Spec::parse(&asked, &catalog()).expect("both are there");
    assert_eq!(spec.instructions(&spec.variables).as_deref(), Some("Help Ann with 17"));
    asked["variables"] = json!({"user": "Ann"});
    check_body(&asked, "/agent/instructions", &["`order.id`", "variables"]);
    asked["agent"]["instructions"] = json!("{{v}}".repeat(1000));
    asked["variables"] = json!({"v": "x".repeat(60_000)});
    check_body(&asked, "/agent/instructions", &["8388608 bytes"]);
}

#[test]
fn an_agents_name_has_1_to_128_characters() {
    accepts("/agent/name", json!("ß".repeat(128)));
    check("/agent/name", json!("a".repeat(129)), &["1 to 128", "got 129"]);
    check("/agent/name", json!(""), &["1 to 128", "got 0"]);
}

#[test]
fn tools_are_checked_one_by_one() {
    let tool = |changed: Value| {
        let mut tool = json!({"type": "builtin", "name": "calculator"});
        for (name, value) in changed.as_object().expect("an object") {
            tool[name] = value.clone();
        }
        with("/agent/tools", json!([tool]))
    };
    let at = |name: &str| format!("/agent/tools/0/{name}");
    assert!(Spec::parse(&tool(json!({"timeout": 3600})), &catalog()).is_ok());
    check_body(&tool(json!({"timeout": 0})), &at("timeout"), &["0.001 and 3600", "got 0"]);
    check_body(&tool(json!({"timeout": "1s"})), &at("timeout"), &["seconds", "\"1s\""]);
    check_body(&tool(json!({"name": "a.b"})), &at("name"), &["1 to 64 of", "\"a.b\""]);
    check_body(&tool(json!({"name": "a".repeat(65)})), &at("name"), &["1 to 64 of"]);
    let unknown = tool(json!({"name": "telescope"}));
    check_body(&unknown, &at("name"), &["`telescope`", "calculator, current_time"]);
    for own in ["description", "parameters"] {
        check_body(&tool(json!({own: "x"})), &at(own), &["has its own"]);
    }
    check_body(&tool(json!({"effect": "once"})), &at("effect"), &["has its own"]);
    check_body(&tool(json!({"effect": "twice"})), &at("effect"), &["read, idempotent or once"]);
    let calculator = json!({"type": "builtin", "name": "calculator"});
    let twice = with("/agent/tools", json!([calculator, calculator]));
    check_body(&twice, "/agent/tools/1/name", &["another tool", "calculator"]);
    let many = with("/agent/tools", (0..129).map(|_| calculator.clone()).collect());
    check_body(&many, "/agent/tools", &["128 tools", "got 129"]);
}

#[test]
fn a_tool_choice_names_a_tool_of_the_agent() {
    let chosen = |choice: Value| {
        let mut asked = with("/agent/model_settings/tool_choice", choice);
        asked["agent"]["tools"] = json!([{"type": "builtin", "name": "calculator"}]);
        asked
    };
    let good = [json!("auto"), json!("none"), json!("required"), json!({"name": "calculator"})];
    for choice in good {
        assert!(Spec::parse(&chosen(choice), &catalog()).is_ok());
    }
    let place = "/agent/model_settings/tool_choice";
    check_body(&chosen(json!({"name": "x"})), place, &["\"x\"", "no tool of the agent"]);
    check_body(&chosen(json!("any")), place, &["auto", "none", "required", "\"any\""]);
}

#[test]
fn a_preview_is_160_characters_with_single_spaces() {
    assert_eq!(preview(" a\n\n b\t"), "a b");
    assert_eq!(preview("a\0b"), "a\u{fffd}b");
    let long = preview(&"ß ".repeat(1000));
    assert_eq!(long.chars().count(), limits::PREVIEW_CHARS);
}
