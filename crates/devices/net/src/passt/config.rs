use super::{Forward, PasstError};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::path::PathBuf;

/// A network by passt, as its user describes it. The default is one that is like the host's own, with nothing of the guest reachable
/// from outside, and nothing of the host's loopback from the guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PasstConfig {
    /// The socket of one that runs. It was told everything else when it was started, so nothing else can be given here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket: Option<PathBuf>,
    /// The program to start; `passt`, wherever it is found, unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub program: Option<PathBuf>,
    /// Ports of the host that lead to the guest.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub forwards: Vec<Forward>,
    /// What a guest that asks by DHCP or NDP is told of the MTU, 1280 to 65520: 65520, unless given. The driver is told by
    /// [`NetConfig::mtu`](crate::NetConfig::mtu), which should be the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// The guest's address, at most one of each version of IP. The host's, unless given.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
    /// Bits of the network part of its IPv4 address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<u8>,
    /// The router that it is told of, at most one of each version of IP. The host's, unless given.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gateways: Vec<IpAddr>,
    /// The DNS servers that it is told of. The host's, unless given.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dns: Vec<IpAddr>,
    /// The host's interface whose addresses and routes the guest's are like. The one of the default route, unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// The guest reaches what listens on the host's loopback, by the address of its router.
    pub host_loopback: bool,
    /// Where passt writes what it has to say. The system's log, unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_file: Option<PathBuf>,
}

impl PasstConfig {
    /// Checks every setting.
    ///
    /// # Errors
    /// [`PasstError::Config`]: the first that makes no sense.
    pub fn validate(&self) -> Result<(), PasstError> {
        let bad = |what: String| Err(PasstError::Config(what));
        let Self {
            socket, program: _, forwards, mtu, addresses, prefix, gateways, dns: _, interface: _, ..
        } = self;
        if socket.is_some() && *self != (Self { socket: socket.clone(), ..Self::default() }) {
            return bad(
                "`socket` is of a passt that runs: it was told everything else when it was started".into()
            );
        }
        if let Some(mtu) = mtu.filter(|mtu| !(1280..=super::Passt::MTU).contains(mtu)) {
            return bad(format!("mtu {mtu}: 1280 to {} are possible", super::Passt::MTU));
        }
        if let Some(prefix) = prefix.filter(|prefix| !(1..=32).contains(prefix)) {
            return bad(format!("prefix {prefix}: 1 to 32 bits are possible"));
        }
        for (name, list) in [("addresses", addresses), ("gateways", gateways)] {
            let both = |a: &IpAddr| list.iter().filter(|b| a.is_ipv4() == b.is_ipv4()).count() > 1;
            if list.iter().any(both) {
                return bad(format!("{name}: one of each version of IP is possible"));
            }
        }
        for (n, forward) in forwards.iter().enumerate() {
            let before = forwards.iter().take(n);
            if let Some(other) = before.into_iter().find(|other| other.overlaps(forward)) {
                return bad(format!("forwards {other} and {forward} are from the same port"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_make_no_sense_are_refused() {
        let parse = |text: &str| {
            let config: PasstConfig = serde_json::from_str(text).map_err(|e| e.to_string())?;
            let written = serde_json::to_string(&config).unwrap();
            assert_eq!(serde_json::from_str::<PasstConfig>(&written).unwrap(), config);
            config.validate().map_err(|e| e.to_string())
        };
        for good in [
            "{}",
            r#"{"socket": "/run/passt"}"#,
            r#"{"forwards": ["8080:80", "8080:80/udp", "127.0.0.1:81:80", "[::1]:81:80"], "mtu": 1500}"#,
            r#"{"addresses": ["10.0.2.15", "fd00::1"], "prefix": 24, "gateways": ["10.0.2.2"], "dns": ["1.1.1.1", "8.8.8.8"]}"#,
        ] {
            assert_eq!(parse(good), Ok(()), "{good}");
        }
        for (bad, why) in [
            (r#"{"sockets": "/run/passt"}"#, "unknown field"),
            (r#"{"socket": "/run/passt", "forwards": ["80"]}"#, "passt that runs"),
            (r#"{"socket": "/run/passt", "host_loopback": true}"#, "passt that runs"),
            (r#"{"mtu": 68}"#, "mtu 68: 1280 to 65520"),
            (r#"{"mtu": 65521}"#, "mtu 65521"),
            (r#"{"prefix": 33}"#, "prefix 33"),
            (r#"{"addresses": ["10.0.2.15", "10.0.2.16"]}"#, "addresses: one of each"),
            (r#"{"gateways": ["fd00::1", "fd00::2"]}"#, "gateways: one of each"),
            (r#"{"forwards": ["80:80", "127.0.0.1:80:81"]}"#, "forwards 80:80 and 127.0.0.1:80:81"),
            (r#"{"forwards": ["0:80"]}"#, "no forward"),
        ] {
            let error = parse(bad).unwrap_err();
            assert!(error.contains(why), "{bad}: {error}");
        }
    }
}
