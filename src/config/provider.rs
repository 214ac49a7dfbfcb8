//! Model providers as configured: native ones from the environment, the others from the file.

use std::collections::BTreeMap;

use reqwest::Url;
use reqwest::header::{HeaderName, HeaderValue};

use super::file::Fields;
use super::{Mistake, Secret, Sources};
use crate::run::price::Price;

/// A provider that the environment alone can configure.
struct Native {
    name: &'static str,
    kind: ProviderKind,
    key: &'static str,
    base_url: &'static str,
    /// Where it is when nobody says otherwise.
    default: &'static str,
}

/// The native providers, the one that gives the default model first.
const NATIVE: [Native; 2] = [
    Native {
        name: "openai",
        kind: ProviderKind::OpenAi,
        key: "OPENAI_API_KEY",
        base_url: "OPENAI_BASE_URL",
        default: "https://api.openai.com/v1",
    },
    Native {
        name: "anthropic",
        kind: ProviderKind::Anthropic,
        key: "ANTHROPIC_API_KEY",
        base_url: "ANTHROPIC_BASE_URL",
        default: "https://api.anthropic.com",
    },
];

/// Requests at a time to one provider: above it, no provider's rate limit would let them through.
const CONCURRENCY_MAX: u32 = 100_000;

/// The longest name of a provider; it stands in every model's name.
const NAME_BYTES_MAX: usize = 64;

/// Which protocol a provider speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProviderKind {
    /// OpenAI's chat completions.
    OpenAi,
    /// Anthropic's messages.
    Anthropic,
}

impl ProviderKind {
    /// As the file and the API say it.
    pub fn name(self) -> &'static str {
        match self {
            Self::OpenAi => "openai",
            Self::Anthropic => "anthropic",
        }
    }
}

/// The field that carries the output limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputLimitField {
    /// OpenAI's and Azure's.
    MaxCompletionTokens,
    /// Everybody else's.
    MaxTokens,
}

impl OutputLimitField {
    /// The wire name.
    pub fn name(self) -> &'static str {
        match self {
            Self::MaxCompletionTokens => "max_completion_tokens",
            Self::MaxTokens => "max_tokens",
        }
    }
}

/// One provider, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Provider {
    /// What stands before the slash in a model's name.
    pub name: String,
    /// Its protocol.
    pub kind: ProviderKind,
    /// Without a slash at the end; for `openai` including `/v1`, for `anthropic` without.
    pub base_url: String,
    /// Absent for servers without keys.
    pub api_key: Option<Secret>,
    /// Sent with every request, e.g. an organisation. Values may be secret.
    pub headers: Vec<(String, Secret)>,
    /// Requests at a time from this node; absent: no bound of its own.
    pub max_concurrency: Option<u32>,
    /// Which field carries the output limit.
    pub output_limit_field: OutputLimitField,
    /// Whether to ask for the usage in streams.
    pub stream_usage: bool,
    /// What its models cost, by their names here.
    pub prices: BTreeMap<String, Price>,
}

/// Every provider, those of the environment first. One that has a mistake is still returned, so
/// that models can be checked.
pub(super) fn all(sources: &mut Sources<'_>, mut tables: Vec<(String, Fields)>) -> Vec<Provider> {
    let mut providers = Vec::new();
    for native in &NATIVE {
        if [native.key, native.base_url].iter().any(|name| sources.env(name).is_some()) {
            let place = tables.iter().position(|(name, _)| name == native.name);
            let fields = place.map(|place| tables.remove(place).1);
            providers.push(read(sources, native.name, fields));
        }
    }
    for (name, fields) in tables {
        providers.push(read(sources, &name, Some(fields)));
    }
    providers
}

/// One provider. For a native one the environment goes before the file.
fn read(sources: &mut Sources<'_>, name: &str, fields: Option<Fields>) -> Provider {
    let native = NATIVE.iter().find(|native| native.name == name);
    let path = format!("providers.{name}");
    let mut raw = Raw::default();
    if let Some(mut fields) = fields {
        check_name(sources, &path, name);
        raw.take(sources, &mut fields, native);
    }
    let kind = native.map(|native| native.kind).or(raw.kind).unwrap_or(ProviderKind::OpenAi);
    let from_env = native.and_then(|native| Some((native.base_url, sources.env(native.base_url)?)));
    let (setting, base_url) = match from_env {
        Some((variable, base_url)) => (variable.to_owned(), Some(base_url)),
        None => {
            let default = || native.map(|native| native.default.to_owned());
            (format!("{path}.base_url"), raw.base_url.or_else(default))
        }
    };
    let (base_url, is_openai_host) = base_url_of(sources, &setting, base_url, kind);
    let output_limit_field = raw.output_limit_field.unwrap_or(if is_openai_host {
        OutputLimitField::MaxCompletionTokens
    } else {
        OutputLimitField::MaxTokens
    });
    Provider {
        name: name.to_owned(),
        kind,
        base_url,
        api_key: api_key(sources, native, &path, raw.api_key_env),
        headers: headers(sources, &path, raw.headers),
        max_concurrency: raw.max_concurrency,
        output_limit_field,
        stream_usage: raw.stream_usage.unwrap_or(true),
        prices: raw.prices,
    }
}

/// The fields of `[providers.NAME]`.
#[derive(Default)]
struct Raw {
    kind: Option<ProviderKind>,
    base_url: Option<String>,
    api_key_env: Option<String>,
    headers: Vec<(String, String)>,
    max_concurrency: Option<u32>,
    output_limit_field: Option<OutputLimitField>,
    stream_usage: Option<bool>,
    prices: BTreeMap<String, Price>,
}

impl Raw {
    fn take(&mut self, sources: &mut Sources<'_>, fields: &mut Fields, native: Option<&Native>) {
        let mistakes = &mut sources.mistakes;
        self.kind = kind(fields, native, mistakes);
        if self.kind == Some(ProviderKind::Anthropic) {
            for key in ["output_limit_field", "stream_usage"] {
                if fields.drop_key(key) {
                    let wrong = "is of no meaning for kind = \"anthropic\"";
                    fields.refuse(key, wrong, "leave it out", mistakes);
                }
            }
        }
        self.base_url = fields.text("base_url", mistakes);
        self.api_key_env = fields.text("api_key_env", mistakes);
        self.headers = fields.texts("headers", mistakes);
        self.stream_usage = fields.truth("stream_usage", mistakes);
        if let Some(value) = fields.number("max_concurrency", mistakes) {
            self.max_concurrency =
                value.parse().ok().filter(|number| (1..=CONCURRENCY_MAX).contains(number));
            if self.max_concurrency.is_none() {
                let right = "give a whole number from 1 to 100000";
                fields.refuse("max_concurrency", &format!("is {value}"), right, mistakes);
            }
        }
        let field = fields.text("output_limit_field", mistakes);
        self.output_limit_field = match field.as_deref() {
            Some("max_completion_tokens") => Some(OutputLimitField::MaxCompletionTokens),
            Some("max_tokens") => Some(OutputLimitField::MaxTokens),
            Some(_) => {
                let right = "give max_completion_tokens or max_tokens";
                fields.refuse("output_limit_field", "is not known", right, mistakes);
                None
            }
            None => None,
        };
        for (model, table) in fields.tables("prices", mistakes) {
            if let Some(price) = price(table, mistakes) {
                self.prices.insert(model, price);
            }
        }
        let right = "known are kind, base_url, api_key_env, headers, max_concurrency, \
            output_limit_field, stream_usage and prices";
        fields.end(right, mistakes);
    }
}

/// The price of one model.
fn price(mut fields: Fields, mistakes: &mut Vec<Mistake>) -> Option<Price> {
    let mut number = |key: &str, is_required: bool| {
        let right = "give USD per million tokens, at least 0";
        let Some(text) = fields.number(key, mistakes) else {
            if is_required && !is_told(mistakes, &fields.name(key)) {
                fields.refuse(key, "is missing", right, mistakes);
            }
            return None;
        };
        let price: Option<f64> = text.parse().ok();
        let price = price.filter(|price| price.is_finite() && *price >= 0.0);
        if price.is_none() {
            fields.refuse(key, &format!("is {text}"), right, mistakes);
        }
        price
    };
    let (input, output) = (number("input", true), number("output", true));
    let cached_input = number("cached_input", false);
    let cache_write_input = number("cache_write_input", false);
    let right = "known are input, cached_input, cache_write_input and output; a model's name with \
        dots stands in quotes";
    fields.end(right, mistakes);
    Some(Price { input: input?, cached_input, cache_write_input, output: output? })
}

fn kind(
    fields: &mut Fields,
    native: Option<&Native>,
    mistakes: &mut Vec<Mistake>,
) -> Option<ProviderKind> {
    let right = "use kind = \"openai\" or kind = \"anthropic\"";
    let kind = match fields.text("kind", mistakes).as_deref() {
        Some("openai") => Some(ProviderKind::OpenAi),
        Some("anthropic") => Some(ProviderKind::Anthropic),
        Some(_) => {
            fields.refuse("kind", "is not known", right, mistakes);
            None
        }
        None => {
            if !is_told(mistakes, &fields.name("kind")) {
                fields.refuse("kind", "is missing", right, mistakes);
            }
            None
        }
    };
    if let (Some(kind), Some(native)) = (kind, native)
        && kind != native.kind
    {
        let wrong = format!("is not that of the provider {}", native.name);
        fields.refuse("kind", &wrong, "choose another name for the provider", mistakes);
    }
    kind
}

fn check_name(sources: &mut Sources<'_>, path: &str, name: &str) {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(is_plain) {
        let right = "use 1 to 64 of letters, digits, `-`, `_` and `.`";
        sources.wrong(path, "the name can't stand before a slash in a model's name", right);
    }
    if name == "demo" {
        sources.wrong(path, "the name is reserved", "choose another name");
    }
}

/// The checked URL, and whether it is OpenAI's or Azure's.
fn base_url_of(
    sources: &mut Sources<'_>,
    setting: &str,
    base_url: Option<String>,
    kind: ProviderKind,
) -> (String, bool) {
    let right = match kind {
        ProviderKind::OpenAi => {
            "give an http or https URL without user, query or fragment, \
            e.g. http://127.0.0.1:11434/v1"
        }
        ProviderKind::Anthropic => {
            "give an http or https URL without user, query or fragment, and without /v1, \
            e.g. http://127.0.0.1:8000"
        }
    };
    let Some(base_url) = base_url else {
        if !is_told(&sources.mistakes, setting) {
            sources.wrong(setting, "is missing", right);
        }
        return (String::new(), false);
    };
    let Some(url) = Url::parse(base_url.trim()).ok().filter(is_plain) else {
        // A password may stand in it: it is not repeated.
        sources.wrong(setting, "is no base URL", right);
        return (String::new(), false);
    };
    if kind == ProviderKind::Anthropic && url.path().trim_end_matches('/').ends_with("/v1") {
        sources.wrong(setting, "ends in /v1, which is put behind it", right);
    }
    let host = url.host_str().unwrap_or_default();
    let is_openai = host == "api.openai.com"
        || [".openai.com", ".azure.com"].iter().any(|domain| host.ends_with(domain));
    (url.as_str().trim_end_matches('/').to_owned(), is_openai)
}

/// Whether a setting is known to be wrong: then it isn't missing.
fn is_told(mistakes: &[Mistake], setting: &str) -> bool {
    mistakes.iter().any(|mistake| mistake.setting == setting)
}

fn is_plain(url: &Url) -> bool {
    ["http", "https"].contains(&url.scheme())
        && url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none()
}

fn api_key(
    sources: &mut Sources<'_>,
    native: Option<&Native>,
    path: &str,
    variable: Option<String>,
) -> Option<Secret> {
    let setting = format!("{path}.api_key_env");
    let (setting, key) = match variable {
        Some(variable) => match sources.env(&variable) {
            Some(key) => (variable, key),
            None => {
                let wrong = format!("the variable {variable:?} is not set");
                sources.wrong(setting, wrong, "set it, or leave api_key_env out");
                return None;
            }
        },
        None => {
            let variable = native?.key;
            (variable.to_owned(), sources.env(variable)?)
        }
    };
    let key = key.trim();
    if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        let wrong = "holds characters that can't stand in a header";
        sources.wrong(setting, wrong, "give the key alone, as visible ASCII");
        return None;
    }
    Some(Secret::new(key))
}

fn headers(
    sources: &mut Sources<'_>,
    path: &str,
    headers: Vec<(String, String)>,
) -> Vec<(String, Secret)> {
    for (name, value) in &headers {
        if HeaderName::try_from(name).is_err() || HeaderValue::try_from(value).is_err() {
            let right = "give a header's name and a value of visible characters";
            sources.wrong(format!("{path}.headers.{name}"), "can't be a header", right);
        }
    }
    headers.into_iter().map(|(name, value)| (name, Secret::new(value))).collect()
}
