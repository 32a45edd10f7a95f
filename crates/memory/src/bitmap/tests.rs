use super::*;
use proptest::prelude::*;
use vm_memory::bitmap::AtomicBitmap;

const PAGE: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

#[derive(Debug, Clone)]
enum Step {
    Mark(usize, usize),
    /// Through a slice at the first number.
    MarkSlice(usize, usize, usize),
    Look(usize),
    Take,
}

/// Mostly around what exists, sometimes anything.
fn number(size: usize) -> impl Strategy<Value = usize> {
    prop_oneof![8 => 0..size + 2, 1 => any::<usize>(), 1 => Just(usize::MAX)]
}

fn step(size: usize) -> impl Strategy<Value = Step> {
    let len = prop_oneof![4 => 0..size / 2 + 2, 1 => any::<usize>()].boxed();
    prop_oneof![
        4 => (number(size), len.clone()).prop_map(|(at, len)| Step::Mark(at, len)),
        2 => (number(size), number(size), len).prop_map(|(base, at, len)| Step::MarkSlice(base, at, len)),
        3 => number(size).prop_map(Step::Look),
        1 => Just(Step::Take),
    ]
}

fn history() -> impl Strategy<Value = (usize, Vec<Step>)> {
    // None, a page, a word of pages, several words.
    let sizes = prop_oneof![Just(0_usize), 1..9000_usize, 9000..300_000_usize, 300_000..3_000_000_usize];
    sizes.prop_flat_map(|size| (Just(size), prop::collection::vec(step(size), 1..40)))
}

proptest! {
    #[test]
    fn it_means_what_vm_memorys_bitmap_means((size, steps) in history()) {
        let (ours, theirs) = (DirtyBitmap::new(size).unwrap(), AtomicBitmap::new(size, PAGE));
        prop_assert_eq!(ours.pages(), theirs.len());
        for step in steps {
            match step {
                Step::Mark(at, len) => {
                    ours.mark_dirty(at, len);
                    theirs.mark_dirty(at, len);
                }
                Step::MarkSlice(base, at, len) => {
                    ours.slice_at(base).slice_at(1).mark_dirty(at, len);
                    theirs.slice_at(base).slice_at(1).mark_dirty(at, len);
                }
                Step::Look(at) => {
                    prop_assert_eq!(ours.dirty_at(at), theirs.dirty_at(at));
                    prop_assert_eq!(ours.is_marked(at / 4096), theirs.is_bit_set(at / 4096));
                    prop_assert_eq!(ours.is_marked(at), theirs.is_bit_set(at));
                    prop_assert_eq!(ours.slice_at(at).dirty_at(3), theirs.slice_at(at).dirty_at(3));
                }
                Step::Take => prop_assert_eq!(ours.take(), theirs.get_and_reset()),
            }
        }
        prop_assert_eq!(ours.take(), theirs.get_and_reset());
        prop_assert!(ours.take().iter().all(|word| *word == 0), "taken once");
    }
}

/// KiB of the mapping that holds `bitmap` that are in memory.
fn resident_kib(bitmap: &DirtyBitmap) -> u64 {
    let start = bitmap.words.as_ptr() as u64;
    let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mut inside = false;
    for line in smaps.lines() {
        let range = line.split(' ').next().and_then(|r| r.split_once('-'));
        let bounds = range.map(|(a, b)| (u64::from_str_radix(a, 16), u64::from_str_radix(b, 16)));
        if let Some((Ok(from), Ok(to))) = bounds {
            inside = (from..to).contains(&start);
        } else if let Some(rss) = line.strip_prefix("Rss:").filter(|_| inside) {
            return rss.trim().trim_end_matches(" kB").parse().unwrap();
        }
    }
    panic!("the mapping at {start:#x} is not listed");
}

#[test]
fn memory_is_taken_when_something_is_marked_and_not_before() {
    const GIB: usize = 1 << 30;
    // 32 MiB of bits. A mapping of another test may touch it, and be listed with it; none of them is large.
    let bitmap = DirtyBitmap::new(1024 * GIB).unwrap();
    let before = resident_kib(&bitmap);
    assert!(before <= 64, "{before} KiB at first");
    assert!(!bitmap.dirty_at(1023 * GIB));
    assert!(bitmap.take().iter().all(|word| *word == 0));
    let looked = resident_kib(&bitmap);
    assert!(looked <= 64, "{looked} KiB after looking");
    for gib in [0, 511, 1023] {
        bitmap.mark_dirty(gib * GIB, 1);
    }
    let marked = resident_kib(&bitmap);
    assert!((12..=76).contains(&marked), "{marked} KiB for three pages");
}

#[test]
fn no_mark_of_many_threads_is_lost() {
    let bitmap = DirtyBitmap::new(256 * 4096).unwrap();
    let taken = std::sync::Mutex::new(vec![0; 4]);
    std::thread::scope(|scope| {
        let bitmap = &bitmap;
        for thread in 0..4 {
            // All threads share each word.
            scope.spawn(move || (0..64).for_each(|i| bitmap.mark_dirty((i * 4 + thread) * 4096, 4096)));
        }
        scope.spawn(|| {
            for _ in 0..100 {
                add(&taken, &bitmap.take());
            }
        });
    });
    add(&taken, &bitmap.take());
    assert_eq!(taken.into_inner().unwrap(), [u64::MAX; 4]);
}

fn add(to: &std::sync::Mutex<Vec<u64>>, from: &[u64]) {
    to.lock().unwrap().iter_mut().zip(from).for_each(|(to, from)| *to |= from);
}

#[test]
fn vm_memory_can_make_it() {
    let region = vm_memory::MmapRegion::<DirtyBitmap>::new(3 * 4096).unwrap();
    region.bitmap().mark_dirty(4096, 1);
    assert_eq!((region.bitmap().pages(), region.bitmap().take()), (3, vec![2]));
    assert!(DirtyBitmap::default().take().is_empty());
}

#[test]
fn address_space_that_does_not_exist_is_an_error() {
    assert!(DirtyBitmap::new(usize::MAX).is_err());
}
