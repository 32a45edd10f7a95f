use super::table::Entry;
use super::{Message, Msix};
use crate::lock;
use serde::{Deserialize, Serialize};

/// The saved state of an [`Msix`]: what is in its table, and which vectors wait.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MsixState {
    /// Address, data, and whether it is masked, of each vector.
    pub entries: Vec<(u64, u32, bool)>,
    /// The numbers of the vectors that were triggered and not sent, ascending.
    pub pending: Vec<u16>,
}

impl Msix {
    pub(crate) fn save(&self) -> MsixState {
        let inner = lock(&self.inner);
        let entry = |e: &Entry| (e.message.address, e.message.data, e.masked);
        let entries = inner.entries.iter().map(entry).collect();
        let pending = (0..).zip(&self.vectors).filter(|(_, v)| v.is_pending()).map(|(n, _)| n).collect();
        MsixState { entries, pending }
    }

    /// Says why no save can have given `state`.
    pub(crate) fn check(&self, state: &MsixState) -> Result<(), String> {
        let (found, own) = (state.entries.len(), self.vectors.len());
        if found != own {
            return Err(format!("{found} MSI-X vectors, and this function has {own}"));
        }
        if let Some((address, ..)) = state.entries.iter().find(|(address, ..)| address & 3 != 0) {
            return Err(format!("MSI-X address {address:#x} is no multiple of 4"));
        }
        let ascending = state.pending.windows(2).all(|pair| matches!(pair, [a, b] if a < b));
        match state.pending.last() {
            Some(last) if !ascending || usize::from(*last) >= own => {
                Err(format!("pending MSI-X vectors up to {last}, and this function has {own}"))
            }
            _ => Ok(()),
        }
    }

    /// Takes over a state that was checked. What was pending is triggered again, and sent once the function's registers
    /// say that it may be: see [`follow`](Self::follow).
    pub(crate) fn restore(&self, state: &MsixState) {
        let mut inner = lock(&self.inner);
        for (entry, (address, data, masked)) in inner.entries.iter_mut().zip(&state.entries) {
            entry.message = Message { address: *address, data: *data };
            entry.masked = *masked;
        }
        drop(inner);
        let pending = state.pending.iter().filter_map(|n| self.vectors.get(usize::from(*n)));
        pending.for_each(|vector| vector.trigger());
    }
}
