use super::flag::{self, FlagError, Settings, check_name, parse, transport, yes};
use super::{LimitSettings, Transport};
use drystone_limit::LimitConfig;
use drystone_net::{Forward, Mac, Passt, PasstConfig};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// A virtio network device. In a file a table of the array `net`; as a flag `user`, or `tap=vm0,mac=52:54:00:12:34:56`.
///
/// One that says no network has what `user` has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NetConfig {
    /// The guest has the host's network as any program of the host has it, by passt, without any privilege.
    #[serde(skip_serializing_if = "super::is_default")]
    pub user: bool,
    /// Ports of the host that lead to the guest, such as `8080:80`, `127.0.0.1:2222:22` or `53:53/udp`: for `user`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub forward: Vec<Forward>,
    /// DNS servers that the guest is told of, instead of the host's: for `user`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dns: Vec<IpAddr>,
    /// The guest reaches what listens on the host's loopback, by the address of its router: for `user`.
    #[serde(skip_serializing_if = "super::is_default")]
    pub host_loopback: bool,
    /// The socket of a passt that runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passt: Option<PathBuf>,
    /// A tap interface of the host. One that there is, or else it is made and goes with the machine. Without a name it is made, and gets
    /// the first that is free of `dry0`, `dry1` and so on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tap: Option<String>,
    /// The bridge of the host that an interface joins which is made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bridge: Option<String>,
    /// Descriptors of the queues of a tap interface, which the process was started with: one for each pair.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fds: Vec<i32>,
    /// Its name in messages and counters; `net0`, `net1` and so on unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The guest's address. Made of the machine's name and its own unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
    /// The largest packet that the network takes, in bytes, which the guest is told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// How many pairs of queues. One unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queues: Option<u16>,
    /// How the guest reaches it. As the machine's other devices unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transport: Option<Transport>,
    /// What the guest sends from another address is dropped.
    #[serde(skip_serializing_if = "super::is_default")]
    pub enforce_mac: bool,
    /// Limits of what the guest receives; operations are frames.
    #[serde(skip_serializing_if = "super::is_default")]
    pub rx: LimitSettings,
    /// Limits of what the guest sends; operations are frames.
    #[serde(skip_serializing_if = "super::is_default")]
    pub tx: LimitSettings,
}

/// Which network of the host it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkKind {
    /// By passt: one that is started, or one that runs.
    User(Box<PasstConfig>),
    /// A tap interface of this name.
    Tap(String),
    /// A tap interface that somebody else has opened.
    Fds(Vec<i32>),
}

/// What becomes the names of interfaces that are made: the kernel puts a number there.
const NUMBERED: &str = "dry%d";

/// `3`, `3:4:5`.
fn numbers(value: Option<&str>) -> Result<Vec<i32>, String> {
    value.ok_or("needs a value")?.split(':').map(|number| parse(Some(number))).collect()
}

impl NetConfig {
    /// The device's name: its own, or one by its place among the machine's network devices.
    pub fn name(&self, index: usize) -> String {
        self.id.clone().unwrap_or_else(|| format!("net{index}"))
    }

    /// The network that it says.
    ///
    /// # Errors
    /// One line that says which settings make no sense together.
    pub fn network(&self) -> Result<NetworkKind, String> {
        let given = [self.tap.is_some(), !self.fds.is_empty(), self.user, self.passt.is_some()];
        if given.iter().filter(|given| **given).count() > 1 {
            return Err("several networks: say one of user, passt, tap and fd".into());
        }
        let of_user = !self.forward.is_empty() || !self.dns.is_empty() || self.host_loopback;
        let another = given.contains(&true) && !self.user;
        if of_user && another {
            return Err("forward, dns and host_loopback are for a network that is started: say user".into());
        }
        if self.bridge.is_some() && self.tap.is_none() {
            return Err("bridge is for interfaces that are made: say tap".into());
        }
        if self.fds.iter().any(|fd| *fd < 3) {
            return Err("fd: 0 to 2 are the standard streams".into());
        }
        Ok(if let Some(tap) = &self.tap {
            NetworkKind::Tap(tap.clone())
        } else if !self.fds.is_empty() {
            NetworkKind::Fds(self.fds.clone())
        } else {
            let passt = self.passt_config();
            passt.validate().map_err(|e| e.to_string())?;
            NetworkKind::User(Box::new(passt))
        })
    }

    /// What passt is told.
    fn passt_config(&self) -> PasstConfig {
        PasstConfig {
            socket: self.passt.clone(),
            forwards: self.forward.clone(),
            mtu: self.mtu.filter(|_| self.passt.is_none()),
            dns: self.dns.clone(),
            host_loopback: self.host_loopback,
            ..PasstConfig::default()
        }
    }

    /// The same device on the network that `other` is on.
    pub(crate) fn carry_over(&mut self, other: &Self) {
        let Self { user, forward, dns, host_loopback, passt, tap, bridge, fds, .. } = other.clone();
        (self.user, self.forward, self.dns, self.host_loopback) = (user, forward, dns, host_loopback);
        (self.passt, self.tap, self.bridge, self.fds) = (passt, tap, bridge, fds);
    }

    /// Whether it says nothing but on which network it is.
    pub(crate) fn is_only_a_network(&self) -> bool {
        let mut bare = Self::default();
        bare.carry_over(self);
        bare == *self
    }

    /// The guest's address: its own, or one that is the same whenever a machine of that name has a device of that name.
    pub fn address(&self, index: usize, machine: &str) -> Mac {
        self.mac.unwrap_or_else(|| {
            let [a, b, c, d, e, f, ..] = hash(machine.bytes().chain([b'/']).chain(self.name(index).bytes()));
            Mac::local([a, b, c, d, e, f])
        })
    }

    /// What the device is made of, in a machine of that name.
    ///
    /// # Errors
    /// One line that says which setting makes no sense.
    pub fn device(&self, index: usize, machine: &str) -> Result<drystone_net::NetConfig, String> {
        let network = self.network()?;
        let name = self.name(index);
        check_name("id", &name)?;
        let of = |which: &str, limit: &LimitSettings| -> Result<LimitConfig, String> {
            limit.limits().map_err(|what| format!("{which}: {what}"))
        };
        let (rx_limit, tx_limit) = (of("rx", &self.rx)?, of("tx", &self.tx)?);
        let mut net = drystone_net::NetConfig::new(name, self.address(index, machine));
        let pairs = if self.fds.is_empty() { 1 } else { self.fds.len().try_into().unwrap_or(u16::MAX) };
        net.pairs = self.queues.unwrap_or(pairs);
        if !self.fds.is_empty() && net.pairs != pairs {
            return Err(format!("queues {}: there are {pairs} descriptors", net.pairs));
        }
        if matches!(network, NetworkKind::User(_)) && net.pairs > 1 {
            return Err(format!("queues {}: a network by passt has one", net.pairs));
        }
        (net.mtu, net.enforce_mac) = (self.mtu, self.enforce_mac);
        if matches!(network, NetworkKind::User(_)) {
            net.mtu = net.mtu.or(Some(Passt::MTU));
        }
        (net.rx_limit, net.tx_limit) = (rx_limit, tx_limit);
        // It names the device, which the caller does as well.
        let bare = |e: drystone_net::NetError| match e {
            drystone_net::NetError::Config { what, .. } => what,
            other => other.to_string(),
        };
        net.validate().map_err(bare)?;
        Ok(net)
    }
}

impl Settings for NetConfig {
    const KNOWN: &'static str = "auto, user, forward, dns, host_loopback, passt, tap, bridge, fd, id, mac, mtu, queues, transport, enforce_mac, \
        and rx_ or tx_ before bandwidth, bandwidth_burst, operations or operations_burst";
    const LISTS: &'static [&'static str] = &["forward", "dns"];

    fn set(&mut self, name: &str, value: Option<&str>) -> Result<bool, String> {
        match name {
            "auto" if value.is_none() => {}
            "user" => self.user = yes(value)?,
            "forward" => self.forward.push(parse(value)?),
            "dns" => self.dns.push(parse(value)?),
            "host_loopback" => self.host_loopback = yes(value)?,
            "passt" => self.passt = Some(parse(value)?),
            "tap" => self.tap = Some(value.map_or(Ok(NUMBERED.into()), |name| parse(Some(name)))?),
            "bridge" => self.bridge = Some(parse(value)?),
            "fd" => self.fds = numbers(value)?,
            "id" => self.id = Some(parse(value)?),
            "mac" => self.mac = Some(parse(value)?),
            "mtu" => self.mtu = Some(parse(value)?),
            "queues" => self.queues = Some(parse(value)?),
            "enforce_mac" => self.enforce_mac = yes(value)?,
            "transport" => self.transport = Some(transport(value)?),
            _ => {
                return match name.split_once('_') {
                    Some(("rx", limit)) => self.rx.set(limit, value),
                    Some(("tx", limit)) => self.tx.set(limit, value),
                    _ => Ok(false),
                };
            }
        }
        Ok(true)
    }
}

/// FNV-1a: the same on every host and in every version.
fn hash(bytes: impl Iterator<Item = u8>) -> [u8; 8] {
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    hash.to_be_bytes()
}

impl FromStr for NetConfig {
    type Err = FlagError;

    /// The flag's form: `auto`, `user,forward=8080:80`, `tap`, `tap=vm0,queues=4`, `fd=5:6,mac=52:54:00:12:34:56`.
    fn from_str(text: &str) -> Result<Self, FlagError> {
        flag::read(text)
    }
}
