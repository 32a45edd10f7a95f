//! Network devices, and what of the host carries their frames.

use super::MachineError;
use super::virtio::Memory;
use crate::config::{NetConfig, NetworkKind};
use drystone_bus::SystemClock;
use drystone_net::{Backend, Net, NetHandle, Offloads, Passt, PasstConfig, Port, Tap, TapError, wire};
use drystone_observe::{Observe, Visitor};
use std::sync::Arc;

/// A network of the host, as a device uses it.
#[derive(Clone)]
pub(super) enum Network {
    Tap(Arc<Tap>),
    User(Arc<Passt>),
    /// Its device was pulled: nothing comes, nothing goes.
    Nothing,
}

/// What a device is made on.
type Parts = (Arc<dyn Backend>, Vec<Box<dyn Port>>);

impl Network {
    /// Opens, makes or starts what `net` says, with the ports that lead to it.
    fn open(net: &NetConfig, pairs: u16) -> Result<(Self, Parts), String> {
        let tap = |tap: Result<Arc<Tap>, TapError>| {
            let tap = tap.map_err(|e| e.to_string())?;
            let parts: Parts = (tap.clone(), tap.ports());
            Ok((Self::Tap(tap), parts))
        };
        match net.network()? {
            NetworkKind::Fds(fds) => tap(Tap::inherit(&fds)),
            NetworkKind::Tap(name) => tap(open_tap(&name, pairs, net)),
            NetworkKind::User(passt) => Self::user(&passt),
        }
    }

    fn user(passt: &PasstConfig) -> Result<(Self, Parts), String> {
        let (passt, ports) = Passt::start(passt).map_err(|e| e.to_string())?;
        Ok((Self::User(passt.clone()), (passt, ports)))
    }

    /// None, for a device that was pulled. Its guest was told that it can do whatever the one before could.
    fn nothing(pairs: u16) -> Result<(Self, Parts), String> {
        let (backend, ports, _) = wire(pairs, Offloads::ALL).map_err(|e| e.to_string())?;
        Ok((Self::Nothing, (backend, ports)))
    }

    /// What is to be told of it.
    pub(super) fn messages(&self) -> &[String] {
        match self {
            Self::User(passt) => passt.messages(),
            Self::Tap(_) | Self::Nothing => &[],
        }
    }
}

/// An interface that there is, or else one that is made.
fn open_tap(name: &str, pairs: u16, net: &NetConfig) -> Result<Arc<Tap>, TapError> {
    match Tap::open(name, pairs) {
        Err(TapError::NoInterface { .. }) => Tap::create(name, pairs, net.bridge.as_deref(), net.mtu),
        opened => opened,
    }
}

impl Observe for Network {
    fn observe(&self, to: &mut Visitor<'_>) {
        match self {
            Self::Tap(tap) => to.text("interface", tap.name()),
            Self::User(_) => to.text("network", "passt"),
            Self::Nothing => {}
        }
    }
}

/// A network device with what it stands on.
pub(super) struct Made {
    pub device: Net<Memory>,
    pub handle: NetHandle,
    pub network: Network,
}

/// Makes a device of a machine of that name; one that was `pulled` before the machine was saved is on no network.
pub(super) fn make(net: &NetConfig, index: usize, machine: &str, pulled: bool) -> Result<Made, MachineError> {
    let name = net.name(index);
    let bad = |what: String| MachineError::Net { name: name.clone(), what };
    let config = net.device(index, machine).map_err(bad)?;
    let opened = if pulled { Network::nothing(config.pairs) } else { Network::open(net, config.pairs) };
    let (network, (backend, ports)) = opened.map_err(bad)?;
    let (device, handle) = Net::new(&config, backend, ports, Arc::new(SystemClock::new()))?;
    if pulled {
        handle.pull();
    }
    Ok(Made { device, handle, network })
}
