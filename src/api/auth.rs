//! Who calls: static bearer keys, or nobody in particular on a loopback service without keys.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use crate::api::docs;
use crate::api::problem::{ErrorCode, Problem};
use crate::api::tokens::StreamOf;
use crate::config::Secret;

/// Probes come from orchestrators, which hold no keys; the answers tell nothing else.
const EXEMPT: [&str; 2] = ["/healthz", "/readyz"];

/// Who sent the request: an extension of every request that passed [`authenticate`], except on
/// the probes and the reference when keys are required.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// `local` with auth off, else the place of the key: `key:static-1`; or `token:RUN`, who may read
    /// that run's stream.
    pub by: String,
}

/// The operator's static keys. Only digests are kept; none means that auth is off.
#[derive(Clone, Default)]
pub struct Keys {
    digests: Vec<[u8; 32]>,
}

impl Keys {
    /// The keys of the configuration, in its order: the first is `key:static-1`.
    pub fn new(keys: &[Secret]) -> Self {
        let digests = keys.iter().map(|key| Sha256::digest(key.expose()).into()).collect();
        Self { digests }
    }

    /// Whether requests need a key.
    pub fn is_required(&self) -> bool {
        !self.digests.is_empty()
    }

    /// The caller behind a bearer token. Takes the same time wherever the key stands, or if it is
    /// none.
    pub fn caller(&self, token: &[u8]) -> Option<Caller> {
        let digest: [u8; 32] = Sha256::digest(token).into();
        let mut place = 0u32;
        for (candidate, index) in self.digests.iter().zip(1u32..) {
            let is_equal: Choice = candidate.ct_eq(&digest);
            place.conditional_assign(&index, is_equal);
        }
        (place > 0).then(|| Caller { by: format!("key:static-{place}") })
    }
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").field("count", &self.digests.len()).finish()
    }
}

/// Middleware: puts the [`Caller`] into the request's extensions, or answers `unauthenticated`.
pub async fn authenticate(
    State(keys): State<Arc<Keys>>,
    mut request: Request,
    next: Next,
) -> Response {
    if !keys.is_required() {
        request.extensions_mut().insert(Caller { by: "local".to_owned() });
    } else if let Some(caller) = bearer(request.headers()).and_then(|token| keys.caller(token)) {
        request.extensions_mut().insert(caller);
    } else if let Some(StreamOf(run)) = request.extensions().get().copied() {
        request.extensions_mut().insert(Caller { by: format!("token:{run}") });
    } else if !is_exempt(request.uri().path()) {
        let detail = "send `Authorization: Bearer KEY` with one of the keys of this service";
        return Problem::new(ErrorCode::Unauthenticated, detail).into_response();
    }
    next.run(request).await
}

fn is_exempt(path: &str) -> bool {
    EXEMPT.contains(&path) || docs::PATHS.contains(&path)
}

/// The token of the one `Authorization` header. Two of them are none: a proxy and we could
/// otherwise disagree about which counts.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let (scheme, token) = value.as_bytes().split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::{Body, to_bytes};
    use axum::routing::get;
    use axum::{Extension, Router, middleware};
    use tower::ServiceExt;

    async fn call(keys: &[&str], path: &str, headers: &[(&str, &str)]) -> (u16, String) {
        let keys: Vec<Secret> = keys.iter().map(|key| Secret::new(*key)).collect();
        let who = |caller: Option<Extension<Caller>>| async move {
            caller.map_or_else(|| "nobody".to_owned(), |Extension(caller)| caller.by)
        };
        let router = Router::new()
            .route("/healthz", get(who))
            .route("/readyz", get(who))
            .route("/openapi.yaml", get(who))
            .route("/docs", get(who))
            .route("/metrics", get(who))
            .route("/runs", get(who))
            .layer(middleware::from_fn_with_state(Arc::new(Keys::new(&keys)), authenticate));
        let mut request = Request::builder().uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = router.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        let status = response.status().as_u16();
        if status == 401 {
            assert_eq!(response.headers()[header::WWW_AUTHENTICATE], "Bearer");
            return (status, String::new());
        }
        let body = to_bytes(response.into_body(), 65_536).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn without_keys_everybody_is_local() {
        assert_eq!(call(&[], "/runs", &[]).await, (200, "local".into()));
        let foreign = ("authorization", "Bearer whatever");
        assert_eq!(call(&[], "/runs", &[foreign]).await, (200, "local".into()));
    }

    #[tokio::test]
    async fn a_key_names_its_place() {
        let keys = ["alpha", "beta"];
        let first = call(&keys, "/runs", &[("authorization", "Bearer alpha")]).await;
        assert_eq!(first, (200, "key:static-1".into()));
        let second = call(&keys, "/metrics", &[("authorization", "bearer  beta ")]).await;
        assert_eq!(second, (200, "key:static-2".into()));
    }

    #[tokio::test]
    async fn everything_but_the_probes_and_the_reference_needs_a_key() {
        let keys = ["alpha"];
        let refused = (401, String::new());
        assert_eq!(call(&keys, "/runs", &[]).await, refused);
        assert_eq!(call(&keys, "/metrics", &[]).await, refused);
        assert_eq!(call(&keys, "/nowhere", &[]).await, refused);
        assert_eq!(call(&keys, "/healthz", &[]).await, (200, "nobody".into()));
        assert_eq!(call(&keys, "/readyz", &[]).await, (200, "nobody".into()));
        assert_eq!(call(&keys, "/openapi.yaml", &[]).await, (200, "nobody".into()));
        assert_eq!(call(&keys, "/docs", &[]).await, (200, "nobody".into()));
        assert_eq!(call(&keys, "/docs/", &[]).await, refused);
        for wrong in ["Bearer beta", "Bearer ", "Bearer", "Basic alpha", "alpha", "Bearer alphaa"] {
            assert_eq!(call(&keys, "/runs", &[("authorization", wrong)]).await, refused, "{wrong}");
        }
        let twice = [("authorization", "Bearer alpha"), ("authorization", "Bearer beta")];
        assert_eq!(call(&keys, "/runs", &twice).await, refused);
    }

    #[test]
    fn debug_shows_no_digest() {
        assert_eq!(format!("{:?}", Keys::new(&[Secret::new("alpha")])), "Keys { count: 1 }");
    }
}
