//! Which PostgreSQL the node stands on, and how long its lease lasts.

use std::time::Duration;

use super::{Given, Secret, Sources};

/// Ten seconds are long enough for a slow database, and short enough to wait for a dead node.
const LEASE_SECONDS_DEFAULT: f64 = 10.0;
const LEASE_SECONDS_MIN: f64 = 0.2;
const LEASE_SECONDS_MAX: f64 = 300.0;

/// A PostgreSQL database.
#[derive(Clone, Debug, PartialEq)]
pub struct Database {
    /// `postgres://USER:PASSWORD@HOST:PORT/NAME`.
    pub url: Secret,
    /// Where notifications are heard.
    pub listen: Listen,
}

/// Where a node hears what others tell.
#[derive(Clone, Debug, PartialEq)]
pub enum Listen {
    /// At the database's own address.
    SameUrl,
    /// At another address of the same database: the first one's pooler ends silent sessions.
    Url(Secret),
    /// Nowhere: the node looks by itself, each second.
    Off,
}

impl Sources<'_> {
    pub(super) fn database(
        &mut self,
        url: Option<Given>,
        listen: Option<Given>,
    ) -> Option<Database> {
        let listen = match listen {
            None => Listen::SameUrl,
            Some(given) if given.value.trim() == "off" => Listen::Off,
            Some(given) => {
                if url.is_none() {
                    let wrong = "has no meaning without DATABASE_URL";
                    self.wrong(given.setting.clone(), wrong, "set DATABASE_URL too, or unset it");
                }
                Listen::Url(self.postgres_url(given, "; or give off"))
            }
        };
        Some(Database { url: self.postgres_url(url?, ""), listen })
    }

    /// The value is never shown: it holds a password.
    fn postgres_url(&mut self, given: Given, also: &str) -> Secret {
        let Given { setting, value } = given;
        let wrong = match reqwest::Url::parse(value.trim()) {
            Err(error) => Some(format!("is no URL ({error})")),
            Ok(url) if !["postgres", "postgresql"].contains(&url.scheme()) => Some(format!(
                "begins with {}:, which is no database that is known here",
                url.scheme()
            )),
            Ok(_) => None,
        };
        if let Some(wrong) = wrong {
            let right = format!("give postgres://USER:PASSWORD@HOST:PORT/DATABASE{also}");
            self.wrong(setting, wrong, &right);
        }
        Secret::new(value.trim())
    }

    pub(super) fn lease(&mut self, given: Option<Given>) -> Duration {
        let default = Duration::from_secs_f64(LEASE_SECONDS_DEFAULT);
        let Some(Given { setting, value }) = given else { return default };
        match value.trim().parse::<f64>() {
            Ok(seconds) if (LEASE_SECONDS_MIN..=LEASE_SECONDS_MAX).contains(&seconds) => {
                Duration::from_secs_f64(seconds)
            }
            _ => {
                let right = "give seconds from 0.2 to 300, e.g. 10";
                self.wrong(setting, format!("{value:?} is no lease"), right);
                default
            }
        }
    }
}
