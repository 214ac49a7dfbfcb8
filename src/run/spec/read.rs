//! Reads a body field by field, so that every mistake is found at once and told with its place, in
//! words that say what would be right.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::form::{
    AGENT, ASSISTANT, BODY, CONFIG, CONTENT, Form, IMAGE, MODEL_SETTINGS, PART_TYPE, REASONING,
    ROLE, TEXT, TOOL, TOOL_CALL, TOOL_MESSAGE, USER,
};
use super::{Agent, Code, Config, ModelSettings, Models, Tool, Violation};
use crate::run::message::{Content, Message, Part, ToolCall};
use crate::run::{limits, plain};

/// How much of a wrong value a refusal repeats, characters.
const GOT_CHARS: usize = 60;

/// How many violations are told: nobody reads more, and a hostile body can't make an answer that is
/// larger than itself.
pub(super) const VIOLATIONS_MAX: usize = 100;

/// What could be read of a body, part by part.
#[derive(Default)]
pub(super) struct Parts {
    pub(super) agent: Option<Agent>,
    pub(super) input: Option<Content>,
    pub(super) history: Option<Vec<Message>>,
    pub(super) variables: Option<Map<String, Value>>,
    pub(super) config: Option<Config>,
}

/// Reads a body as far as it can be read. Left to check are the rules that types can't say.
pub(super) fn read(body: &Value) -> (Parts, Vec<Violation>) {
    let mut reader = Reader::new(body);
    let parts = reader.parts(body);
    (parts, reader.found)
}

/// Reads a body, and remembers what is wrong with it.
pub(super) struct Reader {
    found: Vec<Violation>,
}

impl Reader {
    /// Has looked at what holds for every body.
    pub(super) fn new(body: &Value) -> Reader {
        Reader::at("", body)
    }

    /// The same, of a part of a body.
    pub(super) fn at(pointer: &str, part: &Value) -> Reader {
        let mut reader = Reader { found: Vec::new() };
        reader.walk(part, &mut pointer.to_owned(), 1);
        reader
    }

    pub(super) fn into_found(self) -> Vec<Violation> {
        self.found
    }

    fn wrong(&mut self, pointer: impl Into<String>, detail: impl Into<String>) {
        if self.found.len() < VIOLATIONS_MAX {
            self.found.push(Violation {
                pointer: pointer.into(),
                detail: detail.into(),
                code: Code::InvalidRequest,
            });
        }
    }

    /// Depth, NUL and reserved names, which hold for every string and level of the body.
    fn walk(&mut self, value: &Value, pointer: &mut String, depth: usize) {
        if depth > limits::JSON_DEPTH {
            let pointer: String = pointer.chars().take(200).collect();
            self.wrong(
                pointer,
                format!("must not be nested deeper than {} levels", limits::JSON_DEPTH),
            );
            return;
        }
        let here = pointer.len();
        match value {
            Value::String(text) if text.contains('\0') => {
                self.wrong(pointer.clone(), "must not contain NUL (\\u0000)");
            }
            Value::Array(items) => {
                for (place, item) in items.iter().enumerate() {
                    pointer.push_str(&format!("/{place}"));
                    self.walk(item, pointer, depth + 1);
                    pointer.truncate(here);
                }
            }
            Value::Object(fields) => {
                for (name, field) in fields {
                    pointer.push_str(&step(name));
                    if name.contains('\0') {
                        self.wrong(pointer.clone(), "a name must not contain NUL (\\u0000)");
                    }
                    if !plain::is_name(name) {
                        self.wrong(pointer.clone(), "is a reserved name");
                    }
                    self.walk(field, pointer, depth + 1);
                    pointer.truncate(here);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    fn parts(&mut self, body: &Value) -> Parts {
        let Some(fields) = self.fields(body, "", &BODY) else { return Parts::default() };
        Parts {
            agent: fields.get("agent").and_then(|agent| self.agent(agent)),
            input: fields.get("input").and_then(|input| self.content(input, "/input")),
            history: match fields.get("history") {
                None => Some(Vec::new()),
                Some(list) => self.list(list, "/history", &BODY, Reader::message),
            },
            variables: match fields.get("variables") {
                None => Some(Map::new()),
                Some(variables) => self.typed("", &BODY, "variables", variables),
            },
            config: match fields.get("config") {
                None => Some(Config::default()),
                Some(config) => self.record(config, "/config", &CONFIG),
            },
        }
    }

    fn agent(&mut self, value: &Value) -> Option<Agent> {
        if let Value::String(name) = value {
            let name: String = name.chars().take(GOT_CHARS).collect();
            self.found.push(Violation {
                pointer: "/agent".to_owned(),
                detail: format!("there is no stored agent `{name}`; give the agent inline"),
                code: Code::UnknownAgent,
            });
            return None;
        }
        let mut fields = self.fields(value, "/agent", &AGENT)?;
        let mut settings: ModelSettings = match fields.remove("model_settings") {
            None => ModelSettings::default(),
            Some(value) => {
                self.record(&value, "/agent/model_settings", &MODEL_SETTINGS).unwrap_or_default()
            }
        };
        let tools = match fields.remove("tools") {
            None => Some(Vec::new()),
            Some(list) => self.list(&list, "/agent/tools", &AGENT, |reader, tool, pointer| {
                reader.record::<Tool>(tool, pointer, &TOOL)
            }),
        };
        if tools.is_none() {
            // Whether it names a tool can't be said.
            settings.tool_choice = None;
        }
        let model = match fields.remove("model") {
            None => None,
            Some(value) => self.typed::<Models>("/agent", &AGENT, "model", &value),
        };
        let rest: Agent = self.whole(fields, "/agent", &AGENT)?;
        Some(Agent {
            model: model.unwrap_or_default(),
            model_settings: settings,
            tools: tools.unwrap_or_default(),
            ..rest
        })
    }

    fn message(&mut self, value: &Value, pointer: &str) -> Option<Message> {
        let Some(fields) = value.as_object() else {
            self.wrong(pointer, must_be("a message, an object with a `role`", value));
            return None;
        };
        let role = fields.get("role").unwrap_or(&Value::Null);
        match role.as_str() {
            Some("user") => self.user(value, pointer),
            Some("assistant") => self.assistant(value, pointer),
            Some("tool") => self.tool_message(value, pointer),
            Some("system" | "developer") => {
                self.wrong(
                    format!("{pointer}/role"),
                    format!("must be {ROLE}; a system message belongs in agent.instructions"),
                );
                None
            }
            Some(_) | None => {
                self.wrong(format!("{pointer}/role"), must_be(ROLE, role));
                None
            }
        }
    }

    fn user(&mut self, value: &Value, pointer: &str) -> Option<Message> {
        let fields = self.fields(value, pointer, &USER)?;
        let content = self.content(fields.get("content")?, &format!("{pointer}/content"))?;
        Some(Message::User { content })
    }

    fn assistant(&mut self, value: &Value, pointer: &str) -> Option<Message> {
        let fields = self.fields(value, pointer, &ASSISTANT)?;
        let content = match fields.get("content") {
            None => Some(None),
            Some(content) => self.content(content, &format!("{pointer}/content")).map(Some),
        };
        let tool_calls = match fields.get("tool_calls") {
            None => Some(Vec::new()),
            Some(calls) => {
                let pointer = format!("{pointer}/tool_calls");
                self.list(calls, &pointer, &ASSISTANT, |reader, call, pointer| {
                    reader.record::<ToolCall>(call, pointer, &TOOL_CALL)
                })
            }
        };
        let reasoning = match fields.get("reasoning") {
            None => Some(Vec::new()),
            Some(parts) => {
                let pointer = format!("{pointer}/reasoning");
                self.list(parts, &pointer, &ASSISTANT, Reader::reasoning)
            }
        };
        Some(Message::Assistant {
            content: content?,
            tool_calls: tool_calls?,
            reasoning: reasoning?,
        })
    }

    fn tool_message(&mut self, value: &Value, pointer: &str) -> Option<Message> {
        let fields = self.fields(value, pointer, &TOOL_MESSAGE)?;
        let inside = format!("{pointer}/content");
        let content = fields.get("content").and_then(|content| self.content(content, &inside));
        let call_id = fields
            .get("call_id")
            .and_then(|id| self.typed::<String>(pointer, &TOOL_MESSAGE, "call_id", id));
        let is_error = match fields.get("is_error") {
            None => Some(false),
            Some(value) => self.typed::<bool>(pointer, &TOOL_MESSAGE, "is_error", value),
        };
        Some(Message::Tool { call_id: call_id?, content: content?, is_error: is_error? })
    }

    fn content(&mut self, value: &Value, pointer: &str) -> Option<Content> {
        match value {
            Value::String(text) => Some(Content::Text(text.clone())),
            Value::Array(parts) => self.each(parts, pointer, Reader::part).map(Content::Parts),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => {
                self.wrong(pointer, must_be(CONTENT, value));
                None
            }
        }
    }

    fn part(&mut self, value: &Value, pointer: &str) -> Option<Part> {
        let form = match value.get("type").and_then(Value::as_str) {
            Some("text") => &TEXT,
            Some("image") => &IMAGE,
            Some("reasoning") => &REASONING,
            Some(_) | None if value.is_object() => {
                let kind = value.get("type").unwrap_or(&Value::Null);
                self.wrong(format!("{pointer}/type"), must_be(PART_TYPE, kind));
                return None;
            }
            Some(_) | None => {
                self.wrong(pointer, must_be("a part, an object with a `type`", value));
                return None;
            }
        };
        self.record(value, pointer, form)
    }

    fn reasoning(&mut self, value: &Value, pointer: &str) -> Option<Part> {
        let part = self.part(value, pointer)?;
        if matches!(part, Part::Reasoning { .. }) {
            return Some(part);
        }
        self.wrong(format!("{pointer}/type"), "must be reasoning");
        None
    }

    /// A list whose name is the last step of the pointer.
    fn list<T>(
        &mut self,
        value: &Value,
        pointer: &str,
        form: &Form,
        read: impl FnMut(&mut Reader, &Value, &str) -> Option<T>,
    ) -> Option<Vec<T>> {
        if let Value::Array(items) = value {
            return self.each(items, pointer, read);
        }
        let name = pointer.rsplit('/').next().unwrap_or_default();
        self.wrong(pointer, must_be(form.expected(name), value));
        None
    }

    fn each<T>(
        &mut self,
        items: &[Value],
        pointer: &str,
        mut read: impl FnMut(&mut Reader, &Value, &str) -> Option<T>,
    ) -> Option<Vec<T>> {
        let read: Vec<Option<T>> = items
            .iter()
            .enumerate()
            .map(|(place, item)| read(self, item, &format!("{pointer}/{place}")))
            .collect();
        read.into_iter().collect()
    }

    pub(super) fn record<T: for<'de> Deserialize<'de>>(
        &mut self,
        value: &Value,
        pointer: &str,
        form: &Form,
    ) -> Option<T> {
        let fields = self.fields(value, pointer, form)?;
        self.whole(fields, pointer, form)
    }

    /// The fields that are there, null being as good as absent. Unknown and missing ones are told.
    pub(super) fn fields(
        &mut self,
        value: &Value,
        pointer: &str,
        form: &Form,
    ) -> Option<Map<String, Value>> {
        let Value::Object(fields) = value else {
            self.wrong(pointer, must_be("an object", value));
            return None;
        };
        let mut known = Map::new();
        for (name, field) in fields {
            if let Some((_, expected)) = form.fields.iter().find(|(one, _)| one == name) {
                if !field.is_null() && expected.starts_with("a whole number") {
                    known.insert(name.clone(), plain::whole_number(field));
                } else if !field.is_null() {
                    known.insert(name.clone(), field.clone());
                }
            } else if form.later.contains(&name.as_str()) {
                self.wrong(
                    format!("{pointer}{}", step(name)),
                    format!("`{name}` is not available yet"),
                );
            } else {
                let names: Vec<&str> = form.fields.iter().map(|(one, _)| *one).collect();
                let short: String = name.chars().take(GOT_CHARS).collect();
                self.wrong(
                    format!("{pointer}{}", step(name)),
                    format!("unknown field `{short}`; known are {}", names.join(", ")),
                );
            }
        }
        for name in form.required {
            if !known.contains_key(*name) {
                self.wrong(
                    format!("{pointer}/{name}"),
                    format!("is required: {}", form.expected(name)),
                );
            }
        }
        Some(known)
    }

    /// Makes a record of its fields. Each that does not fit is told and left out, so that the
    /// others are looked at too.
    fn whole<T: for<'de> Deserialize<'de>>(
        &mut self,
        fields: Map<String, Value>,
        pointer: &str,
        form: &Form,
    ) -> Option<T> {
        let mut whole = Value::Object(fields);
        let error = match T::deserialize(&whole) {
            Ok(record) => return Some(record),
            Err(error) => error.to_string(),
        };
        let fields = whole.as_object_mut().expect("it was made one");
        // Alone (but for its tag) a field shows its own error, if it has one.
        let fits = |alone: Map<String, Value>| match T::deserialize(&Value::Object(alone)) {
            Ok(_) => true,
            Err(error) => error.to_string().starts_with("missing field"),
        };
        let tag: Option<(String, Value)> = fields
            .get_key_value("type")
            .map(|(tag, kind)| (tag.clone(), kind.clone()))
            .filter(|tag| fits(Map::from_iter([tag.clone()])));
        let before = fields.len();
        fields.retain(|name, field| {
            let alone = tag.clone().into_iter().chain([(name.clone(), field.clone())]);
            let fits = fits(alone.collect());
            if !fits {
                let detail = must_be(form.expected(name), field);
                self.wrong(format!("{pointer}{}", step(name)), detail);
            }
            fits
        });
        let is_told =
            fields.len() < before || form.required.iter().any(|name| !fields.contains_key(*name));
        if !is_told {
            self.wrong(pointer, error);
        }
        T::deserialize(&whole).ok()
    }

    /// One field by itself.
    pub(super) fn typed<T: for<'de> Deserialize<'de>>(
        &mut self,
        pointer: &str,
        form: &Form,
        name: &str,
        value: &Value,
    ) -> Option<T> {
        let read = T::deserialize(value);
        if read.is_err() {
            self.wrong(format!("{pointer}/{name}"), must_be(form.expected(name), value));
        }
        read.ok()
    }
}

fn must_be(expected: &str, got: &Value) -> String {
    format!("must be {expected}, got {}", short(got))
}

/// A value as a refusal repeats it.
pub(super) fn short(value: &Value) -> String {
    let text = match value {
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.to_string(),
    };
    match text.char_indices().nth(GOT_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// One step of a JSON pointer, at most as long as can be read.
pub(super) fn step(name: &str) -> String {
    let short: String = name.chars().take(2 * GOT_CHARS).collect();
    format!("/{}", short.replace('\0', "\\u0000").replace('~', "~0").replace('/', "~1"))
}
