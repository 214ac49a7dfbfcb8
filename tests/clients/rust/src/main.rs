//! Creates and reads a run with the client that was generated from `openapi.yaml`.

use std::env;

use anyhow::{Context, ensure};
use progenitor_client::Error;
use serde_json::json;

mod runledger {
    include!(concat!(env!("OUT_DIR"), "/runledger.rs"));
}
use runledger::types::{
    Agent, BuiltinTool, BuiltinToolName, BuiltinToolType, Config, Input, KnownEvent, RunRequest,
    Status, Tool,
};

fn request() -> anyhow::Result<RunRequest> {
    let calculator = BuiltinTool {
        name: BuiltinToolName::Calculator,
        timeout: None,
        type_: BuiltinToolType::Builtin,
    };
    let agent = Agent {
        name: Some("Assistant".parse()?),
        instructions: None,
        model: Some(serde_json::from_value(json!("demo/assistant"))?),
        model_settings: None,
        tools: Some(vec![Tool::BuiltinTool(calculator)]),
    };
    Ok(RunRequest {
        agent,
        input: Input::String("What is 17 * 23?".to_owned()),
        config: Some(Config { run_id: Some("rust-1".parse()?), ..Config::default() }),
        history: None,
        variables: None,
    })
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let key = format!("Bearer {}", env::var("RUNLEDGER_API_KEY")?);
    let headers = [(reqwest::header::AUTHORIZATION, key.parse()?)].into_iter().collect();
    let http = reqwest::Client::builder().default_headers(headers).build()?;
    let client = runledger::Client::new_with_client(&env::var("RUNLEDGER_URL")?, http);

    let models = client.list_models().await?;
    ensure!(models.default_model == "demo/assistant", "{models:?}");

    let mut body = request()?;
    let key = "rust-1".parse()?;
    let wait = Some(60);
    let created =
        client.create_run(None, None, None, wait, Some(&key), None, None, None, &body).await?;
    ensure!(created.status() == 201 && created.headers()["location"] == "/runs/rust-1");

    let id = "rust-1".parse()?;
    let run = client.get_run(&id, None, None, None).await?.into_inner();
    ensure!(run.status == Status::Completed, "{run:?}");
    ensure!(run.tool_calls[0].result == json!(391), "{run:?}");
    let output = run.final_output.context("it has an answer")?;
    ensure!(output.contains("391"), "{output}");

    let id = "rust-1".parse()?;
    let types = "tool_call,tool_result".parse()?;
    let page = client.list_events(&id, None, None, None, Some(&types), None, None).await?;
    let result = serde_json::to_value(&page.data[1])?;
    let KnownEvent::ToolResultEvent(result) = serde_json::from_value(result)? else {
        anyhow::bail!("it is of another type");
    };
    ensure!(result.tool_name == "calculator" && result.result == json!(391));

    let again =
        client.create_run(None, None, None, None, Some(&key), None, None, None, &body).await?;
    ensure!(again.status() == 200 && again.headers()["idempotent-replayed"] == "true");

    body.config = Some(Config { max_cost_usd: Some(1.0), ..Config::default() });
    let refused = client.create_run(None, None, None, None, None, None, None, None, &body).await;
    let Err(Error::ErrorResponse(problem)) = refused else {
        anyhow::bail!("it has no price, and was not refused");
    };
    ensure!(problem.code == "unknown_price", "{problem:?}");

    println!("rust: {} {}: {output}", run.run_id, run.status);
    Ok(())
}
