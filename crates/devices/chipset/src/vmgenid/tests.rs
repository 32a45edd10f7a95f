use super::*;
use crate::GedConfig;
use drystone_memory::{GuestRam, Layout, RamConfig, RamView};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering::SeqCst};
use vm_memory::GuestAddressSpace;

#[derive(Default)]
struct Line(AtomicUsize);
impl Interrupt for Line {
    fn trigger(&self) {
        self.0.fetch_add(1, SeqCst);
    }
}

const KNOWS: VmGenIdState = VmGenIdState { untold: false };
const AT: u64 = 0xd_f020;

struct Rig {
    ram: GuestRam,
    line: Arc<Line>,
    ged: Ged,
    device: VmGenId<RamView>,
}

fn rig() -> Rig {
    rig_with(Identity::New)
}

fn rig_with(identity: Identity) -> Rig {
    let ram = GuestRam::new(&Layout::new(1 << 20, 46).unwrap(), &RamConfig::default()).unwrap();
    let line = Arc::new(Line::default());
    let mut ged = Ged::new(GedConfig::default(), line.clone());
    let next = AtomicU8::new(1);
    let entropy = Box::new(move || Ok([next.fetch_add(1, SeqCst); 16]));
    let device = VmGenId::new(AT, ram.view(), &mut ged, entropy).unwrap().with_identity(identity);
    Rig { ram, line, ged, device }
}

impl Rig {
    fn in_memory(&self) -> [u8; 16] {
        self.ram.view().memory().read_obj::<u128>(GuestAddress(AT)).unwrap().to_le_bytes()
    }
    fn told(&self) -> (usize, u8) {
        let mut pending = [0; 4];
        self.ged.read(0, &mut pending);
        (self.line.0.load(SeqCst), pending[0])
    }
}

#[test]
fn it_stays_over_resets_and_changes_with_a_restore() {
    let rig = rig();
    rig.device.write().unwrap();
    rig.device.resume().unwrap();
    assert_eq!((rig.in_memory(), rig.told()), ([1; 16], (0, 0)));
    rig.ram.discard_all().unwrap();
    rig.device.reset().unwrap();
    rig.device.resume().unwrap();
    assert_eq!((rig.in_memory(), rig.told()), ([1; 16], (0, 0)), "it is the same machine");

    rig.device.restore(KNOWS).unwrap();
    assert_eq!((rig.in_memory(), rig.told()), ([2; 16], (0, 0)), "not before all parts are restored");
    rig.device.resume().unwrap();
    assert_eq!(rig.told(), (1, 1));
    rig.device.pause().unwrap();
    rig.device.resume().unwrap();
    assert_eq!(rig.told(), (1, 0), "once");
    rig.device.restore(KNOWS).unwrap();
    rig.device.reset().unwrap();
    rig.device.resume().unwrap();
    assert_eq!((rig.in_memory(), rig.told()), ([3; 16], (1, 0)), "a guest that starts anew reads it anyway");
}

/// Also one that was written down again before its guest could be told that it is another one.
#[test]
fn a_machine_that_only_moved_keeps_it() {
    let rig = rig();
    rig.device.write().unwrap();
    rig.device.restore(KNOWS).unwrap();
    let untold = rig.device.save().unwrap();
    assert_eq!((untold, rig.in_memory()), (VmGenIdState { untold: true }, [2; 16]));

    for (state, told) in [(KNOWS, (0, 0)), (VmGenIdState { untold: true }, (1, 1))] {
        let moved = rig_with(Identity::Kept);
        moved.ram.view().memory().write_obj(u128::from_le_bytes([2; 16]), GuestAddress(AT)).unwrap();
        moved.device.restore(drystone_testkit::as_written(&state)).unwrap();
        assert_eq!((moved.in_memory(), moved.device.save().unwrap()), ([2; 16], state));
        moved.device.resume().unwrap();
        assert_eq!(moved.told(), told);
        moved.ram.discard_all().unwrap();
        moved.device.reset().unwrap();
        assert_eq!(moved.in_memory(), [2; 16], "it is the same machine");
    }
}

#[test]
fn what_is_not_there_is_said() {
    let Rig { ram, mut ged, .. } = rig();
    let make = |at, ged: &mut Ged, entropy: Entropy| VmGenId::new(at, ram.view(), ged, entropy);
    let nowhere = make(1 << 30, &mut ged, Box::new(|| Ok([0; 16]))).unwrap();
    let said = nowhere.write().unwrap_err().to_string();
    assert!(
        said.starts_with("generation identifier: cannot write it to guest memory at 0x40000000: "),
        "{said}"
    );
    assert!(nowhere.restore(KNOWS).is_err());
    let said = nowhere.with_identity(Identity::Kept).restore(KNOWS).unwrap_err().to_string();
    assert!(said.contains("cannot read it from guest memory at 0x40000000: "), "{said}");
    let none = make(AT, &mut ged, Box::new(|| Err(std::io::ErrorKind::NotFound.into()))).err().unwrap();
    assert_eq!(none.to_string(), "generation identifier: cannot get random bytes: entity not found");
}
