use super::*;

fn layout(queues: usize, config_len: u32, vectors: usize) -> Option<Layout> {
    let description = Description { queue_sizes: vec![8; queues], config_len, ..Default::default() };
    Layout::new(&description, vectors)
}

#[test]
fn structures_do_not_meet_and_begin_where_they_may() {
    for (queues, config_len, vectors) in [
        (0, 0, 1),
        (1, 0, 2),
        (4, 60, 5),
        (64, 4096, 65),
        (3, 4097, 1),
        (65535, 0xffff, 2048),
        (2048, 1, 2048),
    ] {
        let l = layout(queues, config_len, vectors).unwrap();
        let (table, pending) = (u64::from(l.msix.table), u64::from(l.msix.pending));
        let mut all = vec![l.common(), l.isr(), l.notify(), table..table + 16 * vectors as u64];
        all.push(pending..pending + vectors.div_ceil(64) as u64 * 8);
        all.extend(l.device());
        all.sort_by_key(|r| r.start);
        assert!(all.windows(2).all(|w| w[0].end <= w[1].start), "{all:#x?}");
        assert!(all.last().unwrap().end <= l.size && l.size.is_power_of_two());
        assert!(l.notify().start.is_multiple_of(4096) && table.is_multiple_of(4096));
        assert_eq!(l.doorbells().count(), queues);
        for (queue, at) in l.doorbells() {
            assert!(l.notify().contains(&at) && at + 2 <= l.notify().end);
            assert_eq!(l.find(at), Some(Place::Doorbell(queue)));
            assert_eq!(l.find(at + 1), None);
        }
        assert_eq!(l.find(l.notify().end), None);
        assert_eq!(l.find(table), None, "the MSI-X structures are PCI's");
        assert_eq!(
            (l.find(0x40), l.find(0xff), l.find(0x101), l.find(l.size), l.find(u64::MAX)),
            Default::default()
        );
    }
    assert_eq!(layout(1, u32::MAX, 2), None);
    assert_eq!(layout(65536, 0, 2), None);
}

#[test]
fn only_what_lies_in_one_structure_is_held() {
    let l = layout(2, 8, 3).unwrap();
    assert!(l.holds(0, 4) && l.holds(0x3c, 4) && l.holds(0x100, 1) && l.holds(0x1004, 4));
    assert!(!l.holds(0x3e, 4) && !l.holds(0x40, 1) && !l.holds(0x100, 2) && !l.holds(0x1006, 4));
    assert!(!l.holds(l.msix.table.into(), 4) && !l.holds(u64::MAX, 4) && !l.holds(l.notify().end, 1));
}

#[test]
fn shared_memory_is_in_pages_one_after_the_other() {
    let regions = [SharedMemory { id: 7, len: 1 }, SharedMemory { id: 1, len: 0x1_0000_0000 }];
    let places = shared_memory(&regions).unwrap();
    assert_eq!(places[1], SharedPlace { id: 1, offset: 4096, len: 0x1_0000_0000 });
    assert_eq!(shared_size(&places), Some(0x2_0000_0000));
    assert_eq!((shared_memory(&[]), shared_size(&[])), (Some(vec![]), Some(0)));
    assert_eq!(shared_memory(&[SharedMemory { id: 0, len: u64::MAX }]), None);
}
