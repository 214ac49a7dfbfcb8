//! The flags of `runledger healthcheck`, and where it finds the service of this machine.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use super::{ConfigErrors, Sources, file, read_file};

/// What `runledger healthcheck --help` says below the flags.
const HEALTHCHECK_HELP: &str = "\
It asks GET /healthz: whether the process lives. That is what a container should be restarted for;
a restart does not bring back a database that is away, and stops the streams of all who are here.
Whether a node may have work (its store answers, it is not stopping) is for a load balancer to ask:
GET /readyz, or --ready.

Without --url it asks this machine, at the port of RUNLEDGER_LISTEN, else of the settings file's
`listen`, else 8080. No key is needed.

Exit codes:
  0    it is well
  1    it is not, or can't be asked; the reason stands on standard error
  2    wrong flags";

/// What is asked, and where.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(after_help = HEALTHCHECK_HELP)]
pub struct HealthcheckFlags {
    /// The service; without one, this machine's
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
    /// Ask whether it may take work, instead of whether it lives
    #[arg(long)]
    pub ready: bool,
    /// The settings file of the service [default: ./runledger.toml, if it exists]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

impl HealthcheckFlags {
    /// The service's URL: the given one, else where it listens by the settings of the environment
    /// and the file.
    ///
    /// # Errors
    /// Where these settings say no address.
    pub fn url(&self) -> Result<String, ConfigErrors> {
        if let Some(url) = &self.url {
            return Ok(url.clone());
        }
        let env = |name: &str| std::env::var_os(name).map(|v| v.to_string_lossy().into_owned());
        let named = env("RUNLEDGER_CONFIG").filter(|path| !path.is_empty()).map(PathBuf::from);
        let file = read_file(self.config.clone().or(named).as_deref());
        let file = file.map_err(|mistake| ConfigErrors(vec![mistake]))?;
        url_of_this_machine(&env, file.as_deref())
    }
}

/// Other settings may be as wrong as they like: this is not the service's start.
fn url_of_this_machine(
    env: &dyn Fn(&str) -> Option<String>,
    file: Option<&str>,
) -> Result<String, ConfigErrors> {
    let set = |name: &str| env(name).filter(|value| !value.trim().is_empty());
    let file = file.map_or_else(file::File::default, |text| file::parse(text, &mut Vec::new()));
    let mut sources = Sources { env: &set, mistakes: Vec::new() };
    let given = sources.given("RUNLEDGER_LISTEN", "listen", file.listen);
    let listen = sources.listen(given);
    if listen.port() == 0 {
        sources.wrong("port 0", "is chosen anew at every start", "say where it is with --url");
    }
    if sources.mistakes.is_empty() {
        Ok(format!("http://{}", reached_at(listen)))
    } else {
        Err(ConfigErrors(sources.mistakes))
    }
}

/// Who listens on all addresses is asked on loopback.
fn reached_at(listen: SocketAddr) -> SocketAddr {
    let address = match listen.ip() {
        IpAddr::V4(all) if all.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(all) if all.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        one => one,
    };
    SocketAddr::new(address, listen.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(listen: Option<&str>, file: Option<&str>) -> Result<String, String> {
        let env = |name: &str| {
            listen.filter(|_| name == "RUNLEDGER_LISTEN").map(|value| value.to_owned())
        };
        url_of_this_machine(&env, file).map_err(|mistakes| mistakes.to_string())
    }

    #[test]
    fn it_asks_where_the_service_listens() {
        for (listen, file, expected) in [
            (None, None, "http://127.0.0.1:8080"),
            (Some("  "), None, "http://127.0.0.1:8080"),
            (Some("0.0.0.0:9000"), None, "http://127.0.0.1:9000"),
            (Some("[::]:9000"), None, "http://[::1]:9000"),
            (Some("10.0.0.7:80"), None, "http://10.0.0.7:80"),
            (None, Some("listen = \"0.0.0.0:7000\""), "http://127.0.0.1:7000"),
            (Some("127.0.0.1:9000"), Some("listen = \"0.0.0.0:7000\""), "http://127.0.0.1:9000"),
            (Some("127.0.0.1:9000"), Some("slots = \"none\"\nbogus = 1"), "http://127.0.0.1:9000"),
        ] {
            assert_eq!(url(listen, file).as_deref(), Ok(expected), "{listen:?} {file:?}");
        }
    }

    #[test]
    fn settings_that_say_no_port_are_told() {
        let wrong = url(Some("8080"), None).unwrap_err();
        assert!(wrong.contains("RUNLEDGER_LISTEN: \"8080\" is no address"), "{wrong}");
        let wrong = url(Some("127.0.0.1:0"), None).unwrap_err();
        assert!(wrong.contains("port 0") && wrong.contains("--url"), "{wrong}");
    }
}
