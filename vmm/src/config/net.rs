use super::disk::{choose, flag, parse};
use super::{ByteSize, LimitSettings, Transport};
use drystone_limit::LimitConfig;
use drystone_net::Mac;
use serde::{Deserialize, Serialize};
use std::str::FromStr;

/// A virtio network device. In a file a table of the array `net`; as a flag `tap=vm0,mac=52:54:00:12:34:56`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NetConfig {
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
    #[serde(skip_serializing_if = "is_default")]
    pub enforce_mac: bool,
    /// Limits of what the guest receives; operations are frames.
    #[serde(skip_serializing_if = "is_default")]
    pub rx: LimitSettings,
    /// Limits of what the guest sends; operations are frames.
    #[serde(skip_serializing_if = "is_default")]
    pub tx: LimitSettings,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Why a flag describes no network device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NetConfigError {
    /// No such setting.
    #[error(
        "{0:?} is no setting: use tap, bridge, fd, id, mac, mtu, queues, transport, enforce_mac, and rx_ or tx_ before \
         bandwidth, bandwidth_burst, operations or operations_burst"
    )]
    Unknown(String),
    /// A setting given twice.
    #[error("{0} is given twice")]
    Twice(String),
    /// A value that the setting cannot have.
    #[error("{name}={value:?}: {what}")]
    Value {
        /// The setting.
        name: String,
        /// The value.
        value: String,
        /// What is wrong with it.
        what: String,
    },
}

/// What becomes the names of interfaces that are made: the kernel puts a number there.
pub(crate) const NUMBERED: &str = "dry%d";

/// `3`, `3:4:5`.
fn numbers(value: Option<&str>) -> Result<Vec<i32>, String> {
    value.ok_or("needs a value")?.split(':').map(|number| parse(Some(number))).collect()
}

impl NetConfig {
    /// The device's name: its own, or one by its place among the machine's network devices.
    pub fn name(&self, index: usize) -> String {
        self.id.clone().unwrap_or_else(|| format!("net{index}"))
    }

    /// Checks that it says one network, and only what belongs to that.
    fn validate_network(&self) -> Result<(), String> {
        match (&self.tap, self.fds.is_empty()) {
            (None, true) => Err("no network: say tap or fd".into()),
            (Some(_), false) => Err("two networks: say tap or fd, not both".into()),
            (None, false) if self.bridge.is_some() => {
                Err("bridge is for interfaces that are made: say tap".into())
            }
            (None, false) if self.fds.iter().any(|fd| *fd < 3) => {
                Err("fd: 0 to 2 are the standard streams".into())
            }
            _ => Ok(()),
        }
    }

    /// Whether it says nothing but on which network it is.
    pub(crate) fn is_only_a_network(&self) -> bool {
        let mut bare = Self::default();
        bare.carry_over(self);
        bare == *self
    }

    /// The same device on the network that `other` is on.
    pub(crate) fn carry_over(&mut self, other: &Self) {
        let Self { tap, bridge, fds, .. } = other.clone();
        (self.tap, self.bridge, self.fds) = (tap, bridge, fds);
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
        self.validate_network()?;
        let name = self.name(index);
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c)) {
            return Err(format!("id {name:?}: use letters, digits, '_' and '-'"));
        }
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
        (net.mtu, net.enforce_mac) = (self.mtu, self.enforce_mac);
        (net.rx_limit, net.tx_limit) = (rx_limit, tx_limit);
        // It names the device, which the caller does as well.
        let bare = |e: drystone_net::NetError| match e {
            drystone_net::NetError::Config { what, .. } => what,
            other => other.to_string(),
        };
        net.validate().map_err(bare)?;
        Ok(net)
    }

    fn set(&mut self, name: &str, value: Option<&str>) -> Result<(), NetConfigError> {
        let bad = |what: String| NetConfigError::Value {
            name: name.into(),
            value: value.unwrap_or_default().into(),
            what,
        };
        match name {
            "tap" => {
                self.tap = Some(value.map_or(Ok(NUMBERED.into()), |v| parse(Some(v))).map_err(bad)?);
            }
            "bridge" => self.bridge = Some(parse(value).map_err(bad)?),
            "fd" => self.fds = numbers(value).map_err(bad)?,
            "id" => self.id = Some(parse(value).map_err(bad)?),
            "mac" => self.mac = Some(parse(value).map_err(bad)?),
            "mtu" => self.mtu = Some(parse(value).map_err(bad)?),
            "queues" => self.queues = Some(parse(value).map_err(bad)?),
            "enforce_mac" => self.enforce_mac = flag(value).map_err(bad)?,
            "transport" => {
                let all = [("pci", Transport::Pci), ("mmio", Transport::Mmio)];
                self.transport = Some(choose(value, &all).map_err(bad)?);
            }
            _ => match name.split_once('_') {
                Some(("rx", limit)) => set_limit(&mut self.rx, limit, value).ok_or(name),
                Some(("tx", limit)) => set_limit(&mut self.tx, limit, value).ok_or(name),
                _ => Err(name),
            }
            .map_err(|name| NetConfigError::Unknown(name.into()))?
            .map_err(bad)?,
        }
        Ok(())
    }
}

/// `None`: there is no such limit.
fn set_limit(limit: &mut LimitSettings, name: &str, value: Option<&str>) -> Option<Result<(), String>> {
    let bytes = |field: &mut Option<ByteSize>| parse(value).map(|size| *field = Some(size));
    let number = |field: &mut Option<u64>| parse(value).map(|number| *field = Some(number));
    Some(match name {
        "bandwidth" => bytes(&mut limit.bandwidth),
        "bandwidth_burst" => bytes(&mut limit.bandwidth_burst),
        "operations" => number(&mut limit.operations),
        "operations_burst" => number(&mut limit.operations_burst),
        _ => return None,
    })
}

/// FNV-1a: the same on every host and in every version.
fn hash(bytes: impl Iterator<Item = u8>) -> [u8; 8] {
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    hash.to_be_bytes()
}

impl FromStr for NetConfig {
    type Err = NetConfigError;

    /// The flag's form: `tap`, `tap=vm0,queues=4`, `fd=5:6,mac=52:54:00:12:34:56`.
    fn from_str(text: &str) -> Result<Self, NetConfigError> {
        let (mut net, mut given) = (Self::default(), Vec::new());
        for item in text.split(',') {
            let (name, value) = match item.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (item, None),
            };
            if given.contains(&name) {
                return Err(NetConfigError::Twice(name.into()));
            }
            given.push(name);
            net.set(name, value)?;
        }
        Ok(net)
    }
}
