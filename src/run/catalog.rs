//! What this installation offers, as plain data: the models, tools and secrets that a spec may name.

use std::collections::BTreeMap;

use serde_json::Value;

use super::event::Effect;

/// The models and built-in tools on offer. Built from the registries when the service starts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Catalog {
    /// The models on offer: `provider/name`, or `provider/*` where the provider is asked for any.
    pub models: Vec<String>,
    /// The model of an agent that names none.
    pub default_model: String,
    /// The built-in tools.
    pub builtins: Vec<Builtin>,
    /// The secrets that headers of tools may name, and to which hosts each may go: names without
    /// port, as they stand in a parsed URL. Their values are not here.
    pub secrets: BTreeMap<String, Vec<String>>,
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

    /// The built-in tool of this name.
    pub fn builtin(&self, name: &str) -> Option<&Builtin> {
        self.builtins.iter().find(|tool| tool.name == name)
    }
}
