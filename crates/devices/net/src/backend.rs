use crate::Offloads;
use drystone_memory::{Gather, Scatter};
use drystone_virtio::Source;
use std::io;

/// Bytes before each frame: `virtio_net_hdr_v1`, little-endian (5.1.6).
pub const FRAME_HEADER: usize = 12;

/// The longest frame: Ethernet header, a VLAN tag, and the longest IP packet.
pub const MAX_FRAME: usize = 14 + 4 + 65535;

/// What carries a device's frames, all its pairs of queues together. Called from the device's own lane, never on the data path.
///
/// One that loses its way says so through its [`Port`]s.
pub trait Backend: Send + Sync {
    /// What it can do with headers: both for frames that it is given, and for those that it gives. None if it only knows
    /// frames as they are on a wire.
    fn offloads(&self) -> Offloads {
        Offloads::NONE
    }

    /// The guest takes frames that need this still to be done, no others, from now on. At first none.
    ///
    /// # Errors
    /// What the host says.
    fn set_offloads(&self, offloads: Offloads) -> io::Result<()> {
        let _ = offloads;
        Ok(())
    }

    /// Frames for the guest come through the first `pairs` ports only, from now on. At first 1.
    ///
    /// # Errors
    /// What the host says.
    fn set_pairs(&self, pairs: u16) -> io::Result<()> {
        let _ = pairs;
        Ok(())
    }
}

/// One end of a [`Backend`], for one pair of queues, whose worker it belongs to: called from one thread at a time. It does not
/// wait in any call.
///
/// Every frame, in both directions, begins with a header of [`FRAME_HEADER`] bytes. A port that has no use for headers skips those that
/// it is given, and gives zeros.
pub trait Port: Send {
    /// Sends frames, the first ones first, and says how many it has taken. What it has taken is sent, or lost as on any network; it
    /// does not look at guest memory any more.
    ///
    /// # Errors
    /// Beside the number: what became of the first that it has not taken. [`WouldBlock`](io::ErrorKind::WouldBlock): it may be given
    /// again when a [source](Self::source) can be written. Anything else: it is lost.
    fn send(&mut self, frames: &[Gather<'_>]) -> (usize, io::Result<()>);

    /// Fills `room` with the next frame, and gives its length with its header. One that is longer than `room` fills it.
    ///
    /// # Errors
    /// [`WouldBlock`](io::ErrorKind::WouldBlock): there is none, a [source](Self::source) can be read when there is. Anything else: a
    /// frame may have been lost.
    fn receive(&mut self, room: &mut Scatter<'_>) -> io::Result<usize>;

    /// Goes on with what it has taken and not got rid of yet: a [source](Self::source) is ready, or the machine goes on.
    ///
    /// # Errors
    /// [`WouldBlock`](io::ErrorKind::WouldBlock): there is still some left. Anything else: frames may have been lost.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// What says when there are frames, and when it takes some again. Asked once.
    fn source(&self, token: u32) -> Option<Source> {
        let _ = token;
        None
    }

    /// Whether an error means that nothing will come or go here again, for good or until it [is back](Self::is_back).
    fn is_gone(&self, error: &io::Error) -> bool {
        let _ = error;
        false
    }

    /// Asked of one that is gone, when a [source](Self::source) is ready: whether frames come and go again. For most there is no way back.
    fn is_back(&mut self) -> bool {
        false
    }
}
