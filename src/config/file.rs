//! `runledger.toml`: its keys and their types. Values are checked with those of the environment.

use toml::{Table, Value};

use super::Mistake;

/// Tables that are documented and do nothing yet: better refused than ignored.
const LATER: [&str; 2] = ["mcp", "retention"];

/// The file's settings as text, so that one rule checks a setting wherever it came from.
#[derive(Default)]
pub(super) struct File {
    pub(super) listen: Option<String>,
    pub(super) data_dir: Option<String>,
    pub(super) database_url: Option<String>,
    pub(super) listen_url: Option<String>,
    pub(super) lease: Option<String>,
    pub(super) api_keys: Option<String>,
    pub(super) slots: Option<String>,
    pub(super) drain: Option<String>,
    pub(super) log: Option<String>,
    pub(super) log_format: Option<String>,
    pub(super) cors_origins: Option<String>,
    pub(super) default_model: Option<String>,
    pub(super) providers: Vec<(String, Fields)>,
    pub(super) allow_networks: Option<String>,
    pub(super) secrets: Vec<(String, Fields)>,
}

/// Parses the file; what is wrong with its form goes to `mistakes`.
pub(super) fn parse(text: &str, mistakes: &mut Vec<Mistake>) -> File {
    let table = match text.parse::<Table>() {
        Ok(table) => table,
        Err(error) => {
            mistakes.push(Mistake {
                setting: "settings file".into(),
                wrong: unparsed(text, &error),
                right: "make it valid TOML".into(),
            });
            return File::default();
        }
    };
    let mut fields = Fields::new(String::new(), table);
    let file = File {
        listen: fields.text("listen", mistakes),
        data_dir: fields.text("data_dir", mistakes),
        database_url: fields.text("database_url", mistakes),
        listen_url: fields.text("database_listen_url", mistakes),
        lease: fields.number("lease", mistakes),
        api_keys: fields.list("api_keys", mistakes),
        slots: fields.number("slots", mistakes),
        drain: fields.number("drain", mistakes),
        log: fields.text("log", mistakes),
        log_format: fields.text("log_format", mistakes),
        cors_origins: fields.list("cors_origins", mistakes),
        default_model: fields.text("default_model", mistakes),
        providers: fields.tables("providers", mistakes),
        allow_networks: fields.list("allow_networks", mistakes),
        secrets: fields.tables("secrets", mistakes),
    };
    for name in LATER {
        if fields.table.remove(name).is_some() {
            fields.refuse(name, "is not available yet in this release", "leave it out", mistakes);
        }
    }
    fields.end("see --help for the settings", mistakes);
    file
}

/// Where and why; never the line itself, which may hold a key.
fn unparsed(text: &str, error: &toml::de::Error) -> String {
    let start = error.span().map_or(0, |span| span.start.min(text.len()));
    let line = text.bytes().take(start).filter(|byte| *byte == b'\n').count() + 1;
    format!("line {line}: {}", error.message().lines().next().unwrap_or_default())
}

/// One table of the file, from which keys are taken until none may be left.
pub(super) struct Fields {
    path: String,
    table: Table,
}

impl Fields {
    fn new(path: String, table: Table) -> Self {
        Self { path, table }
    }

    /// The name of a key in messages: `providers.local.base_url`.
    pub(super) fn name(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    pub(super) fn refuse(&self, key: &str, wrong: &str, right: &str, mistakes: &mut Vec<Mistake>) {
        let (setting, wrong, right) = (self.name(key), wrong.to_owned(), right.to_owned());
        mistakes.push(Mistake { setting, wrong, right });
    }

    fn take<T>(
        &mut self,
        key: &str,
        right: &str,
        read: impl FnOnce(Value) -> Option<T>,
        mistakes: &mut Vec<Mistake>,
    ) -> Option<T> {
        let value = self.table.remove(key)?;
        let wrong = format!("is {}", article(value.type_str()));
        let taken = read(value);
        if taken.is_none() {
            self.refuse(key, &wrong, right, mistakes);
        }
        taken
    }

    pub(super) fn text(&mut self, key: &str, mistakes: &mut Vec<Mistake>) -> Option<String> {
        self.take(key, "give a string", text, mistakes)
    }

    pub(super) fn number(&mut self, key: &str, mistakes: &mut Vec<Mistake>) -> Option<String> {
        let read = |value| match value {
            Value::Integer(number) => Some(number.to_string()),
            Value::Float(number) => Some(number.to_string()),
            _ => None,
        };
        self.take(key, "give a number", read, mistakes)
    }

    pub(super) fn truth(&mut self, key: &str, mistakes: &mut Vec<Mistake>) -> Option<bool> {
        self.take(key, "give true or false", |value| value.as_bool(), mistakes)
    }

    pub(super) fn list(&mut self, key: &str, mistakes: &mut Vec<Mistake>) -> Option<String> {
        let read = |value| match value {
            Value::Array(items) => {
                let items: Option<Vec<String>> = items.into_iter().map(text).collect();
                // A comma inside would become two items.
                items.filter(|items| items.iter().all(|item| !item.contains(',')))
            }
            _ => None,
        };
        let items = self.take(key, "give an array of strings without commas", read, mistakes)?;
        // An empty array is none; an array of an empty string is a mistake to be found.
        (!items.is_empty()).then(|| items.join(","))
    }

    pub(super) fn texts(
        &mut self,
        key: &str,
        mistakes: &mut Vec<Mistake>,
    ) -> Vec<(String, String)> {
        let read = |value| match value {
            Value::Table(table) => {
                table.into_iter().map(|(key, value)| Some((key, text(value)?))).collect()
            }
            _ => None,
        };
        self.take(key, "give a table of strings", read, mistakes).unwrap_or_default()
    }

    pub(super) fn tables(
        &mut self,
        key: &str,
        mistakes: &mut Vec<Mistake>,
    ) -> Vec<(String, Fields)> {
        let path = self.name(key);
        let read = |value| match value {
            Value::Table(table) => table
                .into_iter()
                .map(|(name, value)| match value {
                    Value::Table(table) => {
                        let path = format!("{path}.{name}");
                        Some((name, Fields::new(path, table)))
                    }
                    _ => None,
                })
                .collect(),
            _ => None,
        };
        self.take(key, "give a table per name", read, mistakes).unwrap_or_default()
    }

    /// Refuses what was not taken.
    pub(super) fn end(&self, right: &str, mistakes: &mut Vec<Mistake>) {
        for key in self.table.keys() {
            self.refuse(key, "is not a known setting", right, mistakes);
        }
    }

    /// Whether the key was there, without a look at its value.
    pub(super) fn drop_key(&mut self, key: &str) -> bool {
        self.table.remove(key).is_some()
    }
}

fn text(value: Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text),
        _ => None,
    }
}

fn article(kind: &str) -> String {
    let vowel = kind.starts_with(['a', 'e', 'i', 'o', 'u']);
    format!("{} {kind}", if vowel { "an" } else { "a" })
}
