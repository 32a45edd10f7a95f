use crate::space::{ANNOUNCE, LINK_UP};
use crate::{Backend, Filter, Hook, Mac, NetConfig, NetCounters, Offloads};
use arc_swap::ArcSwap;
use drystone_bus::Clock;
use drystone_limit::Limiter;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What the device, its workers and its handle share. No lock on the data path, unless there is a limit or a hook.
pub(crate) struct Shared {
    pub id: String,
    pub backend: Arc<dyn Backend>,
    pub own_mac: Mac,
    pub enforce_mac: bool,
    pub mtu: Option<u16>,
    pub rx_limiter: Limiter,
    pub tx_limiter: Limiter,
    /// By pair.
    pub counters: Vec<NetCounters>,
    /// For a pair that there is not.
    nobody: NetCounters,
    pub filter: ArcSwap<Filter>,
    hook: Option<Mutex<Box<dyn Hook>>>,
    mac: AtomicU64,
    /// The cable is in.
    cable: AtomicBool,
    /// Ports through which nothing comes or goes.
    lost: AtomicU16,
    /// It is on no network, for good.
    pulled: AtomicBool,
    announce: AtomicBool,
    /// Pairs that receive.
    pairs: AtomicU16,
    /// What the driver takes, as feature bits: what was negotiated, until it changes that. [`UNSET`] before.
    guest_offloads: AtomicU64,
}

const UNSET: u64 = u64::MAX;

/// What a driver can change of it.
pub(crate) struct Driven {
    pub mac: Mac,
    pub pairs: u16,
    pub guest_offloads: Option<u64>,
    pub filter: Filter,
}

impl Shared {
    pub fn new(
        config: &NetConfig,
        backend: Arc<dyn Backend>,
        hook: Option<Box<dyn Hook>>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            id: config.id.clone(),
            backend,
            own_mac: config.mac,
            enforce_mac: config.enforce_mac,
            mtu: config.mtu,
            rx_limiter: Limiter::new(config.rx_limit, clock.clone()),
            tx_limiter: Limiter::new(config.tx_limit, clock),
            counters: (0..config.pairs).map(|_| NetCounters::default()).collect(),
            nobody: NetCounters::default(),
            filter: ArcSwap::from_pointee(Filter::default()),
            hook: hook.map(Mutex::new),
            mac: AtomicU64::new(number(config.mac)),
            cable: AtomicBool::new(true),
            lost: AtomicU16::new(0),
            pulled: AtomicBool::new(false),
            announce: AtomicBool::new(false),
            pairs: AtomicU16::new(1),
            guest_offloads: AtomicU64::new(UNSET),
        }
    }

    pub fn count(&self, pair: u16) -> &NetCounters {
        self.counters.get(usize::from(pair)).unwrap_or(&self.nobody)
    }

    pub fn hook(&self) -> Option<MutexGuard<'_, Box<dyn Hook>>> {
        self.hook.as_ref().map(|hook| hook.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether somebody may have frames for the guest because it has sent some.
    pub fn has_replies(&self) -> bool {
        self.hook.is_some()
    }

    /// Whether frames that the guest sends are looked at.
    pub fn looks(&self) -> bool {
        self.enforce_mac || self.hook.is_some()
    }

    pub fn mac(&self) -> Mac {
        let [a, b, c, d, e, f, _, _] = self.mac.load(Ordering::Acquire).to_le_bytes();
        Mac([a, b, c, d, e, f])
    }
    pub fn set_mac(&self, mac: Mac) {
        self.mac.store(number(mac), Ordering::Release);
    }

    /// Frames come and go, as far as the guest can tell.
    pub fn link(&self) -> bool {
        self.cable() && self.lost.load(Ordering::Acquire) == 0
    }
    pub fn cable(&self) -> bool {
        self.cable.load(Ordering::Acquire) && !self.is_pulled()
    }
    /// One port more, or one less, has lost the network.
    pub fn count_lost(&self, more: bool) {
        let change = |lost: u16| Some(if more { lost.saturating_add(1) } else { lost.saturating_sub(1) });
        // It always gives a number.
        let _ = self.lost.fetch_update(Ordering::AcqRel, Ordering::Acquire, change);
    }
    pub fn is_pulled(&self) -> bool {
        self.pulled.load(Ordering::Acquire)
    }
    pub fn pull(&self) {
        self.pulled.store(true, Ordering::Release);
    }
    pub fn set_cable(&self, plugged: bool) {
        self.cable.store(plugged, Ordering::Release);
    }
    pub fn announce(&self) -> bool {
        self.announce.load(Ordering::Acquire)
    }
    pub fn set_announce(&self, wanted: bool) {
        self.announce.store(wanted, Ordering::Release);
    }
    /// The `status` field of the configuration space.
    pub fn status(&self) -> u16 {
        let bit = |set: bool, bit| if set { bit } else { 0 };
        bit(self.link(), LINK_UP) | bit(self.announce(), ANNOUNCE)
    }

    pub fn pairs(&self) -> u16 {
        self.pairs.load(Ordering::Acquire)
    }
    pub fn set_pairs(&self, pairs: u16) {
        self.pairs.store(pairs, Ordering::Release);
    }

    /// `None` before a driver was ready.
    pub fn guest_offloads(&self) -> Option<u64> {
        Some(self.guest_offloads.load(Ordering::Acquire)).filter(|features| *features != UNSET)
    }
    pub fn set_guest_offloads(&self, features: Option<u64>) {
        self.guest_offloads.store(features.unwrap_or(UNSET), Ordering::Release);
    }
    /// Whether frames for the guest may be longer than what goes over a wire.
    pub fn receives_large(&self) -> bool {
        Offloads::of_guest(self.guest_offloads().unwrap_or(0)).are_large()
    }

    /// What the driver has set.
    pub fn driven(&self) -> Driven {
        Driven {
            mac: self.mac(),
            pairs: self.pairs(),
            guest_offloads: self.guest_offloads(),
            filter: Filter::clone(&self.filter.load()),
        }
    }

    pub fn drive(&self, driven: Driven) {
        let Driven { mac, pairs, guest_offloads, filter } = driven;
        self.set_mac(mac);
        self.set_pairs(pairs);
        self.set_guest_offloads(guest_offloads);
        self.filter.store(Arc::new(filter));
    }

    /// As if no driver had been there.
    pub fn undrive(&self) {
        let (mac, filter) = (self.own_mac, Filter::default());
        self.drive(Driven { mac, pairs: 1, guest_offloads: None, filter });
        self.set_announce(false);
    }
}

fn number(mac: Mac) -> u64 {
    let [a, b, c, d, e, f] = mac.0;
    u64::from_le_bytes([a, b, c, d, e, f, 0, 0])
}
