use drystone_observe::{Counter, Observe, Visitor};

/// What one pair of queues did. On cache lines of its own, as another thread bumps those of the next pair.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct NetCounters {
    /// Frames that the guest got.
    pub rx_frames: Counter,
    /// Their bytes, without headers of virtio.
    pub rx_bytes: Counter,
    /// Frames that were not for the guest, by the filters that it has set.
    pub rx_filtered: Counter,
    /// Frames that the guest had no buffer of that length for, or that came while its link was down.
    pub rx_dropped: Counter,
    /// Frames that waited for a limit.
    pub rx_throttled: Counter,
    /// Receiving failed.
    pub rx_errors: Counter,
    /// Frames that the guest sent.
    pub tx_frames: Counter,
    /// Their bytes, without headers of virtio.
    pub tx_bytes: Counter,
    /// Frames from an address that is not the guest's, which it must not send.
    pub tx_spoofed: Counter,
    /// Frames that made no sense, or were sent while the link was down.
    pub tx_dropped: Counter,
    /// Frames that waited for a limit.
    pub tx_throttled: Counter,
    /// Frames that the host did not take, also for what was in them.
    pub tx_errors: Counter,
    /// Frames that went to the hook, not to the network.
    pub tx_hooked: Counter,
    /// How often the host took no more frames for the time being.
    pub tx_stalls: Counter,
    /// Buffers for frames that are none.
    pub rx_malformed: Counter,
}

impl NetCounters {
    fn all(&self) -> [(&'static str, &Counter); 15] {
        let Self {
            rx_frames,
            rx_bytes,
            rx_filtered,
            rx_dropped,
            rx_throttled,
            rx_errors,
            tx_frames,
            tx_bytes,
            tx_spoofed,
            tx_dropped,
            tx_throttled,
            tx_errors,
            tx_hooked,
            tx_stalls,
            rx_malformed,
        } = self;
        [
            ("rx_frames", rx_frames),
            ("rx_bytes", rx_bytes),
            ("rx_filtered", rx_filtered),
            ("rx_dropped", rx_dropped),
            ("rx_throttled", rx_throttled),
            ("rx_errors", rx_errors),
            ("rx_malformed", rx_malformed),
            ("tx_frames", tx_frames),
            ("tx_bytes", tx_bytes),
            ("tx_spoofed", tx_spoofed),
            ("tx_dropped", tx_dropped),
            ("tx_throttled", tx_throttled),
            ("tx_errors", tx_errors),
            ("tx_hooked", tx_hooked),
            ("tx_stalls", tx_stalls),
        ]
    }
}

/// All pairs together.
pub(crate) struct Sums<'a>(pub &'a [NetCounters]);

impl Observe for Sums<'_> {
    fn observe(&self, to: &mut Visitor<'_>) {
        for (n, (name, _)) in NetCounters::default().all().iter().enumerate() {
            let of = |pair: &NetCounters| pair.all().get(n).map_or(0, |(_, counter)| counter.get());
            to.count(name, self.0.iter().map(of).fold(0, u64::wrapping_add));
        }
    }
}
