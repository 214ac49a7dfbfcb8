//! The operator's settings: flags, then the environment, then `runledger.toml`, checked as a
//! whole before anything starts.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;

use crate::telemetry::LogFormat;

mod database;
mod file;
mod healthcheck;
mod outside;
mod provider;
mod run;

pub use database::{Database, Listen};
pub use healthcheck::HealthcheckFlags;
pub use outside::ToolSecret;
pub use provider::{OutputLimitField, Provider, ProviderKind};
pub use run::RunFlags;

/// Where settings are read from when neither `--config` nor `RUNLEDGER_CONFIG` says.
const FILE_DEFAULT: &str = "runledger.toml";

/// A settings file is a page or two; more is another file.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// One active run costs about 100 KiB: the default is a small machine's, the most a large one's.
const SLOTS_DEFAULT: u32 = 1024;
const SLOTS_MAX: u32 = 100_000;

/// Orchestrators kill after 10 s by default: done before that, and never longer than a model's
/// slowest turn is worth.
const DRAIN_SECONDS_DEFAULT: f64 = 8.0;
const DRAIN_SECONDS_MAX: f64 = 600.0;

/// Longer keys are a file pasted by mistake; header blocks end at 64 KiB.
const API_KEY_BYTES_MAX: usize = 512;

/// What `--help` says below the flags: settings without a flag of their own.
pub const SETTINGS_HELP: &str = "\
Settings come from flags, then the environment, then the file (./runledger.toml, or --config):
  RUNLEDGER_LISTEN         listen           address and port [127.0.0.1:8080]
  RUNLEDGER_DATA_DIR       data_dir         where SQLite keeps its files [./runledger-data]
  DATABASE_URL             database_url     postgres://USER:PASSWORD@HOST:PORT/DATABASE, for several
                                            nodes [none: SQLite, one node]
  DATABASE_LISTEN_URL      database_listen_url  where notifications are heard, past a pooler; or off
                                            [DATABASE_URL]
  RUNLEDGER_LEASE          lease            seconds after which a silent node on PostgreSQL counts as
                                            dead, 0.2 to 300 [10]
  RUNLEDGER_API_KEYS       api_keys         bearer keys, separated by commas
  RUNLEDGER_SLOTS          slots            active runs on this node, 1 to 100000 [1024]
  RUNLEDGER_DRAIN          drain            seconds to finish after a stop, 0 to 600 [8]
  RUNLEDGER_LOG            log              error, warn, info, debug, trace, off, or a list of
                                            TARGET=LEVEL [info]
  RUNLEDGER_LOG_FORMAT     log_format       text or json [text on a terminal, else json]
  RUNLEDGER_CORS_ORIGINS   cors_origins     origins of web pages that may call, with commas
  RUNLEDGER_DEFAULT_MODEL  default_model    PROVIDER/MODEL for runs that name none
  RUNLEDGER_ALLOW_NETWORKS allow_networks   private networks that tools may call, with commas
                                            [none; this machine, if only it can connect, keyless]
  OPENAI_API_KEY           -                key of the provider `openai`
  OPENAI_BASE_URL          -                its base URL with /v1; alone enough without a key
  ANTHROPIC_API_KEY        -                key of the provider `anthropic`
  ANTHROPIC_BASE_URL       -                its base URL without /v1; alone enough without a key
  RUNLEDGER_CONFIG         -                the file
Further providers stand in the file: [providers.NAME] with kind = \"openai\" or \"anthropic\",
base_url, api_key_env, headers, max_concurrency, output_limit_field, stream_usage, and
prices.MODEL = { input, cached_input, cache_write_input, output }, USD per million tokens. So do
the secrets of tools: [secrets.NAME] with value_env and hosts.
`runledger run` reads RUNLEDGER_URL and RUNLEDGER_API_KEY as well: see `runledger run --help`.";

/// The flags of the server. Values are parsed with the other settings, so that one start lists
/// every mistake.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(after_help = SETTINGS_HELP)]
pub struct Flags {
    /// Address and port to listen on [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<String>,
    /// Where SQLite keeps its files [default: ./runledger-data]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<String>,
    /// The settings file [default: ./runledger.toml, if it exists]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Serve anybody who can reach the address, also beyond this machine
    #[arg(long)]
    pub insecure_no_auth: bool,
    /// Nothing is served: who may call is no question. The command says so, no flag.
    #[arg(skip)]
    pub only_migrates: bool,
}

/// A value that must not be shown: `Debug` hides it, there is no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides a value.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value, for the one place that sends or compares it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(hidden)")
    }
}

/// All settings, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Where the API is served.
    pub listen: SocketAddr,
    /// Where SQLite keeps its files, where no database is named.
    pub data_dir: PathBuf,
    /// The PostgreSQL database, shared with other nodes.
    pub database: Option<Database>,
    /// How long a node on PostgreSQL owns its runs after its last heartbeat.
    pub lease: Duration,
    /// Static bearer keys of the tenant `default`; empty: auth is off.
    pub api_keys: Vec<Secret>,
    /// Active runs on this node.
    pub slots: u32,
    /// How long runs and connections may take to finish after a stop.
    pub drain: Duration,
    /// A level, or a list of `TARGET=LEVEL`.
    pub log: String,
    /// Absent: text on a terminal, else JSON.
    pub log_format: Option<LogFormat>,
    /// Origins of web pages that may call: `https://app.example`, lower case, no path.
    pub cors_origins: Vec<String>,
    /// `PROVIDER/MODEL` of a configured provider (or `demo`) for runs that name none.
    pub default_model: Option<String>,
    /// `openai` and `anthropic` first where the environment has them, then the file's by name.
    pub providers: Vec<Provider>,
    /// Networks that tools may call beside the public internet.
    pub allow_networks: Vec<IpNet>,
    /// What headers of tools may name, by name.
    pub secrets: Vec<ToolSecret>,
}

/// One setting that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Its name as the operator wrote it: flag, variable or path in the file.
    pub setting: String,
    /// What is wrong. Never a secret's value.
    pub wrong: String,
    /// What would be right.
    pub right: String,
}

/// Every mistake of a start at once; never empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigErrors(pub Vec<Mistake>);

impl std::fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.len() {
            1 => f.write_str("a setting is wrong:")?,
            several => write!(f, "{several} settings are wrong:")?,
        }
        for Mistake { setting, wrong, right } in &self.0 {
            write!(f, "\n  {setting}: {wrong}; {right}")?;
        }
        Ok(())
    }
}

impl Config {
    /// Reads the environment and the file, then [`Config::from_lookup`].
    pub fn load(flags: &Flags) -> Result<Self, ConfigErrors> {
        // Bytes that are no UTF-8 become U+FFFD, which no setting allows.
        let env = |name: &str| std::env::var_os(name).map(|v| v.to_string_lossy().into_owned());
        let named = flags
            .config
            .clone()
            .or_else(|| env("RUNLEDGER_CONFIG").filter(|path| !path.is_empty()).map(PathBuf::from));
        let file = read_file(named.as_deref()).map_err(|mistake| ConfigErrors(vec![mistake]))?;
        Self::from_lookup(flags, env, file.as_deref())
    }

    /// Settings from given sources; `file` is the text of the settings file. An empty variable
    /// counts as absent.
    pub fn from_lookup(
        flags: &Flags,
        env: impl Fn(&str) -> Option<String>,
        file: Option<&str>,
    ) -> Result<Self, ConfigErrors> {
        let mut mistakes = Vec::new();
        let file = file.map_or_else(file::File::default, |text| file::parse(text, &mut mistakes));
        let env = |name: &str| env(name).filter(|value| !value.trim().is_empty());
        let mut sources = Sources { env: &env, mistakes };
        let config = sources.config(flags, file);
        if sources.mistakes.is_empty() { Ok(config) } else { Err(ConfigErrors(sources.mistakes)) }
    }

    /// Whether requests need a key.
    pub fn is_auth_on(&self) -> bool {
        !self.api_keys.is_empty()
    }

    /// Whether only this machine can reach the API.
    pub fn is_loopback(&self) -> bool {
        self.listen.ip().to_canonical().is_loopback()
    }
}

fn read_file(named: Option<&Path>) -> Result<Option<String>, Mistake> {
    let path = named.unwrap_or(Path::new(FILE_DEFAULT));
    let mistake = |wrong: String| Mistake {
        setting: path.display().to_string(),
        wrong,
        right: "name a readable TOML file of at most 1 MiB with --config".into(),
    };
    match std::fs::metadata(path) {
        Err(error) if named.is_none() && error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(mistake(error.to_string())),
        Ok(data) if data.len() > FILE_BYTES_MAX => Err(mistake("is too large".into())),
        Ok(_) => {
            std::fs::read_to_string(path).map(Some).map_err(|error| mistake(error.to_string()))
        }
    }
}

/// A raw value and the name under which it was given.
struct Given {
    setting: String,
    value: String,
}

/// Where settings come from, and what was wrong with them so far. Every method returns something
/// usable, so that the next setting is looked at as well.
struct Sources<'a> {
    env: &'a dyn Fn(&str) -> Option<String>,
    mistakes: Vec<Mistake>,
}

impl Sources<'_> {
    fn config(&mut self, flags: &Flags, file: file::File) -> Config {
        let listen =
            self.pick(flags.listen.clone(), "--listen", "RUNLEDGER_LISTEN", "listen", file.listen);
        let data_dir = self.pick(
            flags.data_dir.clone(),
            "--data-dir",
            "RUNLEDGER_DATA_DIR",
            "data_dir",
            file.data_dir,
        );
        let slots = self.given("RUNLEDGER_SLOTS", "slots", file.slots);
        let drain = self.given("RUNLEDGER_DRAIN", "drain", file.drain);
        let log = self.given("RUNLEDGER_LOG", "log", file.log);
        let log_format = self.given("RUNLEDGER_LOG_FORMAT", "log_format", file.log_format);
        let keys = self.given("RUNLEDGER_API_KEYS", "api_keys", file.api_keys);
        let origins = self.given("RUNLEDGER_CORS_ORIGINS", "cors_origins", file.cors_origins);
        let model = self.given("RUNLEDGER_DEFAULT_MODEL", "default_model", file.default_model);
        let database = self.given("DATABASE_URL", "database_url", file.database_url);
        let listen_url = self.given("DATABASE_LISTEN_URL", "database_listen_url", file.listen_url);
        let lease = self.given("RUNLEDGER_LEASE", "lease", file.lease);
        let networks =
            self.given("RUNLEDGER_ALLOW_NETWORKS", "allow_networks", file.allow_networks);
        let providers = provider::all(self, file.providers);
        let mut config = Config {
            listen: self.listen(listen),
            data_dir: self.data_dir(data_dir),
            database: self.database(database, listen_url),
            lease: self.lease(lease),
            api_keys: self.api_keys(keys),
            slots: self.slots(slots),
            drain: self.drain(drain),
            log: self.log(log),
            log_format: log_format.and_then(|given| self.log_format(given)),
            cors_origins: self.cors_origins(origins),
            default_model: model.and_then(|given| self.default_model(given, &providers)),
            providers,
            allow_networks: Vec::new(),
            secrets: outside::secrets(self, file.secrets),
        };
        let is_open = config.is_loopback() && !config.is_auth_on();
        config.allow_networks = outside::networks(self, networks, is_open);
        if !flags.only_migrates {
            self.check_auth(flags, &config);
        }
        config
    }

    fn wrong(&mut self, setting: impl Into<String>, wrong: impl Into<String>, right: &str) {
        let right = right.to_owned();
        self.mistakes.push(Mistake { setting: setting.into(), wrong: wrong.into(), right });
    }

    fn env(&self, name: &str) -> Option<String> {
        (self.env)(name)
    }

    fn given(&self, variable: &str, key: &str, file: Option<String>) -> Option<Given> {
        let from_env =
            self.env(variable).map(|value| Given { setting: variable.to_owned(), value });
        from_env.or_else(|| file.map(|value| Given { setting: key.to_owned(), value }))
    }

    fn pick(
        &self,
        flag: Option<String>,
        flag_name: &str,
        variable: &str,
        key: &str,
        file: Option<String>,
    ) -> Option<Given> {
        let from_flag = flag.map(|value| Given { setting: flag_name.to_owned(), value });
        from_flag.or_else(|| self.given(variable, key, file))
    }

    fn listen(&mut self, given: Option<Given>) -> SocketAddr {
        let default = SocketAddr::from(([127, 0, 0, 1], 8080));
        let Some(Given { setting, value }) = given else { return default };
        value.trim().parse().unwrap_or_else(|_| {
            let right = "give an IP address and a port, e.g. 127.0.0.1:8080, 0.0.0.0:8080, [::]:80";
            self.wrong(setting, format!("{value:?} is no address with a port"), right);
            default
        })
    }

    /// Not trimmed: a folder's name may begin with a space.
    fn data_dir(&mut self, given: Option<Given>) -> PathBuf {
        let default = PathBuf::from("./runledger-data");
        let Some(Given { setting, value }) = given else { return default };
        if value.trim().is_empty() {
            self.wrong(setting, "names no folder", "give a path, e.g. /var/lib/runledger");
            return default;
        }
        if value.contains(char::REPLACEMENT_CHARACTER) {
            self.wrong(setting, "is not UTF-8", "give a path in UTF-8");
            return default;
        }
        value.into()
    }

    fn slots(&mut self, given: Option<Given>) -> u32 {
        let Some(Given { setting, value }) = given else { return SLOTS_DEFAULT };
        match value.trim().parse() {
            Ok(slots @ 1..=SLOTS_MAX) => slots,
            _ => {
                let right = "give a whole number from 1 to 100000";
                self.wrong(setting, format!("{value:?} is no number of slots"), right);
                SLOTS_DEFAULT
            }
        }
    }

    fn drain(&mut self, given: Option<Given>) -> Duration {
        let default = Duration::from_secs_f64(DRAIN_SECONDS_DEFAULT);
        let Some(Given { setting, value }) = given else { return default };
        match value.trim().parse::<f64>() {
            Ok(seconds) if (0.0..=DRAIN_SECONDS_MAX).contains(&seconds) => {
                Duration::from_secs_f64(seconds)
            }
            _ => {
                let right = "give seconds from 0 to 600, e.g. 8";
                self.wrong(setting, format!("{value:?} is no drain time"), right);
                default
            }
        }
    }

    /// Only what names a level: `EnvFilter` would take the misspelt `inof` for a target.
    fn log(&mut self, given: Option<Given>) -> String {
        let Some(Given { setting, value }) = given else { return "info".into() };
        let levels = ["error", "warn", "info", "debug", "trace", "off"];
        let is_known = value.split(',').all(|directive| {
            let level = directive.rsplit('=').next().unwrap_or_default().trim();
            levels.contains(&level.to_ascii_lowercase().as_str())
        });
        if !is_known || tracing_subscriber::EnvFilter::try_new(&value).is_err() {
            let right = "give error, warn, info, debug, trace or off, or e.g. warn,runledger=debug";
            self.wrong(setting, format!("{value:?} is no log level"), right);
        }
        value
    }

    fn log_format(&mut self, given: Given) -> Option<LogFormat> {
        match given.value.trim() {
            "text" => Some(LogFormat::Text),
            "json" => Some(LogFormat::Json),
            other => {
                let wrong = format!("{other:?} is no log format");
                self.wrong(given.setting, wrong, "give text or json");
                None
            }
        }
    }

    fn api_keys(&mut self, given: Option<Given>) -> Vec<Secret> {
        let Some(Given { setting, value }) = given else { return Vec::new() };
        let keys: Vec<&str> = items(&value);
        let right = "give keys of 1 to 512 visible ASCII characters, separated by commas";
        if keys.is_empty() {
            self.wrong(setting.clone(), "holds no key", right);
        }
        for (key, place) in keys.iter().zip(1..) {
            let is_visible = key.bytes().all(|byte| byte.is_ascii_graphic());
            if !is_visible || key.len() > API_KEY_BYTES_MAX {
                self.wrong(setting.clone(), format!("key {place} can't be a bearer key"), right);
            }
        }
        keys.into_iter().map(Secret::new).collect()
    }

    fn cors_origins(&mut self, given: Option<Given>) -> Vec<String> {
        let Some(Given { setting, value }) = given else { return Vec::new() };
        let origins: Vec<String> =
            items(&value).iter().map(|origin| origin.to_ascii_lowercase()).collect();
        for origin in &origins {
            let parsed = reqwest::Url::parse(origin).ok().map(|url| url.origin());
            let meant = parsed.filter(|origin| origin.is_tuple());
            let right = match meant.map(|origin| origin.ascii_serialization()) {
                Some(sent) if sent == *origin => continue,
                Some(sent) => format!("browsers send it as {sent}: give it so"),
                None => "give scheme, host and port, e.g. https://app.example".to_owned(),
            };
            self.wrong(setting.clone(), format!("{origin:?} is no origin"), &right);
        }
        origins
    }

    fn default_model(&mut self, given: Given, providers: &[Provider]) -> Option<String> {
        let Given { setting, value } = given;
        let right = "give PROVIDER/MODEL, e.g. openai/gpt-4.1-mini, and configure that provider";
        let wrong = match value.split_once('/') {
            None | Some(("", _) | (_, "")) => format!("{value:?} is no PROVIDER/MODEL"),
            Some(("demo", "assistant")) => return Some(value),
            Some(("demo", _)) => format!("{value:?} is not there; the demo is demo/assistant"),
            Some((name, _)) if providers.iter().any(|provider| provider.name == name) => {
                return Some(value);
            }
            Some((name, _)) => format!("the provider {name:?} is not configured"),
        };
        self.wrong(setting, wrong, right);
        None
    }

    fn check_auth(&mut self, flags: &Flags, config: &Config) {
        if flags.insecure_no_auth && config.is_auth_on() {
            let wrong = "contradicts RUNLEDGER_API_KEYS";
            self.wrong("--insecure-no-auth", wrong, "leave out one of them");
        }
        if !config.is_loopback() && !config.is_auth_on() && !flags.insecure_no_auth {
            let wrong =
                format!("{} can be reached from other machines, without keys", config.listen);
            let right = "set RUNLEDGER_API_KEYS, listen on 127.0.0.1, or pass --insecure-no-auth";
            self.wrong("RUNLEDGER_API_KEYS", wrong, right);
        }
    }
}

/// The items of a list with commas.
fn items(list: &str) -> Vec<&str> {
    list.split(',').map(str::trim).filter(|item| !item.is_empty()).collect()
}

#[cfg(test)]
mod tests;
