//! Tokens for one run's stream: what a web page may hold where the service asks for keys.
//!
//! A token is the run's own id and the time of its end, signed with a key that the installation has
//! made up and keeps in its database, so that every node knows the tokens of the others. It opens
//! `GET /runs/{id}/stream` and nothing else, and is looked at when a client connects.

use std::sync::Arc;

use axum::Extension;
use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::OnceCell;

use super::guard::RequestId;
use super::problem::{ErrorCode, FieldError, Problem};
use super::request::{Name, Parameters, body, must_be_json};
use super::{ApiState, TENANT, wire};
use crate::journal::timestamp;
use crate::run::{RunId, plain};
use crate::store::{Store, StoreError};

/// Seconds that a token is good for when nobody says, at least, and at most.
pub(super) const TTL_DEFAULT: u64 = 3600;
pub(super) const TTL: std::ops::RangeInclusive<u64> = 60..=86_400;

/// What is signed begins so: a signature for this is one for nothing else.
const PURPOSE: &[u8] = b"runledger stream token 1\0";

/// Where the signing key stands in the database.
const KEY_NAME: &str = "stream_tokens";

/// A run's id, and seconds since 1970.
const CLAIMS: usize = 16 + 8;
const SIGNATURE: usize = 32;

/// Makes and reads tokens. The key is read at the first.
#[derive(Debug)]
pub struct StreamTokens {
    store: Store,
    key: OnceCell<SigningKey>,
}

/// Not shown.
struct SigningKey(Vec<u8>);

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SigningKey")
    }
}

/// The run whose stream the request's token opens: an extension of requests that have a good one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StreamOf(pub(super) RunId);

impl StreamTokens {
    /// For the tokens of this installation.
    pub fn new(store: Store) -> StreamTokens {
        StreamTokens { store, key: OnceCell::new() }
    }

    async fn key(&self) -> Result<&SigningKey, StoreError> {
        let known = || async {
            // Each of them has at least 32 bits of the system's own randomness.
            let random: Vec<u8> = (0..8).flat_map(|_| *uuid::Uuid::now_v7().as_bytes()).collect();
            let candidate = Sha256::digest(random).to_vec();
            self.store.secret(KEY_NAME, candidate).await.map(SigningKey)
        };
        self.key.get_or_try_init(known).await
    }

    async fn make(&self, run: RunId, ends_at: u64) -> Result<String, StoreError> {
        let mut token = [run.0.as_bytes().as_slice(), &ends_at.to_be_bytes()].concat();
        let signature = signing(self.key().await?, &token).finalize().into_bytes();
        token.extend(signature);
        Ok(URL_SAFE_NO_PAD.encode(token))
    }

    /// The run whose stream this token opens.
    async fn read(&self, token: &str, now_ms: i64) -> Result<RunId, Problem> {
        let foreign = || {
            let detail = "the token is none of this service: make one with \
                          POST /runs/{id}/stream_tokens";
            Problem::new(ErrorCode::Unauthenticated, detail)
        };
        let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_not_base_64| foreign())?;
        let bytes: [u8; CLAIMS + SIGNATURE] = bytes.try_into().map_err(|_length| foreign())?;
        let (claims, signature) = bytes.split_at(CLAIMS);
        // Compared in the same time wherever it differs.
        let signed = signing(self.key().await?, claims).verify_slice(signature);
        signed.map_err(|_differs| foreign())?;
        let (run, ends_at) = claims.split_at(16);
        let ends_at = ends_at.try_into().map_or(0, u64::from_be_bytes);
        if u64::try_from(now_ms / 1000).unwrap_or(0) >= ends_at {
            let detail = "the token has expired: make another with POST /runs/{id}/stream_tokens";
            return Err(Problem::new(ErrorCode::Unauthenticated, detail));
        }
        uuid::Uuid::from_slice(run).map(RunId).map_err(|_length| foreign())
    }
}

fn signing(key: &SigningKey, claims: &[u8]) -> Hmac<Sha256> {
    let mut signing: Hmac<Sha256> =
        Mac::new_from_slice(&key.0).expect("HMAC takes keys of any length");
    signing.update(PURPOSE);
    signing.update(claims);
    signing
}

/// Middleware: reads the token of a request for a stream. A good one is told to whoever asks for
/// keys; with a bad one nothing is answered, whatever else the request has.
pub(super) async fn read(
    State(tokens): State<Arc<StreamTokens>>,
    mut request: Request,
    next: Next,
) -> Response {
    if let Some(token) = token(&request) {
        match tokens.read(&token, tokens.store.now_ms()).await {
            Ok(run) => {
                request.extensions_mut().insert(StreamOf(run));
            }
            Err(problem) => return problem.into_response(),
        }
    }
    next.run(request).await
}

/// The first `token` of the query, where a stream is asked for.
fn token(request: &Request) -> Option<String> {
    let mut steps = request.uri().path().split('/').skip(1);
    let is_stream = (steps.next(), steps.next().is_some(), steps.next(), steps.next())
        == (Some("runs"), true, Some("stream"), None);
    if !is_stream || *request.method() != Method::GET {
        return None;
    }
    let pairs = request.uri().query()?.split('&');
    pairs.filter_map(|pair| pair.strip_prefix("token=")).next().map(str::to_owned)
}

/// `POST /runs/{id}/stream_tokens`
pub(super) async fn create(
    State(api): State<ApiState>,
    Extension(id): Extension<RequestId>,
    Name(name): Name,
    parameters: Parameters,
    headers: HeaderMap,
    raw: Body,
) -> Result<Response, Response> {
    parameters.only(&[]).map_err(IntoResponse::into_response)?;
    let bytes = body(&headers, raw, &id).await?;
    let answer = async {
        let ttl = if bytes.is_empty() {
            TTL_DEFAULT
        } else {
            must_be_json(&headers)?;
            ttl(&wire::json(&bytes)?.0)?
        };
        let run = api.store.find(TENANT, &name).await?;
        let run = run.ok_or_else(|| Problem::not_found("run"))?;
        let now = api.store.now_ms().unsigned_abs() / 1000;
        let ends_at = now + ttl;
        let token = api.tokens.make(run.id, ends_at).await?;
        let url = format!("/runs/{}/stream?token={token}", run.public_id);
        let ends_at_ms = i64::try_from(ends_at * 1000).unwrap_or(i64::MAX);
        let answer = json!({"token": token, "expires_at": timestamp(ends_at_ms), "url": url});
        Ok::<_, Problem>((StatusCode::CREATED, Json(answer)).into_response())
    };
    answer.await.map_err(IntoResponse::into_response)
}

fn ttl(body: &Value) -> Result<u64, Problem> {
    let refused = |pointer: &str, detail: String| {
        Err(Problem::invalid(vec![FieldError::pointer(pointer, detail)]))
    };
    if body.is_null() {
        return Ok(TTL_DEFAULT);
    }
    let Value::Object(fields) = body else {
        return refused("", "must be an object with `ttl`, or nothing".to_owned());
    };
    if let Some(unknown) = fields.keys().find(|name| *name != "ttl") {
        let name: String = unknown.chars().take(60).collect();
        let pointer = format!("/{}", name.replace('~', "~0").replace('/', "~1"));
        return refused(&pointer, format!("unknown field `{name}`; known is ttl"));
    }
    match fields.get("ttl") {
        None | Some(Value::Null) => Ok(TTL_DEFAULT),
        Some(given) => match plain::whole_number(given).as_u64() {
            Some(seconds) if TTL.contains(&seconds) => Ok(seconds),
            Some(_) | None => {
                let (low, high) = (TTL.start(), TTL.end());
                let got: String = given.to_string().chars().take(60).collect();
                let detail = format!(
                    "must be a whole number of seconds between {low} and {high}, got {got}"
                );
                refused("/ttl", detail)
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_token_ends_at_its_time_and_is_known_to_every_process_of_the_installation() {
        let name = format!("runledger-tokens-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        let store = Store::open_sqlite(&folder).await.expect("the store opens");
        let (one, other) = (StreamTokens::new(store.clone()), StreamTokens::new(store.clone()));
        let run = RunId(uuid::Uuid::now_v7());
        let token = one.make(run, 1000).await.expect("it is made");
        let detail = |read: Result<RunId, Problem>| read.map_err(|problem| problem.detail);
        assert_eq!(detail(other.read(&token, 999_999).await), Ok(run));
        let late = detail(other.read(&token, 1_000_000).await);
        assert!(late.is_err_and(|words| words.contains("expired")));
        let foreign = detail(other.read(&token[1..], 0).await);
        assert!(foreign.is_err_and(|words| words.contains("none of this service")));
        assert_eq!(format!("{:?}", one.key().await), "Ok(SigningKey)", "it is not shown");
        store.close().await;
        // What is left behind lies in the folder for temporary files.
        let _ = std::fs::remove_dir_all(folder);
    }
}
