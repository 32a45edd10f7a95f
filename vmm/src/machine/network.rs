//! Network devices, and what of the host carries their frames.

use super::MachineError;
use super::virtio::Memory;
use crate::config::{NUMBERED, NetConfig};
use drystone_bus::SystemClock;
use drystone_net::{Backend, Net, NetHandle, Offloads, Port, Tap, TapError, wire};
use drystone_observe::{Observe, Visitor};
use std::io;
use std::sync::Arc;

/// A network of the host, as a device uses it.
#[derive(Clone)]
pub(super) enum Network {
    Tap(Arc<Tap>),
    /// Its device was pulled: nothing comes, nothing goes.
    Nothing,
}

/// What a device is made on.
type Parts = (Arc<dyn Backend>, Vec<Box<dyn Port>>);

impl Network {
    /// Opens or makes what `network` says.
    fn open(net: &NetConfig, pairs: u16) -> Result<Self, TapError> {
        let NetConfig { tap, bridge, fds, mtu, .. } = net;
        let name = tap.as_deref().unwrap_or(NUMBERED);
        if !fds.is_empty() {
            return Tap::inherit(fds).map(Self::Tap);
        }
        match Tap::open(name, pairs) {
            // Numbered ones are always new.
            Err(TapError::NoInterface { .. }) => Tap::create(name, pairs, bridge.as_deref(), *mtu),
            opened => opened,
        }
        .map(Self::Tap)
    }

    fn parts(&self, pairs: u16) -> io::Result<Parts> {
        match self {
            Self::Tap(tap) => Ok((tap.clone(), tap.ports())),
            Self::Nothing => {
                // It could do whatever its guest was told that it can.
                let (backend, ports, _) = wire(pairs, Offloads::ALL)?;
                Ok((backend, ports))
            }
        }
    }
}

impl Observe for Network {
    fn observe(&self, to: &mut Visitor<'_>) {
        if let Self::Tap(tap) = self {
            to.text("interface", tap.name());
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
    let network = if pulled { Ok(Network::Nothing) } else { Network::open(net, config.pairs) };
    let network = network.map_err(|e| bad(e.to_string()))?;
    let (backend, ports) = network.parts(config.pairs).map_err(MachineError::DeviceEvent)?;
    let (device, handle) = Net::new(&config, backend, ports, Arc::new(SystemClock::new()))?;
    if pulled {
        handle.pull();
    }
    Ok(Made { device, handle, network })
}
