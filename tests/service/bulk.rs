//! Many runs at once, whose answers are not each held against the reference: other tests do that.

use futures_util::{Stream, StreamExt, stream};
use serde_json::{Value, json};

use crate::client::Client;
use crate::waiting::within;

/// How many requests are under way at once.
pub const AT_ONCE: usize = 32;

/// A batch takes so many.
const BATCH: usize = 1000;

/// Creates runs, a thousand in a request; gives their ids.
pub async fn create(client: &Client, bodies: &[Value]) -> Vec<String> {
    let mut ids = Vec::new();
    for some in bodies.chunks(BATCH) {
        let batch = ask(client, reqwest::Method::POST, "/batches", &json!({"runs": some})).await;
        assert_eq!(batch.0, 201, "{}", batch.1);
        ids.extend(batch.1["run_ids"].as_array().unwrap().iter().map(|id| text(id).to_owned()));
    }
    ids
}

/// The text that a value is.
#[track_caller]
pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}

/// Status and body of an answer.
pub async fn ask(
    client: &Client,
    method: reqwest::Method,
    path: &str,
    body: &Value,
) -> (u16, Value) {
    try_ask(client, method, path, body, &[]).await.unwrap()
}

/// The same, where the service may go away.
///
/// # Errors
/// No whole answer came.
pub async fn try_ask(
    client: &Client,
    method: reqwest::Method,
    path: &str,
    body: &Value,
    headers: &[(&str, &str)],
) -> Result<(u16, Value), reqwest::Error> {
    let mut request = client.request(method, path);
    if !body.is_null() {
        request = request.header("content-type", "application/json").body(body.to_string());
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let asking = async {
        let response = request.send().await?;
        let status = response.status().as_u16();
        Ok((status, response.text().await?))
    };
    let (status, text) = within("an answer", asking).await?;
    Ok((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
}

pub async fn get(client: &Client, path: &str) -> Value {
    let (status, body) = ask(client, reqwest::Method::GET, path, &Value::Null).await;
    assert_eq!(status, 200, "{path}: {body}");
    body
}

/// The run once it has ended.
pub async fn ended(client: &Client, run: &str) -> Value {
    let run = get(client, &format!("/runs/{run}?wait=80")).await;
    assert!(crate::client::is_terminal(&run), "it has not ended in time: {run}");
    run
}

/// A run's whole log, where it has at most a thousand events.
pub async fn log(client: &Client, run: &str) -> Vec<Value> {
    let page = get(client, &format!("/runs/{run}/events?limit=1000")).await;
    page["data"].as_array().unwrap().clone()
}

/// Does something with each, so many at once; the results are in order.
pub fn each<T, I, F: Future<Output = T>>(
    items: I,
    at_once: usize,
    work: impl FnMut(I::Item) -> F,
) -> impl Stream<Item = T>
where
    I: IntoIterator,
{
    stream::iter(items.into_iter().map(work)).buffered(at_once)
}

/// [`each`], collected.
pub async fn all<T, I, F: Future<Output = T>>(items: I, work: impl FnMut(I::Item) -> F) -> Vec<T>
where
    I: IntoIterator,
{
    each(items, AT_ONCE, work).collect().await
}

/// The value below which 99 of 100 lie.
pub fn p99<T: Ord + Copy>(values: &mut [T]) -> T {
    values.sort_unstable();
    values[(values.len() * 99 / 100).min(values.len() - 1)]
}
