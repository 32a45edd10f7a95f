/// Stands between a guest and its network, for what is answered on the host itself, such as a metadata service.
///
/// It is asked about each frame that the guest sends, under a lock that all pairs of queues share; and for frames of its own.
pub trait Hook: Send {
    /// A frame that the guest sends: its first bytes, without virtio's header, at most 64: enough for a VLAN tag,
    /// IPv6, and the ports. What to do with it?
    fn outgoing(&mut self, head: &[u8]) -> Verdict;

    /// The frame that was [asked for](Verdict::Take), whole: without virtio's header, so with a checksum that may still be to
    /// compute and, if the guest was offered that, longer than what goes over a wire.
    fn take(&mut self, frame: &[u8]);

    /// Writes the next frame for the guest, as it is on a wire, and gives its length; `None` if there is none. Asked after frames were
    /// taken. Longer ones than `frame` are lost.
    fn reply(&mut self, frame: &mut [u8]) -> Option<usize>;
}

/// What becomes of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// It goes to the network.
    Pass,
    /// It goes to the hook.
    Take,
    /// It goes nowhere.
    Drop,
}

/// How many bytes of a frame a hook is shown.
pub(crate) const LOOK: usize = 64;
