//! Writes to ports that wait for the next exit.

use super::lock;
use crate::{Error, IoHandler};
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex};

/// How many writes can wait; few, so that tests meet the case that there is no room.
const ROOM: usize = 16;

/// The ports whose writes wait, and those that do, in their order.
#[derive(Default)]
pub(super) struct Deferred {
    ports: Mutex<Vec<Arc<Range<u32>>>>,
    waiting: Mutex<VecDeque<(u16, Vec<u8>)>>,
}

impl Deferred {
    /// Gives what [`remove`](Self::remove) takes.
    pub(super) fn add(&self, port: u16, len: u16) -> Result<Arc<Range<u32>>, Error> {
        let ports = Arc::new(u32::from(port)..u32::from(port) + u32::from(len));
        if ports.is_empty() || ports.end > 0x1_0000 {
            let attempt = format!("defer writes to {len} ports from {port:#x} on");
            return Err(Error::Invalid { attempt, why: "there are no such ports".into() });
        }
        lock(&self.ports).push(ports.clone());
        Ok(ports)
    }

    pub(super) fn remove(&self, ports: &Arc<Range<u32>>) {
        lock(&self.ports).retain(|p| !Arc::ptr_eq(p, ports));
    }

    /// Takes the items of one instruction, if they are for such a port and there is room.
    pub(super) fn take(&self, port: u16, width: usize, data: &[u8]) -> bool {
        let end = u32::try_from(width).unwrap_or(u32::MAX).saturating_add(port.into());
        let is_in = |ports: &Arc<Range<u32>>| ports.contains(&port.into()) && end <= ports.end;
        if !lock(&self.ports).iter().any(is_in) {
            return false;
        }
        let mut waiting = lock(&self.waiting);
        let items = data.chunks(width.max(1));
        let has_room = waiting.len() + items.len() <= ROOM;
        if has_room {
            waiting.extend(items.map(|item| (port, item.to_vec())));
        }
        has_room
    }

    /// Hands over what waits. Whoever comes meanwhile waits until that is done.
    pub(super) fn deliver(&self, io: &mut dyn IoHandler) {
        let mut waiting = lock(&self.waiting);
        waiting.drain(..).for_each(|(port, data)| io.deferred_write(port, &data));
    }
}
