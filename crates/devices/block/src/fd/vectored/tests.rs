use super::*;
use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryMmap, Permissions};

/// A host that never moves more than three bytes at once, nor more than a piece.
#[test]
fn a_host_that_moves_little_at_once_is_asked_until_all_is_done() {
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 0x1000)]).unwrap();
    let content: Vec<u8> = (1..=40).collect();
    let file = tempfile::tempfile().unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &content, 0).unwrap();
    let slices: Vec<_> = [(0, 10), (0x100, 0), (0x200, 1), (0x300, 8)]
        .into_iter()
        .flat_map(|(at, len)| {
            GuestMemory::get_slices(&memory, GuestAddress(at), len, Permissions::Write).unwrap()
        })
        .map(Result::unwrap)
        .collect();
    let moved = std::cell::Cell::new(0);
    let call = |iov: *const libc::iovec, count, at| {
        assert!(count > 0);
        // SAFETY: `iov` points to `count` pieces; the copy is a part of the first.
        let first = unsafe { *iov };
        let part = libc::iovec { iov_len: first.iov_len.min(3), ..first };
        // SAFETY: the piece is guest memory that is mapped.
        unsafe { libc::preadv(file.as_raw_fd(), &part, 1, at) }
    };
    transfer(5, &slices, call, |_, _, len| moved.set(moved.get() + len)).unwrap();
    let mut got = [0; 19];
    memory.read_slice(&mut got[..10], GuestAddress(0)).unwrap();
    memory.read_slice(&mut got[10..11], GuestAddress(0x200)).unwrap();
    memory.read_slice(&mut got[11..], GuestAddress(0x300)).unwrap();
    assert_eq!((got.as_slice(), moved.get()), (&content[5..24], 19));
}
