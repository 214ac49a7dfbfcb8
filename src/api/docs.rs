//! The reference where it is looked for: `openapi.yaml`, `openapi.json`, and a page for people.
//!
//! None of it needs a key, as the probes need none: it says what this release can do, which anyone
//! can read in its source, and nothing of this installation or its data.

use std::sync::LazyLock;

use axum::http::{HeaderName, header};
use axum::response::{IntoResponse, Response};

use super::openapi::{self, Form};
use super::problem::Problem;
use super::request::{Parameters, invalid};

/// Where all this stands: the paths that need no key.
pub(super) const PATHS: [&str; 4] =
    ["/openapi.yaml", "/openapi.json", "/docs", "/docs/rapidoc-min.js"];

/// The versions of OpenAPI that can be asked for.
pub(super) const VERSIONS: [&str; 2] = ["3.1", "3.0"];

static YAML: LazyLock<String> = LazyLock::new(|| openapi::text(Form::Yaml));
static JSON: LazyLock<String> = LazyLock::new(|| openapi::text(Form::Json));
static OLDER_JSON: LazyLock<String> = LazyLock::new(|| openapi::text(Form::OlderJson));

/// The page, and the one script that it needs: RapiDoc as its authors build it, see
/// `docs/README.md`.
const PAGE: &str = include_str!("docs/page.html");
const SCRIPT: &str = include_str!("docs/rapidoc-min.js");

/// What the page may do: run its own script, ask its own service. RapiDoc sets styles inline.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
    img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'";

/// `GET /openapi.yaml`
pub(super) async fn yaml(parameters: Parameters) -> Result<Response, Problem> {
    parameters.only(&[])?;
    Ok(([(header::CONTENT_TYPE, "application/yaml")], YAML.as_str()).into_response())
}

/// `GET /openapi.json`
pub(super) async fn json(parameters: Parameters) -> Result<Response, Problem> {
    parameters.only(&["version"])?;
    let text = match parameters.one("version")? {
        None | Some("3.1") => JSON.as_str(),
        Some("3.0") => OLDER_JSON.as_str(),
        Some(_) => return Err(invalid("version", "must be 3.1 or 3.0")),
    };
    Ok(([(header::CONTENT_TYPE, "application/json")], text).into_response())
}

/// `GET /docs`
pub(super) async fn page(parameters: Parameters) -> Result<Response, Problem> {
    parameters.only(&[])?;
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (HeaderName::from_static("x-frame-options"), "DENY"),
    ];
    Ok((headers, PAGE).into_response())
}

/// `GET /docs/rapidoc-min.js`
pub(super) async fn script(parameters: Parameters) -> Result<Response, Problem> {
    parameters.only(&[])?;
    let headers = [
        (header::CONTENT_TYPE, "text/javascript; charset=utf-8"),
        (header::CACHE_CONTROL, "public, max-age=86400"),
    ];
    Ok((headers, SCRIPT).into_response())
}
