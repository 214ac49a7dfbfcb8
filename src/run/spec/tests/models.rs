//! What a spec may ask of a model: by its price, and by what its provider can be told.

use super::*;

#[test]
fn a_limit_of_money_needs_the_price_of_every_model_that_may_be_asked() {
    let code = |body: &Value| {
        let found = Spec::parse(body, &catalog()).expect_err("it is refused");
        assert_eq!(found.len(), 1, "{found:?}");
        (found[0].code, found[0].detail.clone())
    };
    let mut several = with("/config/max_cost_usd", json!(0.5));
    several["agent"]["model"] = json!(["openai/priced", "openai/unknown"]);
    let (unknown, detail) = code(&several);
    assert_eq!(unknown, Code::UnknownPrice);
    assert_eq!(detail, "no price is configured for \"openai/unknown\"");
    several["agent"]["model"] = json!("openai/priced");
    assert!(Spec::parse(&several, &catalog()).is_ok());
    several["config"]["max_cost_usd"] = json!(0);
    assert_eq!(code(&several), (Code::InvalidRequest, "must be more than 0, got 0".to_owned()));
}

#[test]
fn an_effort_that_a_models_dialect_cannot_say_is_refused_in_words() {
    let mut asked = with("/agent/model_settings/reasoning_effort", json!("extreme"));
    asked["agent"]["model"] = json!("openai/x");
    assert!(Spec::parse(&asked, &catalog()).is_ok(), "the provider knows its own");
    asked["agent"]["model"] = json!(["openai/x", "anthropic/x"]);
    let place = "/agent/model_settings/reasoning_effort";
    check_body(&asked, place, &["low, high", "anthropic/x", "extreme"]);
    asked["agent"]["model_settings"]["reasoning_effort"] = json!("high");
    assert!(Spec::parse(&asked, &catalog()).is_ok());
}

#[test]
fn a_whole_number_may_be_written_with_a_point() {
    let spec = accepts("/config/max_turns", json!(7.0));
    assert_eq!(spec.config.max_turns, 7);
    let spec = accepts("/agent/model_settings/max_output_tokens", json!(1701.0));
    assert_eq!(spec.agent.model_settings.max_output_tokens, Some(1701));
    check("/config/max_turns", json!(7.5), &["a whole number", "got 7.5"]);
    check("/config/max_turns", json!(-1.0), &["a whole number", "got -1"]);
    check("/config/max_total_tokens", json!(2e19), &["a whole number", "got 2e+19"]);
}
