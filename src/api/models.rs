//! What agents may name as their model.

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::ApiState;
use super::problem::Problem;
use super::request::Parameters;

/// `GET /models`: the configured providers with their models, `null` where a provider is asked for
/// any name, the prices of those that have one, and which model runs where an agent names none.
pub(super) async fn list(
    State(api): State<ApiState>,
    parameters: Parameters,
) -> Result<Json<Value>, Problem> {
    parameters.only(&[])?;
    let catalog = &api.catalog;
    let default = catalog.provider_of(&catalog.default_model);
    let data: Vec<Value> = catalog
        .providers
        .iter()
        .map(|provider| {
            let own = default.filter(|(of, _)| of.name == provider.name);
            json!({
                "provider": provider.name,
                "kind": provider.kind,
                "models": provider.models,
                "default": own.map(|(_, model)| model),
                "prices": provider.prices,
            })
        })
        .collect();
    Ok(Json(json!({"data": data, "default_model": catalog.default_model})))
}
