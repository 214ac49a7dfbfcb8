//! The fields of everything that a body is made of, each with what it must be.

/// The fields of one kind of object.
pub(super) struct Form {
    /// Each name with what its value must be.
    pub(super) fields: &'static [(&'static str, &'static str)],
    pub(super) required: &'static [&'static str],
    /// Names that the API knows and this release does not.
    pub(super) later: &'static [&'static str],
}

impl Form {
    /// What the field of this name must be.
    pub(super) fn expected(&self, name: &str) -> &'static str {
        let field = self.fields.iter().find(|(one, _)| *one == name);
        field.expect("only fields of the form are asked for").1
    }
}

pub(super) const BODY: Form = Form {
    fields: &[
        ("agent", "an inline agent"),
        ("input", "a string or a list of parts"),
        ("history", "a list of messages"),
        ("variables", "an object"),
        ("config", "an object"),
    ],
    required: &["agent", "input"],
    later: &["thread_id", "on_busy", "continue_from"],
};

pub(super) const AGENT: Form = Form {
    fields: &[
        ("name", "a string"),
        ("instructions", "a string"),
        ("model", "`provider/name`, or a list of such names"),
        ("model_settings", "an object"),
        ("tools", "a list of tools"),
        ("output_schema", "a JSON Schema"),
    ],
    required: &[],
    later: &[],
};

pub(super) const MODEL_SETTINGS: Form = Form {
    fields: &[
        ("temperature", "a number between 0 and 2"),
        ("top_p", "a number between 0 and 1"),
        ("stop", "a list of strings"),
        ("max_output_tokens", "a whole number between 1 and 4294967295"),
        ("tool_choice", r#""auto", "none", "required" or {"name": TOOL}"#),
        ("reasoning_effort", "a string"),
        ("extra", "an object"),
    ],
    required: &[],
    later: &[],
};

pub(super) const TOOL: Form = Form {
    fields: &[
        ("type", r#""builtin" or "http" (client, mcp and agent are not available yet)"#),
        ("name", "1 to 64 of [A-Za-z0-9_-]"),
        ("description", "a string"),
        ("parameters", "a JSON Schema"),
        ("effect", "read, idempotent or once"),
        ("timeout", "a number of seconds between 0.001 and 3600"),
        ("url", "an http or https URL"),
        ("headers", "an object of strings"),
    ],
    required: &["type", "name"],
    later: &[
        "approval",
        "approval_timeout",
        "on_expire",
        "server",
        "allowed_tools",
        "agent",
        "mode",
    ],
};

pub(super) const CONFIG: Form = Form {
    fields: &[
        ("run_id", "a string"),
        ("max_turns", "a whole number between 1 and 1000"),
        ("max_time", "a number of seconds between 0.001 and 86400"),
        ("timeout_per_turn", "a number of seconds between 0.001 and 3600"),
        ("stop_on_tool_error", "true or false"),
        ("verbose", "true or false"),
        ("trace_enabled", "true or false"),
        ("metadata", "an object of strings"),
        ("max_total_tokens", "a whole number of at least 1"),
        ("max_cost_usd", "a number of more than 0"),
        ("max_tool_calls", "a whole number between 0 and 4294967295"),
        ("on_limit", "fail or finalize (pause is not available yet)"),
    ],
    required: &[],
    later: &[],
};

/// What may be changed of a run under way.
pub(super) const CHANGE: Form = Form {
    fields: &[("config", "an object with limits to raise"), ("metadata", "an object of strings")],
    required: &[],
    later: &[],
};

pub(super) const LIMITS: Form = Form {
    fields: &[
        ("max_turns", "a whole number between 1 and 1000"),
        ("max_time", "a number of seconds between 0.001 and 86400"),
        ("timeout_per_turn", "a number of seconds between 0.001 and 3600"),
        ("max_total_tokens", "a whole number of at least 1"),
        ("max_cost_usd", "a number of more than 0"),
        ("max_tool_calls", "a whole number between 0 and 4294967295"),
    ],
    required: &[],
    later: &[],
};

pub(super) const CONTENT: &str = "a string or a list of parts";

pub(super) const USER: Form =
    Form { fields: &[("role", ROLE), ("content", CONTENT)], required: &["content"], later: &[] };

pub(super) const ASSISTANT: Form = Form {
    fields: &[
        ("role", ROLE),
        ("content", CONTENT),
        ("tool_calls", "a list of tool calls"),
        ("reasoning", "a list of parts of type reasoning"),
    ],
    required: &[],
    later: &[],
};

pub(super) const TOOL_MESSAGE: Form = Form {
    fields: &[
        ("role", ROLE),
        ("call_id", "a string"),
        ("content", CONTENT),
        ("is_error", "true or false"),
    ],
    required: &["call_id", "content"],
    later: &[],
};

pub(super) const ROLE: &str = "user, assistant or tool";

pub(super) const TOOL_CALL: Form = Form {
    fields: &[
        ("call_id", "a string"),
        ("tool_name", "a string"),
        ("arguments", "an object, or a string if the model's were none"),
        ("provider_metadata", "JSON"),
    ],
    required: &["call_id", "tool_name", "arguments"],
    later: &[],
};

pub(super) const PART_TYPE: &str = "text, image or reasoning";

pub(super) const TEXT: Form =
    Form { fields: &[("type", PART_TYPE), ("text", "a string")], required: &["text"], later: &[] };

pub(super) const IMAGE: Form = Form {
    fields: &[
        ("type", PART_TYPE),
        ("url", "a string"),
        ("media_type", "a string"),
        ("data", "base 64 in a string"),
    ],
    required: &[],
    later: &[],
};

pub(super) const REASONING: Form = Form {
    fields: &[("type", PART_TYPE), ("text", "a string"), ("provider_metadata", "JSON")],
    required: &[],
    later: &[],
};
