//! Settings from given sources.

use std::collections::BTreeMap;

use super::*;
use crate::run::price::Price;

mod outside;

/// Settings from flags, an environment and a file.
#[derive(Default)]
struct Given<'a> {
    flags: Flags,
    env: &'a [(&'a str, &'a str)],
    file: Option<&'a str>,
}

impl Given<'_> {
    fn read(&self) -> Result<Config, ConfigErrors> {
        let env: BTreeMap<&str, &str> = self.env.iter().copied().collect();
        let lookup = |name: &str| env.get(name).map(|value| (*value).to_owned());
        Config::from_lookup(&self.flags, lookup, self.file)
    }

    fn config(&self) -> Config {
        self.read().expect("every setting is right")
    }

    /// One `setting: wrong; right` for each mistake.
    fn mistakes(&self) -> Vec<String> {
        let ConfigErrors(mistakes) = self.read().expect_err("a setting is wrong");
        mistakes.iter().map(|m| format!("{}: {}; {}", m.setting, m.wrong, m.right)).collect()
    }
}

fn env<'a>(env: &'a [(&'a str, &'a str)]) -> Given<'a> {
    Given { env, ..Given::default() }
}

fn file(file: &str) -> Given<'_> {
    Given { file: Some(file), ..Given::default() }
}

/// The only mistake of these settings.
fn mistake(given: &Given<'_>) -> String {
    let mut mistakes = given.mistakes();
    assert_eq!(mistakes.len(), 1, "{mistakes:?}");
    mistakes.remove(0)
}

/// What a setting makes of the environment's and the file's form of a value.
#[track_caller]
fn check<T: PartialEq + std::fmt::Debug>(
    variable: (&str, &str),
    line: &str,
    of: impl Fn(&Config) -> T,
    from_env: T,
    from_file: T,
) {
    let both = Given { env: &[variable], file: Some(line), ..Given::default() };
    assert_eq!(of(&both.config()), from_env, "the environment goes before the file");
    assert_eq!(of(&file(line).config()), from_file, "the file goes before the default");
    let empty = Given { env: &[(variable.0, " ")], file: Some(line), ..Given::default() };
    assert_eq!(of(&empty.config()), from_file, "an empty variable counts as absent");
}

#[test]
fn without_settings_everything_has_its_default() {
    let expected = Config {
        listen: "127.0.0.1:8080".parse().unwrap(),
        data_dir: "./runledger-data".into(),
        database: None,
        lease: Duration::from_secs(10),
        api_keys: Vec::new(),
        slots: 1024,
        drain: Duration::from_secs(8),
        log: "info".into(),
        log_format: None,
        cors_origins: Vec::new(),
        default_model: None,
        providers: Vec::new(),
        allow_networks: vec!["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()],
        secrets: Vec::new(),
    };
    assert_eq!(Given::default().config(), expected);
    assert_eq!(file("").config(), expected);
    assert!(expected.is_loopback() && !expected.is_auth_on());
}

#[test]
fn a_flag_goes_before_the_environment_and_that_before_the_file() {
    let flags = Flags {
        listen: Some("127.0.0.1:1".into()),
        data_dir: Some("/from/flag".into()),
        ..Flags::default()
    };
    let (env, lines) = (
        [("RUNLEDGER_LISTEN", "127.0.0.1:2"), ("RUNLEDGER_DATA_DIR", "/from/env")],
        "listen = \"127.0.0.1:3\"\ndata_dir = \"/from/file\"",
    );
    let config = Given { flags, env: &env, file: Some(lines) }.config();
    assert_eq!(config.listen.port(), 1);
    assert_eq!(config.data_dir, Path::new("/from/flag"));
    check(env[0], lines, |config| config.listen.port(), 2, 3);
    check(env[1], lines, |c| c.data_dir.clone(), "/from/env".into(), "/from/file".into());
}

#[test]
fn a_database_is_a_postgresql_url_and_may_be_heard_elsewhere_or_not_at_all() {
    let url = ("DATABASE_URL", "postgres://u:p@db:5432/runs");
    let listen = |value: &'static str| {
        let env = [url, ("DATABASE_LISTEN_URL", value)];
        Given { env: &env, ..Given::default() }.config().database.expect("it is named")
    };
    assert_eq!(listen(" ").url, Secret::new("postgres://u:p@db:5432/runs"));
    assert_eq!(listen(" ").listen, Listen::SameUrl);
    assert_eq!(listen("off").listen, Listen::Off);
    let other = "postgresql://u:p@direct/runs";
    assert_eq!(listen(other).listen, Listen::Url(Secret::new(other)));
    let line = "database_url = \"postgres://file/x\"";
    check(
        url,
        line,
        |c| c.database.clone().map(|one| one.url),
        Some(Secret::new(url.1)),
        Some(Secret::new("postgres://file/x")),
    );
}

#[test]
fn every_setting_is_read_from_the_environment_and_from_the_file() {
    check(("RUNLEDGER_SLOTS", "7"), "slots = 8", |c| c.slots, 7, 8);
    let seconds = |seconds: f64| Duration::from_secs_f64(seconds);
    check(("RUNLEDGER_LEASE", "0.4"), "lease = 30", |c| c.lease, seconds(0.4), seconds(30.0));
    check(("RUNLEDGER_DRAIN", "0.5"), "drain = 30", |c| c.drain, seconds(0.5), seconds(30.0));
    let log = |config: &Config| config.log.clone();
    check(("RUNLEDGER_LOG", "debug"), "log = \"off\"", log, "debug".into(), "off".into());
    let filter = "warn,runledger::journal=trace";
    assert_eq!(env(&[("RUNLEDGER_LOG", filter)]).config().log, filter);
    let (text, json) = (Some(LogFormat::Text), Some(LogFormat::Json));
    let line = "log_format = \"json\"";
    check(("RUNLEDGER_LOG_FORMAT", "text"), line, |c| c.log_format, text, json);
    let keys = |config: &Config| {
        config.api_keys.iter().map(|key| key.expose().to_owned()).collect::<Vec<_>>().join(" ")
    };
    let line = "api_keys = [\"three\"]";
    check(("RUNLEDGER_API_KEYS", " one,two ,"), line, keys, "one two".into(), "three".into());
    let origins = |config: &Config| config.cors_origins.join(" ");
    check(
        ("RUNLEDGER_CORS_ORIGINS", "https://App.example,http://localhost:3000"),
        "cors_origins = [\"https://other.example\"]",
        origins,
        "https://app.example http://localhost:3000".into(),
        "https://other.example".into(),
    );
    let model = |config: &Config| config.default_model.clone();
    let line = "default_model = \"mine/b\"\n\
                [providers.mine]\nkind = \"openai\"\nbase_url = \"http://127.0.0.1:1/v1\"";
    let (a, b) = (Some("demo/assistant".to_owned()), Some("mine/b".to_owned()));
    check(("RUNLEDGER_DEFAULT_MODEL", "demo/assistant"), line, model, a, b);
}

#[test]
fn all_mistakes_are_told_together_with_what_would_be_right() {
    let given = Given {
        flags: Flags { listen: Some("localhost".into()), ..Flags::default() },
        env: &[
            ("RUNLEDGER_SLOTS", "0"),
            ("RUNLEDGER_DRAIN", "-1"),
            ("RUNLEDGER_LOG", "inof"),
            ("RUNLEDGER_LOG_FORMAT", "yaml"),
            ("RUNLEDGER_DEFAULT_MODEL", "gpt"),
            ("DATABASE_URL", "mysql://u:canary@h/x"),
        ],
        file: Some("cors_origins = [\"app.example\"]\ndata_dir = 3\nslot = 5\n[retention]"),
    };
    let mistakes = given.mistakes();
    for expected in [
        "--listen: \"localhost\" is no address with a port; give an IP address and a port",
        "RUNLEDGER_SLOTS: \"0\" is no number of slots; give a whole number from 1 to 100000",
        "RUNLEDGER_DRAIN: \"-1\" is no drain time; give seconds from 0 to 600",
        "RUNLEDGER_LOG: \"inof\" is no log level; give error, warn, info",
        "RUNLEDGER_LOG_FORMAT: \"yaml\" is no log format; give text or json",
        "RUNLEDGER_DEFAULT_MODEL: \"gpt\" is no PROVIDER/MODEL; give PROVIDER/MODEL",
        "DATABASE_URL: begins with mysql:, which is no database that is known here; give postgres://",
        "cors_origins: \"app.example\" is no origin; give scheme, host and port",
        "data_dir: is an integer; give a string",
        "slot: is not a known setting; see --help",
        "retention: is not available yet in this release; leave it out",
    ] {
        let found = mistakes.iter().filter(|mistake| mistake.starts_with(expected)).count();
        assert_eq!(found, 1, "{expected}\n{mistakes:#?}");
    }
    assert_eq!(mistakes.len(), 11, "{mistakes:#?}");
    let told = given.read().expect_err("they are wrong").to_string();
    assert!(told.starts_with("11 settings are wrong:\n  "), "{told}");
    assert_eq!(told.lines().count(), 12, "one line each: {told}");
}

#[test]
fn values_out_of_bounds_are_refused() {
    for (variable, refused) in [
        ("RUNLEDGER_SLOTS", &["100001", "1.5", "many", "-1"][..]),
        ("RUNLEDGER_DRAIN", &["600.1", "NaN", "inf", "8s"]),
        ("RUNLEDGER_LISTEN", &["8080", "127.0.0.1", "localhost:80", "127.0.0.1:99999"]),
        ("RUNLEDGER_LOG", &["loud", "info,hyper", "=", "runledger=loud"]),
        ("RUNLEDGER_API_KEYS", &[",", "two words", "naïve"]),
        ("RUNLEDGER_DEFAULT_MODEL", &["openai/", "/gpt", "openai/gpt"]),
    ] {
        for value in refused {
            let told = mistake(&env(&[(variable, value)]));
            assert!(told.starts_with(&format!("{variable}: ")), "{told}");
        }
    }
    assert_eq!(env(&[("RUNLEDGER_SLOTS", "100000")]).config().slots, 100_000);
    assert_eq!(env(&[("RUNLEDGER_DRAIN", "0")]).config().drain, Duration::ZERO);
    assert_eq!(env(&[("RUNLEDGER_LISTEN", "[::1]:80")]).config().listen.port(), 80);
}

#[test]
fn a_data_folder_has_a_name() {
    let flags = Flags { data_dir: Some(String::new()), ..Flags::default() };
    let told = mistake(&Given { flags, ..Given::default() });
    assert!(told.starts_with("--data-dir: names no folder; "), "{told}");
    assert!(mistake(&file("data_dir = \" \"")).starts_with("data_dir: names no folder; "));
    // What is no UTF-8 comes as U+FFFD; another folder must not be used silently.
    let told = mistake(&env(&[("RUNLEDGER_DATA_DIR", "/srv/\u{fffd}")]));
    assert!(told.starts_with("RUNLEDGER_DATA_DIR: is not UTF-8; "), "{told}");
}

#[test]
fn an_origin_is_given_as_browsers_send_it() {
    for (given, sent) in [
        ("https://app.example/", "https://app.example"),
        ("https://app.example:443", "https://app.example"),
        ("http://app.example/path", "http://app.example"),
    ] {
        let told = mistake(&env(&[("RUNLEDGER_CORS_ORIGINS", given)]));
        let right = format!("browsers send it as {sent}: give it so");
        assert!(told.ends_with(&right), "{told}");
    }
    for given in ["*", "null", "app.example", "file:///x"] {
        let told = mistake(&env(&[("RUNLEDGER_CORS_ORIGINS", given)]));
        assert!(told.contains("is no origin; give scheme, host and port"), "{told}");
    }
}

#[test]
fn a_list_in_the_file_is_an_array() {
    assert!(file("api_keys = []\ncors_origins = []").config().api_keys.is_empty());
    let told = mistake(&file("api_keys = \"a,b\""));
    assert_eq!(told, "api_keys: is a string; give an array of strings without commas");
    assert!(mistake(&file("api_keys = [\"a,b\"]")).starts_with("api_keys: "));
    // Keys that are no keys must not turn auth off.
    assert!(mistake(&file("api_keys = [\"\"]")).starts_with("api_keys: holds no key; "));
}

#[test]
fn a_file_that_is_no_toml_is_told_by_its_line_alone() {
    let told = mistake(&file("slots = 1\napi_keys = [\"sk-canary\n"));
    assert!(told.starts_with("settings file: line 2: "), "{told}");
    assert!(told.ends_with("; make it valid TOML") && !told.contains("canary"), "{told}");
}

#[test]
fn beyond_this_machine_keys_are_required() {
    for listen in ["0.0.0.0:8080", "[::]:8080", "192.168.1.5:80", "[::ffff:10.0.0.1]:80"] {
        let told = mistake(&env(&[("RUNLEDGER_LISTEN", listen)]));
        let expected = "can be reached from other machines, without keys; set RUNLEDGER_API_KEYS, \
            listen on 127.0.0.1, or pass --insecure-no-auth";
        assert!(told.starts_with("RUNLEDGER_API_KEYS: ") && told.ends_with(expected), "{told}");
        let keys = [("RUNLEDGER_LISTEN", listen), ("RUNLEDGER_API_KEYS", "k")];
        let config = env(&keys).config();
        assert!(config.is_auth_on() && !config.is_loopback(), "{listen}");
        let flags = Flags { insecure_no_auth: true, ..Flags::default() };
        let open = Given { flags, env: &[("RUNLEDGER_LISTEN", listen)], file: None };
        assert!(!open.config().is_auth_on(), "{listen}");
    }
    let flags = Flags { only_migrates: true, ..Flags::default() };
    let migrates = Given { flags, env: &[("RUNLEDGER_LISTEN", "0.0.0.0:8080")], file: None };
    assert!(!migrates.config().is_auth_on(), "nobody can call who only migrates");
    for listen in ["127.0.0.1:80", "127.8.8.8:80", "[::1]:80", "[::ffff:127.0.0.1]:80"] {
        assert!(env(&[("RUNLEDGER_LISTEN", listen)]).config().is_loopback(), "{listen}");
    }
}

#[test]
fn no_auth_and_keys_contradict_each_other() {
    let flags = Flags { insecure_no_auth: true, ..Flags::default() };
    let told = mistake(&Given { flags, env: &[("RUNLEDGER_API_KEYS", "k")], file: None });
    assert_eq!(told, "--insecure-no-auth: contradicts RUNLEDGER_API_KEYS; leave out one of them");
}

#[test]
fn openai_is_there_with_a_key_or_a_base_url() {
    let provider = |env: &[(&str, &str)]| {
        let mut providers = Given { env, ..Given::default() }.config().providers;
        assert_eq!(providers.len(), 1);
        providers.remove(0)
    };
    let hosted = provider(&[("OPENAI_API_KEY", " sk-1 ")]);
    let expected = Provider {
        name: "openai".into(),
        kind: ProviderKind::OpenAi,
        base_url: "https://api.openai.com/v1".into(),
        api_key: Some(Secret::new("sk-1")),
        headers: Vec::new(),
        max_concurrency: None,
        output_limit_field: OutputLimitField::MaxCompletionTokens,
        stream_usage: true,
        prices: BTreeMap::new(),
    };
    assert_eq!(hosted, expected);
    let own = provider(&[("OPENAI_BASE_URL", "http://127.0.0.1:11434/v1/")]);
    assert_eq!(own.base_url, "http://127.0.0.1:11434/v1");
    assert_eq!(own.api_key, None);
    assert_eq!(own.output_limit_field, OutputLimitField::MaxTokens);
    assert!(env(&[("OPENAI_API_KEY", "")]).config().providers.is_empty());
    let azure = provider(&[("OPENAI_BASE_URL", "https://x.openai.azure.com/openai/v1")]);
    assert_eq!(azure.output_limit_field, OutputLimitField::MaxCompletionTokens);
}

/// A provider with every field set.
const LOCAL: &str = r#"
    [providers.local]
    kind = "openai"
    base_url = "http://10.0.0.9:8000/v1"
    api_key_env = "LOCAL_KEY"
    headers = { "X-Team" = "blue" }
    max_concurrency = 4
    output_limit_field = "max_completion_tokens"
    stream_usage = false
    prices.m = { input = 1, output = 2.5 }
    prices."m-4.1" = { input = 3, cached_input = 0.3, cache_write_input = 3.75, output = 15 }
"#;

#[test]
fn the_file_adds_providers_with_all_their_settings() {
    let env = [("LOCAL_KEY", "sk-local"), ("OPENAI_API_KEY", "sk-1")];
    let providers = Given { env: &env, file: Some(LOCAL), ..Given::default() }.config().providers;
    let names: Vec<&str> = providers.iter().map(|provider| provider.name.as_str()).collect();
    assert_eq!(names, ["openai", "local"], "the environment's comes first");
    let price = Price { input: 1.0, cached_input: None, cache_write_input: None, output: 2.5 };
    let (cached_input, cache_write_input) = (Some(0.3), Some(3.75));
    let full = Price { input: 3.0, cached_input, cache_write_input, output: 15.0 };
    let expected = Provider {
        name: "local".into(),
        kind: ProviderKind::OpenAi,
        base_url: "http://10.0.0.9:8000/v1".into(),
        api_key: Some(Secret::new("sk-local")),
        headers: vec![("X-Team".into(), Secret::new("blue"))],
        max_concurrency: Some(4),
        output_limit_field: OutputLimitField::MaxCompletionTokens,
        stream_usage: false,
        prices: [("m".to_owned(), price), ("m-4.1".to_owned(), full)].into(),
    };
    assert_eq!(providers[1], expected);
}

#[test]
fn openai_in_the_file_is_mended_by_the_environment() {
    let lines = "[providers.openai]\nkind = \"openai\"\nbase_url = \"http://a/v1\"\n\
        api_key_env = \"MINE\"\n[providers.also]\nkind = \"openai\"\nbase_url = \"http://b/v1\"";
    let env = [("OPENAI_BASE_URL", "http://c/v1"), ("MINE", "sk-mine"), ("OPENAI_API_KEY", "x")];
    let providers = Given { env: &env, file: Some(lines), ..Given::default() }.config().providers;
    assert_eq!(providers.len(), 2, "there is one `openai`, and the other");
    assert_eq!(providers[0].name, "openai");
    assert_eq!(providers[0].base_url, "http://c/v1");
    assert_eq!(providers[0].api_key, Some(Secret::new("sk-mine")), "the file names its variable");
}

#[test]
fn anthropic_is_there_with_a_key_or_a_base_url_behind_openai() {
    let both = env(&[("ANTHROPIC_API_KEY", "sk-ant"), ("OPENAI_API_KEY", "sk-1")]).config();
    let names: Vec<&str> = both.providers.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["openai", "anthropic"]);
    let expected = Provider {
        name: "anthropic".into(),
        kind: ProviderKind::Anthropic,
        base_url: "https://api.anthropic.com".into(),
        api_key: Some(Secret::new("sk-ant")),
        headers: Vec::new(),
        max_concurrency: None,
        output_limit_field: OutputLimitField::MaxTokens,
        stream_usage: true,
        prices: BTreeMap::new(),
    };
    assert_eq!(both.providers[1], expected);
    let own = env(&[("ANTHROPIC_BASE_URL", "http://127.0.0.1:8000/")]).config().providers;
    assert_eq!((own[0].base_url.as_str(), &own[0].api_key), ("http://127.0.0.1:8000", &None));
    let told = mistake(&env(&[("ANTHROPIC_BASE_URL", "http://127.0.0.1:8000/v1")]));
    assert!(told.starts_with("ANTHROPIC_BASE_URL: ends in /v1"), "{told}");
    let lines = "[providers.mine]\nkind = \"anthropic\"\nbase_url = \"http://h\"";
    assert_eq!(file(lines).config().providers[0].kind, ProviderKind::Anthropic);
    let told = mistake(&file(&format!("{lines}\nstream_usage = true")));
    assert!(told.starts_with("providers.mine.stream_usage: is of no meaning"), "{told}");
    let lines = "[providers.anthropic]\nkind = \"openai\"";
    let told = mistake(&file(lines));
    assert!(told.starts_with("providers.anthropic.kind: is not that of the provider"), "{told}");
}

#[test]
fn the_default_model_is_one_of_a_configured_provider() {
    let line = format!("default_model = \"local/llama/8b\"\n{LOCAL}");
    let given = Given { env: &[("LOCAL_KEY", "k")], file: Some(&line), ..Given::default() };
    assert_eq!(given.config().default_model.as_deref(), Some("local/llama/8b"));
    let told = mistake(&env(&[("RUNLEDGER_DEFAULT_MODEL", "local/llama")]));
    assert!(told.contains("the provider \"local\" is not configured"), "{told}");
}

#[test]
fn a_provider_tells_what_is_wrong_with_each_field() {
    for (fields, expected) in [
        ("", "providers.p.kind: is missing"),
        ("kind = \"acme\"", "providers.p.kind: is not known"),
        ("kind = 3", "providers.p.kind: is an integer; give a string"),
        ("base_url = \"ftp://h\"", "providers.p.base_url: is no base URL; give an http or https"),
        ("base_url = 3", "providers.p.base_url: is an integer; give a string"),
        ("api_key_env = \"NOT_SET\"", "providers.p.api_key_env: the variable \"NOT_SET\" is not"),
        ("headers = { \"a b\" = \"c\" }", "providers.p.headers.a b: can't be a header"),
        ("headers = [\"a\"]", "providers.p.headers: is an array; give a table of strings"),
        ("max_concurrency = 0", "providers.p.max_concurrency: is 0; give a whole number"),
        ("output_limit_field = \"most\"", "providers.p.output_limit_field: is not known"),
        ("stream_usage = \"yes\"", "providers.p.stream_usage: is a string; give true or false"),
        ("prices = 3", "providers.p.prices: is an integer; give a table per name"),
        ("prices.m = { input = 1 }", "providers.p.prices.m.output: is missing; give USD"),
        ("prices.m = { input = -1, output = 1 }", "providers.p.prices.m.input: is -1; give USD"),
        ("prices.m = { input = \"1\", output = 1 }", "providers.p.prices.m.input: is a string"),
        ("prices.m = { input = 1, output = 1, c = 1 }", "providers.p.prices.m.c: is not a known"),
        ("base_uri = \"x\"", "providers.p.base_uri: is not a known setting; known are kind"),
    ] {
        let has = |field: &str| fields.starts_with(field);
        let kind = if has("kind") || fields.is_empty() { "" } else { "kind = \"openai\"\n" };
        let base = if has("base_url") { "" } else { "base_url = \"http://h/v1\"\n" };
        let told = mistake(&file(&format!("[providers.p]\n{kind}{base}{fields}")));
        assert!(told.starts_with(expected), "{told}");
    }
    for (name, expected) in [("demo", "the name is reserved"), ("'a/b'", "the name can't stand")] {
        let lines = format!("[providers.{name}]\nkind = \"openai\"\nbase_url = \"http://h/v1\"");
        assert!(mistake(&file(&lines)).contains(expected), "{name}");
    }
    assert!(mistake(&file("providers = 3")).starts_with("providers: is an integer; give a table"));
}

#[test]
fn secrets_are_never_shown() {
    let canaries = [
        ("RUNLEDGER_API_KEYS", "canary-1"),
        ("OPENAI_API_KEY", "canary-2"),
        ("LOCAL_KEY", "canary-3"),
    ];
    let file = LOCAL.replace("blue", "canary-4");
    let config = Given { env: &canaries, file: Some(&file), ..Given::default() }.config();
    assert_eq!(config.providers.len(), 2);
    let shown = format!("{config:?} {config:#?}");
    assert!(shown.contains("Secret(hidden)") && !shown.contains("canary"), "{shown}");
    let wrong = [
        ("RUNLEDGER_API_KEYS", "canary 1"),
        ("OPENAI_API_KEY", "canary 2"),
        ("OPENAI_BASE_URL", "http://user:canary@h/v1"),
        ("LOCAL_KEY", "canary\u{1}3"),
        ("DATABASE_URL", "mysql://user:canary@h/db"),
    ];
    let file = LOCAL.replace("blue", "canary\\n4").replace("http://", "http://canary@");
    let given = Given { env: &wrong, file: Some(&file), ..Given::default() };
    let errors = given.read().expect_err("they are wrong");
    assert_eq!(errors.0.len(), 7, "{errors}");
    let shown = format!("{errors} {errors:?}");
    assert!(!shown.contains("canary"), "{shown}");
}

#[test]
fn the_help_names_every_setting() {
    for setting in [
        "RUNLEDGER_LISTEN",
        "RUNLEDGER_DATA_DIR",
        "DATABASE_URL",
        "DATABASE_LISTEN_URL",
        "RUNLEDGER_LEASE",
        "RUNLEDGER_API_KEYS",
        "RUNLEDGER_SLOTS",
        "RUNLEDGER_DRAIN",
        "RUNLEDGER_LOG",
        "RUNLEDGER_LOG_FORMAT",
        "RUNLEDGER_CORS_ORIGINS",
        "RUNLEDGER_DEFAULT_MODEL",
        "RUNLEDGER_ALLOW_NETWORKS",
        "RUNLEDGER_CONFIG",
        "OPENAI_API_KEY",
        "OPENAI_BASE_URL",
        "ANTHROPIC_API_KEY",
        "ANTHROPIC_BASE_URL",
    ] {
        let is_there = SETTINGS_HELP.lines().any(|line| line.trim().starts_with(setting));
        assert!(is_there, "{setting}");
    }
}
