use super::*;
use vm_memory::Bytes;

const GIB: u64 = 1 << 30;

fn ram(size: u64, backing: Backing) -> GuestRam {
    let layout = Layout::new(size, 40).unwrap();
    GuestRam::new(&layout, &RamConfig { backing, huge_pages: HugePages::Always }).unwrap()
}

fn dirty(ram: &GuestRam) -> Vec<u64> {
    let mut pages = Vec::new();
    for range in ram.take_dirty() {
        for (word, bits) in (0..).zip(range.bitmap) {
            pages.extend((0..64).filter(|b| bits >> b & 1 == 1).map(|b| range.base + (word * 64 + b) * PAGE));
        }
    }
    pages
}

#[test]
fn writes_read_back_on_both_sides_of_the_device_window() {
    for backing in [Backing::Anonymous, Backing::Memfd] {
        let ram = ram(4 * GIB, backing);
        let view = ram.view().memory();
        for at in [0, 3 * GIB - 8, 4 * GIB, 5 * GIB - 8] {
            view.write_obj(at ^ 0x55, GuestAddress(at)).unwrap();
        }
        for at in [0, 3 * GIB - 8, 4 * GIB, 5 * GIB - 8] {
            assert_eq!(view.read_obj::<u64>(GuestAddress(at)).unwrap(), at ^ 0x55, "{backing:?}");
        }
        assert!(view.write_obj(0_u64, GuestAddress(3 * GIB - 4)).is_err());
        assert_eq!(ram.regions().len(), 2);
    }
}

#[test]
fn device_writes_are_tracked_by_page_and_forgotten_once_taken() {
    let ram = ram(1 << 20, Backing::Anonymous);
    assert!(dirty(&ram).is_empty());
    let view = ram.view().memory();
    view.write_slice(&[1; 2], GuestAddress(2 * PAGE - 1)).unwrap();
    view.read_obj::<u64>(GuestAddress(9 * PAGE)).unwrap();
    assert_eq!(dirty(&ram), [PAGE, 2 * PAGE]);
    assert!(dirty(&ram).is_empty());
}

#[test]
fn discarded_pages_read_as_zeros_and_count_as_written() {
    for backing in [Backing::Anonymous, Backing::Memfd] {
        let ram = ram(4 * GIB, backing);
        let view = ram.view().memory();
        for page in [0, 1, 2, 4 * GIB / PAGE] {
            view.write_obj(7_u64, GuestAddress(page * PAGE)).unwrap();
        }
        dirty(&ram);
        ram.discard(PAGE..2 * PAGE).unwrap();
        assert_eq!(dirty(&ram), [PAGE]);
        let read = |page: u64| view.read_obj::<u64>(GuestAddress(page * PAGE)).unwrap();
        assert_eq!((read(0), read(1), read(2)), (7, 0, 7), "{backing:?}");
        ram.discard_all().unwrap();
        assert_eq!((read(0), read(2), read(4 * GIB / PAGE)), (0, 0, 0), "{backing:?}");
    }
}

#[test]
fn only_whole_pages_of_ram_are_discarded() {
    let ram = ram(4 * GIB, Backing::Anonymous);
    for range in [1..PAGE, 0..1, PAGE..PAGE, 3 * GIB - PAGE..3 * GIB + PAGE, 5 * GIB..6 * GIB] {
        assert!(matches!(ram.discard(range.clone()), Err(MemoryError::Range { .. })), "{range:x?}");
    }
}

#[test]
fn more_than_the_host_can_map_is_an_error_with_the_size() {
    let layout = Layout::new(1 << 50, 52).unwrap();
    let error = GuestRam::new(&layout, &RamConfig::default()).err().unwrap().to_string();
    assert!(error.contains("cannot map") && error.contains("Cannot allocate memory"), "{error}");
}

#[test]
fn a_memory_file_cannot_be_resized() {
    let ram = ram(1 << 20, Backing::Memfd);
    let region = &ram.regions()[0];
    let file = region.get_mmap().file_offset().unwrap().clone();
    assert!(file.file().set_len(0).is_err());
    assert_eq!(file.file().metadata().unwrap().len(), 1 << 20);
}

/// A file of `size` bytes that begins with `head`.
fn file(size: u64, head: &[u8]) -> std::fs::File {
    use std::io::Write;
    let mut file = tempfile::tempfile().unwrap();
    file.set_len(size).unwrap();
    file.write_all(head).unwrap();
    file
}

fn pages(parts: &[std::ops::Range<u64>]) -> Vec<std::ops::Range<u64>> {
    parts.iter().map(|part| part.start / PAGE..part.end / PAGE).collect()
}

#[test]
fn what_was_touched_is_known_and_asking_touches_nothing() {
    for backing in [Backing::Anonymous, Backing::Memfd] {
        let layout = Layout::new(4 * GIB, 40).unwrap();
        let ram = GuestRam::new(&layout, &RamConfig { backing, huge_pages: HugePages::Never }).unwrap();
        assert_eq!(ram.populated(), [], "{backing:?}");
        let view = ram.view().memory();
        for page in [0, 1, 5, 3 * GIB / PAGE - 1, 4 * GIB / PAGE, 4 * GIB / PAGE + 9000] {
            view.write_obj(7_u64, GuestAddress(page * PAGE)).unwrap();
        }
        let high = 4 * GIB / PAGE;
        let expected =
            [0..2, 5..6, 3 * GIB / PAGE - 1..3 * GIB / PAGE, high..high + 1, high + 9000..high + 9001];
        assert_eq!(pages(&ram.populated()), expected, "{backing:?}");
        ram.discard(PAGE..6 * PAGE).unwrap();
        assert_eq!(pages(&ram.populated())[0], 0..1, "{backing:?}");
    }
}

#[test]
fn ram_begins_with_a_files_content_and_leaves_it_alone() {
    for backing in [Backing::Anonymous, Backing::Memfd] {
        let layout = Layout::new(16 * PAGE, 40).unwrap();
        let content = file(16 * PAGE, &[9; 3 * PAGE as usize]);
        let config = RamConfig { backing, huge_pages: HugePages::Never };
        let ram = GuestRam::from_file(&layout, &config, content.try_clone().unwrap()).unwrap();
        assert_eq!(pages(&ram.populated()), std::slice::from_ref(&(0..3)), "{backing:?}");
        let view = ram.view().memory();
        let read = |page: u64| view.read_obj::<u8>(GuestAddress(page * PAGE)).unwrap();
        assert_eq!((read(0), read(2), read(3)), (9, 9, 0));
        view.write_obj(5_u8, GuestAddress(PAGE)).unwrap();
        view.write_obj(6_u8, GuestAddress(8 * PAGE)).unwrap();
        assert!(pages(&ram.populated()).iter().any(|part| part.contains(&8)), "{backing:?}");
        ram.discard(0..PAGE).unwrap();
        assert_eq!((read(0), read(1), read(2), read(8)), (0, 5, 9, 6), "{backing:?}");
        ram.discard_all().unwrap();
        assert_eq!((read(0), read(1), read(2), read(8)), (0, 0, 0, 0), "{backing:?}");
        let mut now = vec![0; 3 * PAGE as usize];
        std::os::unix::fs::FileExt::read_exact_at(&content, &mut now, 0).unwrap();
        assert!(now.iter().all(|b| *b == 9), "{backing:?}: the file is as it was");
        let after = std::os::unix::fs::MetadataExt::blocks(&content.metadata().unwrap());
        assert!(after * 512 >= 3 * PAGE, "{backing:?}: nor was it given holes");
    }
}

#[test]
fn a_file_of_another_length_is_refused() {
    let layout = Layout::new(16 * PAGE, 40).unwrap();
    for size in [0, 16 * PAGE - 1, 17 * PAGE] {
        let error = GuestRam::from_file(&layout, &RamConfig::default(), file(size, &[])).err().unwrap();
        let said = format!("guest memory: its file has {size} bytes, 65536 are wanted");
        assert_eq!(error.to_string(), said);
    }
}
