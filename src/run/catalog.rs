//! What this installation offers, as plain data: the models, tools and secrets that a spec may name.

use std::collections::BTreeMap;

use serde_json::Value;

use super::event::Effect;
use super::price::Price;

/// The models and built-in tools on offer. Built from the registries when the service starts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Catalog {
    /// The models on offer: `provider/name`, or `provider/*` where the provider is asked for any.
    pub models: Vec<String>,
    /// The model of an agent that names none.
    pub default_model: String,
    /// The built-in tools.
    pub builtins: Vec<Builtin>,
    /// More of the providers of `models`, by the name before the slash.
    pub providers: Vec<Provider>,
    /// The secrets that headers of tools may name, and to which hosts each may go: names without
    /// port, as they stand in a parsed URL. Their values are not here.
    pub secrets: BTreeMap<String, Vec<String>>,
}

/// A provider of models.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Provider {
    /// What stands before the slash in a model's name.
    pub name: String,
    /// What it speaks: `openai`, `anthropic`, `demo`.
    pub kind: String,
    /// Its models; none where it is asked for any.
    pub models: Option<Vec<String>>,
    /// The words of `reasoning_effort` that it can be told; none where it is told any.
    pub reasoning_efforts: Option<Vec<String>>,
    /// The prices of its models, by what stands behind the slash.
    pub prices: BTreeMap<String, Price>,
}

/// A built-in tool.
#[derive(Clone, Debug, PartialEq)]
pub struct Builtin {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// JSON Schema of its arguments.
    pub parameters: Value,
    /// What it does to the world.
    pub effect: Effect,
}

impl Catalog {
    /// Whether a model of this name can be asked for.
    pub fn has_model(&self, name: &str) -> bool {
        name.split_once('/').is_some_and(|(provider, model)| {
            let is_offered = |offer: &String| match offer.strip_suffix("/*") {
                Some(any) => any == provider,
                None => offer == name,
            };
            !model.is_empty() && self.models.iter().any(is_offered)
        })
    }

    /// The provider of the model of this name, and the model's name there.
    pub fn provider_of<'a>(&self, model: &'a str) -> Option<(&Provider, &'a str)> {
        let (name, model) = model.split_once('/')?;
        Some((self.providers.iter().find(|provider| provider.name == name)?, model))
    }

    /// The price of the model of this name, where one is configured.
    pub fn price(&self, model: &str) -> Option<&Price> {
        let (provider, model) = self.provider_of(model)?;
        provider.prices.get(model)
    }

    /// The built-in tool of this name.
    pub fn builtin(&self, name: &str) -> Option<&Builtin> {
        self.builtins.iter().find(|tool| tool.name == name)
    }
}
