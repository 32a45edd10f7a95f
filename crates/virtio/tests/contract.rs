//! What a worker owes the core, and what a ring owes whoever copies dirty pages: broken on purpose.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

use drystone_memory::Mem;
use drystone_state::PersistDyn;
use drystone_testkit::virtio::{
    CorePort, DriverRing, Edges, Log, Pump, Ram, Transport, WRITE, bring_up, ram,
};
use drystone_virtio::{
    Chain, Cx, Description, F_EVENT_IDX, Fault, Host, NEEDS_RESET, VirtioCore, VirtioDevice, Worker,
};
use std::sync::Arc;
use vm_memory::bitmap::Bitmap;
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

/// What a worker does.
#[derive(Clone, Copy, PartialEq)]
enum Does {
    /// Says that it has written more than there is room for.
    TooMuch,
    /// Completes a request of queue 1 on queue 0.
    AnothersRequest,
    /// Puts the first of two requests back.
    WrongOrder,
    /// Puts what it has seen back, and does so again when it is asked again.
    PutsBack,
    /// Answers.
    Well,
}

struct Device(Does);

impl<M: Mem> Worker<M> for Device {
    fn on_kick(&mut self, queue: u16, cx: &mut Cx<'_, M>) -> Result<(), Fault> {
        let mut all: Vec<Chain> = Vec::new();
        let mut ring = cx.ring(queue)?;
        while let Some(chain) = ring.pop()? {
            all.push(chain);
        }
        match self.0 {
            Does::AnothersRequest if queue == 1 => {
                drop(ring);
                let mut other = cx.ring(0)?;
                all.into_iter().try_for_each(|chain| other.complete(chain, 0))
            }
            Does::TooMuch => all.into_iter().try_for_each(|chain| {
                let room = chain.writable_len();
                ring.complete(chain, room + 1)
            }),
            Does::WrongOrder => all.into_iter().try_for_each(|chain| ring.unpop(chain)),
            Does::PutsBack => all.into_iter().rev().try_for_each(|chain| ring.unpop(chain)),
            _ => all.into_iter().try_for_each(|chain| ring.complete(chain, 0)),
        }
    }
}

impl<M: Mem> VirtioDevice<M> for Device {
    fn describe(&self) -> Description {
        Description { device_type: 42, queue_sizes: vec![16; 2], ..Description::default() }
    }
    fn reset(&mut self) {}
    fn persist(&self) -> Option<&dyn PersistDyn> {
        None
    }
}

struct Rig {
    memory: Ram,
    core: Arc<VirtioCore<Ram>>,
    pump: Arc<Pump>,
    log: Arc<Log>,
    rings: [DriverRing; 2],
}

fn rig(does: Does, features: u64) -> Rig {
    let (memory, pump, log) = (ram(0x4_0000), Arc::new(Pump::default()), Arc::new(Log::default()));
    let host = Host { observer: log.clone(), ..Host::new(pump.clone()) };
    let core = VirtioCore::new(Box::new(Device(does)), memory.clone(), Arc::new(Edges::default()), host);
    let core = Arc::new(core.unwrap());
    let rings = [0x1_0000, 0x2_0000].map(|at| DriverRing::new(&memory, at, 16, features & F_EVENT_IDX != 0));
    bring_up(&CorePort(core.clone()), &rings.iter().collect::<Vec<_>>(), features);
    pump.run(&core, 16);
    Rig { memory, core, pump, log, rings }
}

#[test]
fn a_worker_that_breaks_its_contract_is_stopped() {
    for (does, queue, why) in [
        (Does::TooMuch, 0, "more was written than there is room for"),
        (Does::AnothersRequest, 1, "request of another ring"),
        (Does::WrongOrder, 0, "only the request that was popped last can go back"),
    ] {
        let mut rig = rig(does, 0);
        for _ in 0..2 {
            rig.rings[queue].add(&[(0x3000, 16, WRITE)], false).unwrap();
        }
        CorePort(rig.core.clone()).notify(queue as u16);
        rig.pump.run(&rig.core, 16);
        let said = rig.log.take();
        assert!(said.iter().any(|line| line.contains(why)), "{why}: {said:?}");
        assert_ne!(rig.core.status() & NEEDS_RESET, 0, "{why}");
        assert_eq!(rig.rings.iter().map(DriverRing::used_index).sum::<u16>(), 0, "{why}");
    }
}

/// What was put back is still there: the ring was not emptied, and no kick is asked for.
#[test]
fn what_goes_back_does_not_leave_an_empty_ring() {
    let mut rig = rig(Does::PutsBack, F_EVENT_IDX);
    rig.rings[0].wants_kick();
    rig.rings[0].add(&[(0x3000, 16, WRITE)], false).unwrap();
    CorePort(rig.core.clone()).notify(0);
    rig.pump.run(&rig.core, 16);
    rig.rings[0].wants_kick();
    rig.rings[0].add(&[(0x3000, 16, WRITE)], false).unwrap();
    assert!(!rig.rings[0].wants_kick(), "nobody waits for a kick");
}

/// Whoever copies dirty pages must see all of the used ring change, also past its first page.
#[test]
fn what_the_device_writes_to_a_ring_is_marked_dirty() {
    for features in [0, F_EVENT_IDX] {
        let mut rig = rig(Does::Well, features);
        let to_used = rig.rings[0].used() - rig.rings[0].descriptors();
        // The second element is on the next page.
        let across = 0x3_1000 - 16 - to_used;
        rig.rings[0] = DriverRing::new(&rig.memory, across, 16, features & F_EVENT_IDX != 0);
        bring_up(&CorePort(rig.core.clone()), &[&rig.rings[0]], features);
        rig.pump.run(&rig.core, 16);
        for _ in 0..2 {
            rig.rings[0].add(&[(0x3000, 16, WRITE)], false).unwrap();
        }
        rig.memory.iter().for_each(|region| drop((**region).bitmap().take()));
        CorePort(rig.core.clone()).notify(0);
        rig.pump.run(&rig.core, 16);
        assert_eq!(rig.rings[0].used_index(), 2);
        for page in [0x3_0000, 0x3_1000] {
            let dirty = rig.memory.iter().all(|region| region.bitmap().dirty_at(page));
            assert!(dirty, "page {page:#x}, features {features:#x}");
        }
    }
}
