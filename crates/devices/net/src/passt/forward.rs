use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// A port of the host that leads to one of the guest.
///
/// As text it is `[ADDRESS:]HOST[:GUEST][/udp]`: `8080:80`, `127.0.0.1:2222:22`, `[::1]:53:53/udp`, `443`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Forward {
    /// What goes through it.
    pub protocol: Protocol,
    /// The host's address that it is on; every one, unless given.
    pub address: Option<IpAddr>,
    /// The host's port, not 0.
    pub host: u16,
    /// The guest's port, not 0.
    pub guest: u16,
}

/// What a [`Forward`] is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
}

/// Not a forward.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no forward: [ADDRESS:]HOST[:GUEST][/udp] is, as in 8080:80, 127.0.0.1:2222:22 and 53:53/udp; an address of IPv6 is in brackets, and ports are 1 to 65535"
)]
pub struct ForwardError(pub String);

impl Forward {
    /// Whether both need the same port of the host.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        let apart = matches!((self.address, other.address), (Some(a), Some(b)) if a != b);
        self.protocol == other.protocol && self.host == other.host && !apart
    }

    fn read(text: &str) -> Option<Self> {
        let (rest, protocol) = match text.rsplit_once('/') {
            Some((rest, "tcp")) => (rest, Protocol::Tcp),
            Some((rest, "udp")) => (rest, Protocol::Udp),
            Some(_) => return None,
            None => (text, Protocol::Tcp),
        };
        let (address, ports) = match rest.strip_prefix('[') {
            Some(bracketed) => {
                let (address, ports) = bracketed.split_once("]:")?;
                (Some(IpAddr::V6(address.parse().ok()?)), ports)
            }
            None => match rest.split_once(':') {
                Some((address, ports)) if address.contains('.') => {
                    (Some(IpAddr::V4(address.parse().ok()?)), ports)
                }
                _ => (None, rest),
            },
        };
        let (host, guest) = ports.split_once(':').unwrap_or((ports, ports));
        Some(Self { protocol, address, host: port(host)?, guest: port(guest)? })
    }
}

fn port(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|port| digits && *port != 0)
}

impl Protocol {
    /// Its name, in lower case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { protocol, address, host, guest } = self;
        match address {
            Some(IpAddr::V4(address)) => write!(f, "{address}:")?,
            Some(IpAddr::V6(address)) => write!(f, "[{address}]:")?,
            None => {}
        }
        write!(f, "{host}:{guest}")?;
        if *protocol == Protocol::Udp { f.write_str("/udp") } else { Ok(()) }
    }
}

impl FromStr for Forward {
    type Err = ForwardError;

    fn from_str(text: &str) -> Result<Self, ForwardError> {
        Self::read(text).ok_or_else(|| ForwardError(text.into()))
    }
}

impl Serialize for Forward {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Forward {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(from)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwards_are_read_and_written() {
        for (text, written) in [
            ("8080:80", "8080:80"),
            ("443", "443:443"),
            ("443/tcp", "443:443"),
            ("53/udp", "53:53/udp"),
            ("127.0.0.1:2222:22", "127.0.0.1:2222:22"),
            ("127.0.0.1:2222/udp", "127.0.0.1:2222:2222/udp"),
            ("[::1]:53:5353/udp", "[::1]:53:5353/udp"),
            ("[fd00::2]:80", "[fd00::2]:80:80"),
        ] {
            let forward: Forward = text.parse().unwrap();
            assert_eq!(forward.to_string(), written);
            assert_eq!(written.parse(), Ok(forward));
        }
        for bad in [
            "",
            ":",
            "0:80",
            "80:0",
            "80:",
            ":80",
            "80:81:82",
            "+80:80",
            "65536:80",
            "80/sctp",
            "::1:80:80",
            "[::1]80",
            "[10.0.0.1]:80",
            "10.0.0:80:80",
            "localhost:80:80",
            "80 :80",
        ] {
            assert_eq!(bad.parse::<Forward>(), Err(ForwardError(bad.into())), "{bad}");
        }
    }
}
