use crate::counters::Sums;
use crate::device::Message;
use crate::shared::Shared;
use crate::{Mac, NetCounters};
use drystone_limit::LimitConfig;
use drystone_observe::{Observe, Visitor};
use drystone_virtio::{PostError, Postbox, Timer};
use std::sync::Arc;
use std::time::Duration;

/// What a VMM keeps of a network device while its guest runs. Cheap to clone.
#[derive(Clone)]
pub struct NetHandle {
    pub(crate) shared: Arc<Shared>,
    pub(crate) postbox: Postbox<Message>,
    /// Wakes each pair's worker.
    pub(crate) timers: Vec<Timer>,
}

impl NetHandle {
    /// Plugs the cable in or pulls it. What comes while it is out is lost, and so is what the guest sends.
    ///
    /// # Errors
    /// [`PostError`]: nothing has changed then.
    pub fn set_link(&self, up: bool) -> Result<(), PostError> {
        self.postbox.post(Message::Link(up))
    }

    /// Whether the cable is in, and leads to a network.
    pub fn link(&self) -> bool {
        self.shared.link()
    }

    /// The device is on no network any more, for good: the cable is out, and is not to be put in again.
    pub fn pull(&self) {
        self.shared.pull();
        // Whoever does not hear of it in time finds it so.
        let _ = self.postbox.post(Message::Pulled);
    }

    /// Whether it was pulled.
    pub fn is_pulled(&self) -> bool {
        self.shared.is_pulled()
    }

    /// Asks the guest to tell the network where it is: its address may have come to another port of a switch. One that does not know
    /// how hears nothing.
    ///
    /// # Errors
    /// [`PostError`]: it was not asked then.
    pub fn announce(&self) -> Result<(), PostError> {
        self.postbox.post(Message::Announce)
    }

    /// Other limits from now on, also for frames that wait. Operations are frames.
    pub fn set_limits(&self, rx: LimitConfig, tx: LimitConfig) {
        self.shared.rx_limiter.configure(rx);
        self.shared.tx_limiter.configure(tx);
        // Those that wait have set their timers by the old rates.
        self.timers.iter().for_each(|timer| timer.set(Duration::ZERO));
    }

    /// The limits that hold now, of what the guest receives and of what it sends.
    pub fn limits(&self) -> (LimitConfig, LimitConfig) {
        (self.shared.rx_limiter.config(), self.shared.tx_limiter.config())
    }

    /// Its address, which the driver may have changed.
    pub fn mac(&self) -> Mac {
        self.shared.mac()
    }

    /// How many pairs of queues receive.
    pub fn pairs(&self) -> u16 {
        self.shared.pairs()
    }

    /// What each pair of queues did.
    pub fn counters(&self) -> &[NetCounters] {
        &self.shared.counters
    }

    /// There are new frames in the [hook](crate::Hook).
    pub fn wake(&self) {
        if let Some(first) = self.timers.first() {
            first.set(Duration::ZERO);
        }
    }
}

impl Observe for NetHandle {
    fn observe(&self, to: &mut Visitor<'_>) {
        to.text("mac", self.mac().to_string());
        to.flag("link", self.link());
        to.flag("pulled", self.is_pulled());
        to.number("pairs", self.pairs().into());
        to.flag("promiscuous", self.shared.filter.load().promiscuous);
        Sums(&self.shared.counters).observe(to);
    }
}
