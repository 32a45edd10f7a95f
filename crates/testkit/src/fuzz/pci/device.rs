//! A device for the fuzzer: says who it is wherever it is read, and keeps books on its BARs and messages.

use drystone_bus::{Effect, Interrupt};
use drystone_pci::{
    BarKind, Class, Config, ConfigSpace, Function, Identity, Latch, Message, Msix, MsixPlace, Segment,
    Vector, Windows,
};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

pub(super) const WINDOWS: Windows = Windows {
    memory_32: 0xc000_0000..0xc010_0000,
    memory_64: 0x1_0000_0000..0x1_0010_0000,
    io: 0x1000..0x1200,
};
const VECTORS: usize = 3;
const PLACE: MsixPlace = MsixPlace { bar: 0, table: 0x100, pending: 0x800 };

#[derive(Default)]
struct Books {
    triggered: [AtomicU64; VECTORS],
    sent: [AtomicU64; VECTORS],
}

pub(super) struct Device {
    pub(super) kind: u8,
    config: Config,
    vectors: Vec<Arc<dyn Interrupt>>,
    books: Arc<Books>,
    placed: Mutex<BTreeMap<usize, u64>>,
}

/// One of a few devices; it answers with its number.
pub(super) fn device(kind: u8) -> Arc<Device> {
    let class = Class { base: 0xff, sub: 0, interface: 0 };
    let mut space = ConfigSpace::new(&Identity {
        vendor: 0x1234,
        device: kind.into(),
        revision: 0,
        class,
        subsystem_vendor: 0,
        subsystem: 0,
    });
    space.add_bar(0, BarKind::Memory32, 0x1000).unwrap();
    let many = kind % 3;
    if many > 0 {
        space.add_bar(1, BarKind::Io, 0x20).unwrap();
        space.add_bar(2, BarKind::Memory64, 0x4000).unwrap();
    }
    if many > 1 {
        space.add_bar(4, BarKind::Memory64, 0x1_0000).unwrap();
        space.add_extended_capability(0xb, 1, &[0; 16], &[0xff; 8]).unwrap();
    }
    let books = Arc::<Books>::default();
    let vector = |number: usize| {
        let books = books.clone();
        let send = move |_: Message| {
            books.sent[number].fetch_add(1, Ordering::Relaxed);
        };
        Arc::new(Latch::new(send)) as Arc<dyn Vector>
    };
    let msix = Msix::new(&mut space, PLACE, (0..VECTORS).map(vector).collect()).unwrap();
    let vectors = (0..VECTORS).map(|n| msix.interrupt(n as u16).unwrap()).collect();
    let config = Config::with_msix(space, msix);
    Arc::new(Device { kind, config, vectors, books, placed: Mutex::default() })
}

/// The ranges that the device was told it has on the bus, and whether they are ports.
pub(super) fn placed(device: &Device) -> Vec<(bool, Range<u64>)> {
    let placed = device.placed.lock().unwrap();
    device.config.with(|config| {
        let range = |(index, base): (&usize, &u64)| {
            let (_, bar) = config.bars().find(|(other, _)| other == index).expect("what is placed is a BAR");
            (bar.kind == BarKind::Io, *base..base + bar.size)
        };
        placed.iter().map(range).collect()
    })
}

impl Device {
    pub(super) fn trigger(&self, vector: u16) {
        let vector = usize::from(vector) % VECTORS;
        self.books.triggered[vector].fetch_add(1, Ordering::Relaxed);
        self.vectors[vector].trigger();
    }

    /// What waited in `old` may now be sent by this.
    pub(super) fn allow(&self, old: &Self) {
        for (new, old) in self.books.triggered.iter().zip(&old.books.triggered) {
            new.fetch_add(u64::from(old.load(Ordering::Relaxed) > 0), Ordering::Relaxed);
        }
    }

    pub(super) fn check(&self, segment: &Segment, slot: u8) {
        for (triggered, sent) in self.books.triggered.iter().zip(&self.books.sent) {
            assert!(
                sent.load(Ordering::Relaxed) <= triggered.load(Ordering::Relaxed),
                "sent without a cause"
            );
        }
        assert_eq!(self.config.msix().unwrap().failures(), 0);
        let mut identity = [0; 4];
        segment.read(u64::from(slot) << 15, &mut identity);
        assert_eq!(identity, [0x34, 0x12, self.kind, 0]);
        let decoded = self.config.with(|c| c.decoded());
        for (index, base) in self.placed.lock().unwrap().iter() {
            assert!(decoded.iter().any(|d| d.index == *index && d.base == *base), "BAR {index} is elsewhere");
        }
    }
}

impl Function for Device {
    fn config(&self) -> &Config {
        &self.config
    }
    fn bar_read(&self, _: usize, _: u64, data: &mut [u8]) {
        data.fill(self.kind);
    }
    fn bar_write(&self, _: usize, _: u64, _: &[u8]) -> Effect {
        Effect::None
    }
    fn bar_moved(&self, bar: usize, base: Option<u64>) {
        let mut placed = self.placed.lock().unwrap();
        match base {
            Some(base) => assert!(placed.insert(bar, base).is_none(), "BAR {bar} was placed twice"),
            None => assert!(placed.remove(&bar).is_some(), "BAR {bar} was not placed"),
        }
    }
}
