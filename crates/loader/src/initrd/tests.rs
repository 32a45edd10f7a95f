use super::*;
use crate::KernelImage;
use drystone_memory::{GuestRam, RamConfig};
use drystone_testkit::fuzz::images::{bzimage, put};
use vm_memory::GuestAddressSpace;

const MIB: u64 = 1 << 20;

fn one(range: Range<u64>) -> Vec<Range<u64>> {
    std::iter::once(range).collect()
}

#[test]
fn it_goes_as_high_as_possible() {
    let kernel = one(2 * MIB..3 * MIB);
    assert_eq!(place(1, 8 * MIB, &kernel), Ok(8 * MIB - PAGE));
    assert_eq!(place(PAGE + 1, 8 * MIB, &kernel), Ok(8 * MIB - 2 * PAGE));
    assert_eq!(place(PAGE, 8 * MIB + 5, &kernel), Ok(8 * MIB - PAGE), "the limit is in the middle of a page");
    assert_eq!(place(5 * MIB, 8 * MIB, &kernel), Ok(3 * MIB), "just fits");
}

#[test]
fn it_goes_below_the_kernel_if_it_does_not_fit_above() {
    assert_eq!(place(2 * MIB, 8 * MIB, &one(4 * MIB..7 * MIB)), Ok(2 * MIB));
    assert_eq!(place(3 * MIB, 8 * MIB, &one(4 * MIB..7 * MIB)), Ok(MIB));
    assert_eq!(place(3 * MIB + 1, 8 * MIB, &one(4 * MIB..7 * MIB)), Err(3 * MIB));
}

#[test]
fn it_shares_no_page_with_what_is_taken() {
    assert_eq!(place(1, 8 * MIB, &one(2 * MIB..8 * MIB - PAGE + 1)), Ok(2 * MIB - PAGE));
    assert_eq!(place(1, 8 * MIB, &one(2 * MIB + 1..9 * MIB)), Ok(2 * MIB - PAGE));
    // Overlapping, touching, nested and outside, in any order.
    let taken = [6 * MIB..u64::MAX, 2 * MIB..3 * MIB, 5 * MIB..7 * MIB, 5 * MIB..6 * MIB, 20 * MIB..30 * MIB];
    assert_eq!(place(2 * MIB, 8 * MIB, &taken), Ok(3 * MIB));
    assert_eq!(place(2 * MIB + 1, 8 * MIB, &taken), Err(2 * MIB));
    let nested = [2 * MIB..7 * MIB, 3 * MIB..4 * MIB];
    assert_eq!(place(2 * MIB, 8 * MIB, &nested), Err(MIB));
    assert_eq!(place(1, 8 * MIB, &one(0..u64::MAX)), Err(0));
    assert_eq!(place(1, 0, &[]), Err(0));
    assert_eq!(place(u64::MAX, u64::MAX, &[]), Err(u64::MAX / PAGE * PAGE - MIB));
}

fn load(initrd: &Initrd, mib: u64, reserved: &[Range<u64>]) -> Result<(Range<u64>, Vec<u8>), InitrdError> {
    let layout = Layout::new(mib * MIB, 46).unwrap();
    let ram = GuestRam::new(&layout, &RamConfig::default()).unwrap();
    let memory = ram.view().memory();
    let mut image = bzimage();
    put(&mut image, 0x22c, &(16 * MIB as u32 - 1).to_le_bytes()); // initrd_addr_max
    let kernel = KernelImage::from_bytes(image, "k").unwrap().load(&*memory, &layout).unwrap();
    let range = initrd.load(&*memory, &layout, &kernel, reserved)?;
    let mut content = vec![0; (range.end - range.start) as usize];
    memory.read_slice(&mut content, GuestAddress(range.start)).unwrap();
    Ok((range, content))
}

#[test]
fn the_file_is_in_memory_byte_for_byte_each_time() {
    let bytes: Vec<u8> = (0..10_001_u32).map(|i| i as u8).collect();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("initrd");
    std::fs::write(&path, &bytes).unwrap();
    let initrd = Initrd::open(&path).unwrap();
    for _ in 0..2 {
        let (range, content) = load(&initrd, 8, &[]).unwrap();
        assert_eq!((range, content), (8 * MIB - 12288..8 * MIB - 12288 + 10_001, bytes.clone()));
    }
    std::fs::write(&path, "grown").unwrap();
    assert_eq!(load(&initrd, 8, &[]).unwrap().1, b"grown", "its length is that of the moment");
    std::fs::write(&path, "").unwrap();
    assert!(matches!(load(&initrd, 8, &[]), Err(InitrdError::Empty { .. })));
}

#[test]
fn it_stays_below_the_kernels_limit_and_away_from_reserved_ranges() {
    let initrd = Initrd::from_bytes([7; 100], "i").unwrap();
    assert_eq!(load(&initrd, 64, &[]).unwrap().0.start, 16 * MIB - PAGE);
    let reserved = one(15 * MIB..17 * MIB);
    assert_eq!(load(&initrd, 64, &reserved).unwrap().0.start, 15 * MIB - PAGE);
}

#[test]
fn an_initrd_that_does_not_fit_names_the_sizes() {
    let initrd = Initrd::from_bytes(vec![7; 7 << 20], "i").unwrap();
    assert_eq!(
        load(&initrd, 8, &[]).unwrap_err().to_string(),
        "initrd at i: does not fit: it has 7340032 bytes, the largest free range of guest RAM below 0x800000 has \
         6225920 (the kernel takes 0x200000..0x210000)"
    );
}

#[test]
fn what_cannot_be_opened_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let error = Initrd::open(dir.path()).unwrap_err().to_string();
    assert_eq!(error, format!("initrd at {}: cannot open: it is a directory", dir.path().display()));
    let missing = dir.path().join("missing");
    let error = Initrd::open(&missing).unwrap_err().to_string();
    assert!(error.ends_with("missing: cannot open: No such file or directory (os error 2)"), "{error}");
    let error = Initrd::from_bytes([], "i").unwrap_err().to_string();
    assert_eq!(error, "initrd at i: empty file");
}
