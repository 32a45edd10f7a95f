//! The control queue (5.1.6.5): what the driver sets. It lies with the device, or, for a driver that wants a single pair, where the
//! second pair would be.
use crate::features::{
    CHANGEABLE, CTRL_GUEST_OFFLOADS, CTRL_MAC_ADDR, CTRL_RX, CTRL_RX_EXTRA, CTRL_VLAN, GUEST_ANNOUNCE, MQ,
};
use crate::shared::Shared;
use crate::{Filter, MAX_MACS, Mac, Offloads};
use drystone_memory::Mem;
use drystone_virtio::{Chain, Cx, Fault, RingRef};
use std::io;
use std::sync::Arc;

const OK: u8 = 0;
const ERR: u8 = 1;
/// Bytes of class and command.
const HEAD: u64 = 2;
const MAC_LEN: usize = 6;
/// Bytes of a table's number of entries.
const COUNT: u64 = 4;

/// Answers every command on `queue`.
pub(crate) fn serve<M: Mem>(queue: u16, shared: &Shared, cx: &mut Cx<'_, M>) -> Result<(), Fault> {
    let features = cx.features();
    let mut failure = None;
    let mut ring = cx.ring(queue)?;
    while let Some(chain) = ring.pop()? {
        let command = Command { shared, features, chain: &chain };
        let outcome = command.run(&mut ring)?;
        let ack = match outcome {
            Ok(()) => OK,
            Err(Refused::Command) => ERR,
            Err(Refused::Host(what, error)) => {
                failure = Some((what, error));
                ERR
            }
        };
        let written = ring.write(&chain, 0, &[ack])?;
        ring.complete(chain, written as u32)?;
    }
    drop(ring);
    if let Some((what, error)) = failure {
        cx.report(what, &error);
    }
    Ok(())
}

enum Refused {
    /// It makes no sense, or was not negotiated.
    Command,
    /// The host does not do it.
    Host(&'static str, io::Error),
}

struct Command<'a> {
    shared: &'a Shared,
    features: u64,
    chain: &'a Chain,
}

type Outcome = Result<Result<(), Refused>, Fault>;

impl Command<'_> {
    fn run<M: Mem>(&self, ring: &mut RingRef<'_, M>) -> Outcome {
        let Some([class, command]) = self.bytes::<M, 2>(ring, 0)? else { return Ok(Err(Refused::Command)) };
        // Class, command and what must have been negotiated.
        let (needs, len) = match (class, command) {
            (0, 0 | 1) => (CTRL_RX, Some(1)),
            (0, 2..=5) => (CTRL_RX_EXTRA, Some(1)),
            (1, 0) => (CTRL_RX, None),
            (1, 1) => (CTRL_MAC_ADDR, Some(6)),
            (2, 0 | 1) => (CTRL_VLAN, Some(2)),
            (3, 0) => (GUEST_ANNOUNCE, Some(0)),
            (4, 0) => (MQ, Some(2)),
            (5, 0) => (CTRL_GUEST_OFFLOADS, Some(8)),
            _ => return Ok(Err(Refused::Command)),
        };
        let given = u64::from(self.chain.readable_len()).saturating_sub(HEAD);
        if self.features & needs == 0 || len.is_some_and(|len| len != given) {
            return Ok(Err(Refused::Command));
        }
        match class {
            0 => self.mode(command, ring),
            1 if command == 0 => self.mac_tables(ring),
            1 => self.mac(ring),
            2 => self.vlan(command == 0, ring),
            3 => {
                self.shared.set_announce(false);
                Ok(Ok(()))
            }
            4 => self.pairs(ring),
            _ => self.offloads(ring),
        }
    }

    /// Bytes of the command after its first `skip`; `None` if it has not that many.
    fn bytes<M: Mem, const N: usize>(
        &self,
        ring: &mut RingRef<'_, M>,
        skip: u64,
    ) -> Result<Option<[u8; N]>, Fault> {
        let mut bytes = [0; N];
        Ok((ring.read(self.chain, skip, &mut bytes)? == N).then_some(bytes))
    }

    fn change(&self, change: impl FnOnce(&mut Filter) -> Option<()>) -> Result<(), Refused> {
        let mut filter = Filter::clone(&self.shared.filter.load());
        change(&mut filter).ok_or(Refused::Command)?;
        self.shared.filter.store(Arc::new(filter));
        Ok(())
    }

    fn mode<M: Mem>(&self, command: u8, ring: &mut RingRef<'_, M>) -> Outcome {
        let Some([on]) = self.bytes(ring, HEAD)? else { return Ok(Err(Refused::Command)) };
        let on = on != 0;
        Ok(self.change(|filter| {
            let which = match command {
                0 => &mut filter.promiscuous,
                1 => &mut filter.all_multicast,
                2 => &mut filter.all_unicast,
                3 => &mut filter.no_multicast,
                4 => &mut filter.no_unicast,
                _ => &mut filter.no_broadcast,
            };
            *which = on;
            Some(())
        }))
    }

    /// Two tables, each a number and so many addresses.
    fn mac_tables<M: Mem>(&self, ring: &mut RingRef<'_, M>) -> Outcome {
        let Some((unicast, next)) = self.table(HEAD, ring)? else { return Ok(Err(Refused::Command)) };
        let Some((multicast, end)) = self.table(next, ring)? else { return Ok(Err(Refused::Command)) };
        if end != u64::from(self.chain.readable_len()) {
            return Ok(Err(Refused::Command));
        }
        Ok(self.change(|filter| {
            (filter.unicast, filter.multicast) = (unicast, multicast);
            Some(())
        }))
    }

    /// The table at `skip`, `None` within if it has too many addresses, and where it ends; `None` if it is not all there.
    #[allow(clippy::type_complexity)]
    fn table<M: Mem>(
        &self,
        skip: u64,
        ring: &mut RingRef<'_, M>,
    ) -> Result<Option<(Option<Vec<Mac>>, u64)>, Fault> {
        let Some(count) = self.bytes(ring, skip)? else { return Ok(None) };
        let count = u32::from_le_bytes(count);
        let end = skip + COUNT + u64::from(count) * MAC_LEN as u64;
        if end > u64::from(self.chain.readable_len()) {
            return Ok(None);
        }
        let count = count as usize;
        if count > MAX_MACS {
            return Ok(Some((None, end)));
        }
        let mut bytes = [0; MAX_MACS * MAC_LEN];
        let Some(table) = bytes.get_mut(..count * MAC_LEN) else { return Ok(None) };
        ring.read(self.chain, skip + COUNT, table)?;
        let (entries, _) = table.as_chunks::<MAC_LEN>();
        Ok(Some((Some(entries.iter().copied().map(Mac).collect()), end)))
    }

    fn mac<M: Mem>(&self, ring: &mut RingRef<'_, M>) -> Outcome {
        let Some(mac) = self.bytes(ring, HEAD)?.and_then(|mac| Mac(mac).of_one().ok()) else {
            return Ok(Err(Refused::Command));
        };
        self.shared.set_mac(mac);
        Ok(Ok(()))
    }

    fn vlan<M: Mem>(&self, add: bool, ring: &mut RingRef<'_, M>) -> Outcome {
        let Some(vlan) = self.bytes(ring, HEAD)?.map(u16::from_le_bytes).filter(|vlan| *vlan < 4096) else {
            return Ok(Err(Refused::Command));
        };
        Ok(self.change(|filter| {
            let vlans = filter.vlans.get_or_insert_default();
            vlans.retain(|other| *other != vlan);
            if add {
                vlans.push(vlan);
            }
            Some(())
        }))
    }

    fn pairs<M: Mem>(&self, ring: &mut RingRef<'_, M>) -> Outcome {
        let Some(pairs) = self.bytes(ring, HEAD)?.map(u16::from_le_bytes) else {
            return Ok(Err(Refused::Command));
        };
        if pairs == 0 || usize::from(pairs) > self.shared.counters.len() {
            return Ok(Err(Refused::Command));
        }
        let done = self.shared.backend.set_pairs(pairs);
        Ok(done.map(|()| self.shared.set_pairs(pairs)).map_err(|e| Refused::Host("using other queues", e)))
    }

    fn offloads<M: Mem>(&self, ring: &mut RingRef<'_, M>) -> Outcome {
        let Some(offloads) = self.bytes(ring, HEAD)?.map(u64::from_le_bytes) else {
            return Ok(Err(Refused::Command));
        };
        if offloads & !(self.features & CHANGEABLE) != 0 || !crate::features::agree(offloads) {
            return Ok(Err(Refused::Command));
        }
        let done = self.shared.backend.set_offloads(Offloads::of_guest(offloads));
        let set = |()| self.shared.set_guest_offloads(Some(offloads));
        Ok(done.map(set).map_err(|e| Refused::Host("changing offloads", e)))
    }
}
