//! What tools may reach, and with which secrets.

use std::net::IpAddr;

use ipnet::IpNet;
use reqwest::Url;

use super::file::Fields;
use super::{Given, Secret, Sources, items};

/// A secret that is shorter could not be told from other text where it has to be hidden.
const SECRET_BYTES_MIN: usize = 8;

/// A longer one does not fit the headers that servers take.
const SECRET_BYTES_MAX: usize = 4096;

/// A secret that headers of tools may name.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolSecret {
    /// 1–64 of `[A-Za-z0-9_-]`.
    pub name: String,
    /// What is sent.
    pub value: Secret,
    /// Where it may be sent: hosts as they stand in a parsed URL, without port.
    pub hosts: Vec<String>,
}

/// The networks that are open. Where nobody says: this machine, if only it can connect and no key is
/// asked for.
pub(super) fn networks(
    sources: &mut Sources<'_>,
    given: Option<Given>,
    is_this_machine_open: bool,
) -> Vec<IpNet> {
    let Some(Given { setting, value }) = given else {
        let loopback = ["127.0.0.0/8", "::1/128"].map(|net| net.parse().expect("it is a network"));
        return if is_this_machine_open { loopback.to_vec() } else { Vec::new() };
    };
    let mut networks = Vec::new();
    if value.trim() == "none" {
        return networks;
    }
    for item in items(&value) {
        let single = || item.parse::<IpAddr>().map(IpNet::from);
        match item.parse::<IpNet>().or_else(|_no_network| single()) {
            Ok(network) => networks.push(network.trunc()),
            Err(_neither) => sources.wrong(
                setting.clone(),
                format!("{item:?} is no network"),
                "give none, or networks with commas, e.g. 127.0.0.0/8,10.0.0.0/8,fd00::/8",
            ),
        }
    }
    networks
}

/// `[secrets.NAME]`, all of them.
pub(super) fn secrets(sources: &mut Sources<'_>, tables: Vec<(String, Fields)>) -> Vec<ToolSecret> {
    tables.into_iter().filter_map(|(name, fields)| secret(sources, name, fields)).collect()
}

fn secret(sources: &mut Sources<'_>, name: String, mut fields: Fields) -> Option<ToolSecret> {
    let path = format!("secrets.{name}");
    if !crate::run::secret::is_name(&name) {
        let right = "use 1 to 64 of letters, digits, `-` and `_`";
        sources.wrong(path.clone(), "the name can't stand in a header's value", right);
    }
    let before = sources.mistakes.len();
    let variable = fields.text("value_env", &mut sources.mistakes);
    let hosts = fields.list("hosts", &mut sources.mistakes);
    fields.end("known are value_env and hosts", &mut sources.mistakes);
    let is_told = sources.mistakes.len() > before;
    if variable.is_none() && !is_told {
        let right = "name the variable that holds the secret";
        sources.wrong(format!("{path}.value_env"), "is missing", right);
    }
    if hosts.is_none() && !is_told {
        let right = "name the hosts that it may be sent to, e.g. hosts = [\"shop.example\"]";
        sources.wrong(format!("{path}.hosts"), "is missing", right);
    }
    let hosts: Vec<String> = items(&hosts?).into_iter().map(str::to_ascii_lowercase).collect();
    for host in hosts.iter().filter(|host| !is_host(host)) {
        let right = "give names or addresses without scheme, port and path, e.g. shop.example";
        sources.wrong(format!("{path}.hosts"), format!("{host:?} is no host"), right);
    }
    let value = value(sources, &path, &variable?)?;
    Some(ToolSecret { name, value, hosts })
}

fn value(sources: &mut Sources<'_>, path: &str, variable: &str) -> Option<Secret> {
    let Some(value) = sources.env(variable) else {
        let wrong = format!("the variable {variable:?} is not set");
        sources.wrong(format!("{path}.value_env"), wrong, "set it, or leave the secret out");
        return None;
    };
    let value = value.trim();
    let is_visible = value.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
    if !is_visible || !(SECRET_BYTES_MIN..=SECRET_BYTES_MAX).contains(&value.len()) {
        let right = "give 8 to 4096 visible ASCII characters";
        sources.wrong(variable, "holds what can't be a header's secret", right);
        return None;
    }
    Some(Secret::new(value))
}

/// Whether it is a host as it stands in a parsed URL.
fn is_host(host: &str) -> bool {
    let url = Url::parse(&format!("https://{host}/"));
    url.is_ok_and(|url| url.host_str() == Some(host) && url.as_str() == format!("https://{host}/"))
}
