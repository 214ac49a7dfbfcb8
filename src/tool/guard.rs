//! Where tools may be: the addresses of the public internet, and the networks that the operator
//! opens. Checked when a connection is about to be made, with the very address that is dialled: a name
//! that was harmless a moment ago may lead elsewhere now.

use std::error::Error;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

/// The setting that opens networks.
const SETTING: &str = "RUNLEDGER_ALLOW_NETWORKS";

const fn v4(a: u8, b: u8, c: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, 0), prefix)
}

const fn v6(a: u16, b: u16, prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, 0, 0, 0, 0, 0, 0), prefix)
}

/// The IPv4 networks that are not the public internet (IANA's special-purpose registry).
const CLOSED_V4: [(Ipv4Net, &str); 16] = [
    (v4(0, 0, 0, 8), "this network"),
    (v4(10, 0, 0, 8), "a private network"),
    (v4(100, 64, 0, 10), "a carrier's network"),
    (v4(127, 0, 0, 8), "this machine"),
    (v4(169, 254, 0, 16), "a link-local network"),
    (v4(172, 16, 0, 12), "a private network"),
    (v4(192, 0, 0, 24), "reserved for protocols"),
    (v4(192, 0, 2, 24), "reserved for documentation"),
    (v4(192, 88, 99, 24), "a 6to4 relay"),
    (v4(192, 168, 0, 16), "a private network"),
    (v4(198, 18, 0, 15), "reserved for benchmarks"),
    (v4(198, 51, 100, 24), "reserved for documentation"),
    (v4(203, 0, 113, 24), "reserved for documentation"),
    (v4(224, 0, 0, 4), "multicast"),
    // Before the net that it stands in.
    (Ipv4Net::new_assert(Ipv4Addr::BROADCAST, 32), "broadcast"),
    (v4(240, 0, 0, 4), "reserved"),
];

/// The only IPv6 addresses that are given out to the public internet.
const GLOBAL_V6: Ipv6Net = v6(0x2000, 0, 3);

/// What of those is not the public internet after all. Teredo's addresses stand in the protocols'.
const CLOSED_V6: [(Ipv6Net, &str); 5] = [
    (v6(0x2001, 0, 32), "a Teredo tunnel"),
    (v6(0x2001, 0, 23), "reserved for protocols"),
    (v6(0x2001, 0xdb8, 32), "reserved for documentation"),
    (v6(0x2002, 0, 16), "a 6to4 tunnel"),
    (v6(0x3fff, 0, 20), "reserved for documentation"),
];

/// The well-known prefix of NAT64, whose addresses end in an IPv4 address.
const NAT64: Ipv6Net = v6(0x64, 0xff9b, 96);

/// What IPv6 addresses outside of the public ones are, for the words of a refusal.
const NAMED_V6: [(Ipv6Net, &str); 7] = [
    (Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128), "this machine"),
    (Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 128), "unspecified"),
    (v6(0xfc00, 0, 7), "a private network"),
    (v6(0xfe80, 0, 10), "a link-local network"),
    (v6(0xfec0, 0, 10), "a private network"),
    (v6(0xff00, 0, 8), "multicast"),
    (v6(0x64, 0xff9b, 32), "a NAT64 network"),
];

/// An address that may not be called, or a name that leads only to such.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    host: String,
    /// What the address is. The address itself is not told: a name's would map the operator's
    /// network.
    what: &'static str,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Refusal { host, what } = self;
        write!(
            f,
            "`{host}` may not be called: its address is {what}; the operator can open networks \
             with {SETTING}"
        )
    }
}

impl Error for Refusal {}

/// Which addresses may be called. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Guard {
    /// Networks that are open although they are not the public internet.
    allowed: Arc<[IpNet]>,
}

impl Guard {
    /// The public internet, and these networks.
    pub fn new(allowed: &[IpNet]) -> Guard {
        Guard { allowed: allowed.into() }
    }

    /// Checks an address.
    ///
    /// # Errors
    /// What the address is, where it may not be called.
    pub fn check(&self, address: IpAddr) -> Result<(), &'static str> {
        let inner = embedded(address).map(IpAddr::V4);
        let is_open = |address: IpAddr| self.allowed.iter().any(|net| net.contains(&address));
        if is_open(address) || inner.is_some_and(is_open) {
            return Ok(());
        }
        closed(inner.unwrap_or(address)).map_or(Ok(()), Err)
    }

    /// Checks a URL whose host is an address: nothing is resolved for it, so that nobody else sees
    /// it. A name passes: what it leads to is checked when it is resolved.
    ///
    /// # Errors
    /// The address may not be called.
    pub fn check_literal(&self, url: &Url) -> Result<(), Refusal> {
        let address = match url.host() {
            Some(Host::Ipv4(address)) => IpAddr::V4(address),
            Some(Host::Ipv6(address)) => IpAddr::V6(address),
            Some(Host::Domain(_)) | None => return Ok(()),
        };
        let host = url.host_str().unwrap_or_default();
        self.check(address).map_err(|what| Refusal { host: host.to_owned(), what })
    }

    /// What of the addresses of a name may be called.
    ///
    /// # Errors
    /// None of them may.
    fn filter(&self, host: &str, found: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, Refusal> {
        let mut refused = None;
        let mut open = Vec::new();
        for address in found {
            match self.check(address.ip()) {
                Ok(()) => open.push(address),
                Err(what) => refused = refused.or(Some(what)),
            }
        }
        match (open.is_empty(), refused) {
            (true, Some(what)) => Err(Refusal { host: host.to_owned(), what }),
            (true, None) | (false, _) => Ok(open),
        }
    }
}

/// Resolves names with the system's resolver, to what may be called.
impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = self.clone();
        Box::pin(async move {
            let host = name.as_str();
            let found = tokio::net::lookup_host((host, 0)).await?.collect();
            let open = guard.filter(host, found)?;
            Ok(Box::new(open.into_iter()) as Addrs)
        })
    }
}

/// The IPv4 address that is really called by this one, if there is one.
fn embedded(address: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(address) = address else { return None };
    if let Some(mapped) = address.to_ipv4_mapped() {
        return Some(mapped);
    }
    let [.., a, b, c, d] = address.octets();
    NAT64.contains(&address).then_some(Ipv4Addr::new(a, b, c, d))
}

/// What an address is that does not belong to the public internet.
fn closed(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(address) => {
            CLOSED_V4.iter().find(|(net, _)| net.contains(&address)).map(|(_, what)| *what)
        }
        IpAddr::V6(address) if GLOBAL_V6.contains(&address) => {
            CLOSED_V6.iter().find(|(net, _)| net.contains(&address)).map(|(_, what)| *what)
        }
        IpAddr::V6(address) => {
            let named = NAMED_V6.iter().find(|(net, _)| net.contains(&address));
            Some(named.map_or("reserved", |(_, what)| *what))
        }
    }
}

#[cfg(test)]
mod tests;
