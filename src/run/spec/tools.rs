//! The rules for an agent's tools.

use std::collections::BTreeSet;

use serde_json::Value;
use url::{Host, Url};

use super::check::{out_of, quoted, wrong};
use super::read::{short, step};
use super::{Agent, Code, Tool, ToolKind, Violation};
use crate::run::catalog::Catalog;
use crate::run::secret::{self, Piece};
use crate::run::{limits, schema};

/// Headers that are the call's own, or the connection's: whoever could set them could smuggle
/// requests, or break the promise of the key.
const OWN_HEADERS: [&str; 14] = [
    "accept-encoding",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
    "idempotency-key",
    "keep-alive",
    "te",
    "traceparent",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

pub(super) fn tools(agent: &Agent, catalog: &Catalog, found: &mut Vec<Violation>) {
    let tools = &agent.tools;
    if tools.len() > limits::TOOLS {
        found.push(wrong(
            "/agent/tools",
            format!("must have at most {} tools, got {}", limits::TOOLS, tools.len()),
        ));
        return;
    }
    let mut names = BTreeSet::new();
    for (place, one) in tools.iter().enumerate() {
        let pointer = format!("/agent/tools/{place}");
        tool(one, &pointer, catalog, found);
        if !names.insert(&one.name) {
            found.push(wrong(
                format!("{pointer}/name"),
                format!("another tool is called {} already", quoted(&one.name)),
            ));
        }
    }
    tool_choice(agent, found);
}

fn tool(tool: &Tool, pointer: &str, catalog: &Catalog, found: &mut Vec<Violation>) {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    let has_name = (1..=64).contains(&tool.name.len()) && tool.name.bytes().all(plain);
    if !has_name {
        found.push(wrong(
            format!("{pointer}/name"),
            format!("must be 1 to 64 of [A-Za-z0-9_-], got {}", quoted(&tool.name)),
        ));
    }
    match tool.kind {
        ToolKind::Builtin => builtin(tool, has_name, pointer, catalog, found),
        ToolKind::Http => http(tool, pointer, catalog, found),
    }
    if !limits::TOOL_TIMEOUT.contains(&tool.timeout) {
        found.push(out_of(format!("{pointer}/timeout"), &limits::TOOL_TIMEOUT, tool.timeout));
    }
}

fn builtin(
    tool: &Tool,
    has_name: bool,
    pointer: &str,
    catalog: &Catalog,
    found: &mut Vec<Violation>,
) {
    if has_name && catalog.builtin(&tool.name).is_none() {
        let known: Vec<&str> = catalog.builtins.iter().map(|one| one.name.as_str()).collect();
        found.push(wrong(
            format!("{pointer}/name"),
            format!("there is no built-in tool `{}`; there are {}", tool.name, known.join(", ")),
        ));
    }
    for (name, is_given) in [
        ("description", tool.description.is_some()),
        ("parameters", tool.parameters.is_some()),
        ("effect", tool.effect.is_some()),
    ] {
        if is_given {
            found.push(wrong(
                format!("{pointer}/{name}"),
                format!("a built-in tool has its own {name}; leave it out"),
            ));
        }
    }
    for (name, is_given) in [("url", tool.url.is_some()), ("headers", !tool.headers.is_empty())] {
        if is_given {
            let detail = format!("a built-in tool has no {name}; leave it out");
            found.push(wrong(format!("{pointer}/{name}"), detail));
        }
    }
}

fn http(tool: &Tool, pointer: &str, catalog: &Catalog, found: &mut Vec<Violation>) {
    let host = match tool.url.as_deref().map(destination) {
        None => {
            let place = format!("{pointer}/url");
            // One that is no string has been told already.
            if !found.iter().any(|one| one.pointer == place) {
                found.push(wrong(place, "is required: an http or https URL"));
            }
            None
        }
        Some(Err(detail)) => {
            found.push(wrong(format!("{pointer}/url"), detail));
            None
        }
        Some(Ok(host)) => Some(host),
    };
    if let Some(schema) = &tool.parameters {
        parameters(schema, &format!("{pointer}/parameters"), found);
    }
    let pointer = format!("{pointer}/headers");
    let bytes: usize = tool.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    let (headers_max, bytes_max) = limits::TOOL_HEADERS;
    if tool.headers.len() > headers_max || bytes > bytes_max {
        let got = tool.headers.len();
        found.push(wrong(
            pointer,
            format!(
                "must have at most {headers_max} headers of {bytes_max} bytes in all, \
                 got {got} of {bytes}"
            ),
        ));
        return;
    }
    let mut names = BTreeSet::new();
    for (name, value) in &tool.headers {
        let pointer = format!("{pointer}{}", step(name));
        if let Some(detail) = header(name, value) {
            found.push(wrong(pointer, detail));
        } else if !names.insert(name.to_ascii_lowercase()) {
            found.push(wrong(pointer, "is there twice: names differ in more than their case"));
        } else {
            secrets(value, host.as_deref(), &pointer, catalog, found);
        }
    }
}

/// The host of a tool's URL, in the form in which hosts are compared. The URL is not repeated where
/// it is wrong: it may hold a password.
fn destination(text: &str) -> Result<String, String> {
    let right = "must be an http or https URL";
    if text.len() > limits::TOOL_URL_BYTES {
        let most = limits::TOOL_URL_BYTES;
        return Err(format!("{right} of at most {most} bytes, got {} bytes", text.len()));
    }
    let url = Url::parse(text).map_err(|error| format!("{right}: {error}"))?;
    if !["http", "https"].contains(&url.scheme()) {
        return Err(format!("{right}, got the scheme {}", quoted(url.scheme())));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(format!("{right} without user and password: send them in a header"));
    }
    match url.host() {
        Some(Host::Domain("")) | None => Err(format!("{right} with a host")),
        Some(Host::Domain(_) | Host::Ipv4(_) | Host::Ipv6(_)) => {
            Ok(url.host_str().unwrap_or_default().to_owned())
        }
    }
}

fn parameters(of_tool: &Value, pointer: &str, found: &mut Vec<Violation>) {
    let bytes = of_tool.to_string().len();
    if !of_tool.is_object() {
        let detail = format!("must be a JSON Schema, an object, got {}", short(of_tool));
        found.push(wrong(pointer, detail));
    } else if bytes > limits::PARAMETERS_BYTES {
        let most = limits::PARAMETERS_BYTES;
        found.push(wrong(pointer, format!("must be at most {most} bytes as JSON, got {bytes}")));
    } else if let Err(schema::Unusable { pointer: place, detail }) = schema::check(of_tool) {
        let place: String = place.chars().take(200).collect();
        let detail: String = detail.chars().take(limits::ERROR_CHARS).collect();
        found.push(wrong(
            format!("{pointer}{place}"),
            format!("is no JSON Schema that can be used here: {detail}"),
        ));
    }
}

/// What is wrong with a header as it is written.
fn header(name: &str, value: &str) -> Option<String> {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let lower = name.to_ascii_lowercase();
    if name.is_empty() || !name.bytes().all(is_token) {
        Some("is no name of a header".to_owned())
    } else if OWN_HEADERS.contains(&lower.as_str()) || lower.starts_with("proxy-") {
        Some("is set by the service; leave it out".to_owned())
    } else if !value.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) {
        Some("must be visible ASCII characters and spaces".to_owned())
    } else if secret::pieces(value).is_none() {
        Some("must name a secret as ${secret:NAME}, NAME being 1 to 64 of [A-Za-z0-9_-]".to_owned())
    } else {
        None
    }
}

/// The secrets that a header names: they are there, and are for this host.
fn secrets(
    value: &str,
    host: Option<&str>,
    pointer: &str,
    catalog: &Catalog,
    found: &mut Vec<Violation>,
) {
    for piece in secret::pieces(value).unwrap_or_default() {
        let Piece::Secret(name) = piece else { continue };
        match (catalog.secrets.get(name), host) {
            (None, _) => found.push(wrong(
                pointer,
                format!(
                    "there is no secret `{name}`; the operator's settings have none of this name"
                ),
            )),
            (Some(hosts), Some(host)) if !hosts.iter().any(|one| one == host) => {
                found.push(Violation {
                    pointer: pointer.to_owned(),
                    detail: format!("the secret `{name}` may not be sent to {}", quoted(host)),
                    code: Code::SecretNotAllowed,
                });
            }
            (Some(_), Some(_) | None) => {}
        }
    }
}

fn tool_choice(agent: &Agent, found: &mut Vec<Violation>) {
    let Some(choice) = &agent.model_settings.tool_choice else { return };
    let pointer = "/agent/model_settings/tool_choice";
    let named = choice.get("name").and_then(Value::as_str);
    match (choice.as_str(), named) {
        (Some("auto" | "none" | "required"), _) => {}
        (_, Some(name)) if agent.tools.iter().any(|tool| tool.name == name) => {}
        (_, Some(name)) => {
            let name = quoted(name);
            found.push(wrong(pointer, format!("names {name}, which is no tool of the agent")));
        }
        (_, None) => found.push(wrong(
            pointer,
            format!(
                r#"must be "auto", "none", "required" or {{"name": TOOL}}, got {}"#,
                short(choice)
            ),
        )),
    }
}
