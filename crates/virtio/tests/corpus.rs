//! Replays the fuzzers' corpus: seeds, and every input that ever broke something.
use drystone_testkit::fuzz;

#[test]
fn ring_corpus() {
    assert!(fuzz::replay("virtio_ring", fuzz::virtio_ring) > 0, "the corpus is empty");
}

#[test]
fn core_corpus() {
    assert!(fuzz::replay("virtio_core", fuzz::virtio_core) > 0, "the corpus is empty");
}

#[test]
fn mmio_corpus() {
    assert!(fuzz::replay("virtio_mmio", fuzz::virtio_mmio) > 0, "the corpus is empty");
}

#[test]
fn pci_corpus() {
    assert!(fuzz::replay("virtio_pci", fuzz::virtio_pci) > 0, "the corpus is empty");
}
