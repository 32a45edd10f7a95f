use super::*;
use crate::DirtyBitmap;
use proptest::prelude::*;
use rustix::mm::ProtFlags;
use std::num::NonZeroUsize;
use vm_memory::MmapRegion;
use vm_memory::bitmap::{AtomicBitmap, Bitmap};
use vm_memory::mmap::MmapRegionBuilder;

const SIZE: usize = 5 * 4096;
/// `MAP_PRIVATE | MAP_ANONYMOUS`: rustix has no name for the latter.
const PRIVATE_AND_ANONYMOUS: i32 = 0x22;

#[derive(Debug, Clone)]
enum Write {
    Value(u64),
    Bytes(Vec<u8>),
    Mark,
}

fn writes() -> impl Strategy<Value = Vec<(usize, Write)>> {
    let bytes = prop_oneof![4 => 0..20_usize, 1 => 0..3 * 4096_usize];
    let bytes = bytes.prop_flat_map(|n| prop::collection::vec(any::<u8>(), n)).prop_map(Write::Bytes);
    let write = prop_oneof![6 => any::<u64>().prop_map(Write::Value), 3 => bytes, 1 => Just(Write::Mark)];
    let offset = prop_oneof![8 => 0..SIZE + 8, 4 => 4080..4100_usize, 1 => Just(usize::MAX)];
    prop::collection::vec((offset, write), 0..40)
}

fn region(page: usize) -> MmapRegion<AtomicBitmap> {
    let bitmap = AtomicBitmap::new(SIZE, NonZeroUsize::new(page).unwrap());
    let builder = MmapRegionBuilder::new_with_bitmap(SIZE, bitmap);
    builder
        .with_mmap_prot((ProtFlags::READ | ProtFlags::WRITE).bits() as i32)
        .with_mmap_flags(PRIVATE_AND_ANONYMOUS)
        .build()
        .unwrap()
}

fn bytes(region: &MmapRegion<AtomicBitmap>) -> Vec<u8> {
    let mut all = vec![0; SIZE];
    region.as_volatile_slice().read_slice(&mut all, 0).unwrap();
    all
}

proptest! {
    #[test]
    fn it_writes_and_marks_what_a_slice_does(writes in writes(), page in prop_oneof![Just(4096_usize), Just(16384)]) {
        let (ours, theirs) = (region(page), region(page));
        let mut tracked = Tracked::new(ours.as_volatile_slice());
        let plain = theirs.as_volatile_slice();
        for (offset, write) in writes {
            match write {
                Write::Value(value) => {
                    let there = plain.get_ref::<u64>(offset).map(|r| r.store(value));
                    prop_assert_eq!(tracked.write(value, offset).is_ok(), there.is_ok());
                    prop_assert_eq!(tracked.read::<u64>(offset).ok(), plain.get_ref::<u64>(offset).ok().map(|r| r.load()));
                }
                Write::Bytes(data) => {
                    let (here, there) = (tracked.write_slice(&data, offset), plain.write_slice(&data, offset));
                    prop_assert_eq!(here.is_ok(), there.is_ok());
                    let (mut a, mut b) = (vec![0; data.len()], vec![0; data.len()]);
                    prop_assert_eq!(tracked.read_slice(&mut a, offset).is_ok(), plain.read_slice(&mut b, offset).is_ok());
                    prop_assert_eq!(a, b);
                }
                Write::Mark => {
                    tracked.mark();
                    for at in (0..SIZE).step_by(4096) {
                        prop_assert_eq!(ours.bitmap().dirty_at(at), theirs.bitmap().dirty_at(at));
                    }
                }
            }
        }
        drop(tracked);
        prop_assert_eq!(bytes(&ours), bytes(&theirs));
        prop_assert_eq!(ours.bitmap().get_and_reset(), theirs.bitmap().get_and_reset());
    }
}

#[test]
fn small_pages_are_marked_too() {
    let region = region(128);
    let mut tracked = Tracked::new(region.as_volatile_slice());
    tracked.write(1_u8, 10).unwrap();
    tracked.write(1_u8, 300).unwrap();
    drop(tracked);
    assert!(region.bitmap().dirty_at(10) && region.bitmap().dirty_at(300) && !region.bitmap().dirty_at(400));
}

#[test]
fn a_taken_mark_comes_again_for_what_is_written_later() {
    let region = MmapRegion::<DirtyBitmap>::new(8192).unwrap();
    let mut tracked = Tracked::new(region.as_volatile_slice());
    tracked.write(1_u8, 0).unwrap();
    tracked.mark();
    assert_eq!(region.bitmap().take(), [1]);
    tracked.write(2_u8, 0).unwrap();
    drop(tracked);
    assert_eq!(region.bitmap().take(), [1]);
}
