use super::*;
use crate::{BlockConfig, BlockError};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryMmap, Permissions};

fn config(path: &Path) -> BlockConfig {
    BlockConfig::new("root", path)
}

fn image(bytes: &[u8]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    file
}

#[test]
fn what_cannot_be_opened_is_said_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("x.img");
    let error = RawDisk::open(&config(&missing)).unwrap_err().to_string();
    assert_eq!(
        error,
        format!(
            "disk `root` at {}: cannot open for writing: No such file or directory (os error 2)",
            missing.display()
        )
    );
    let error = |path: &Path| RawDisk::open(&config(path)).unwrap_err().to_string();
    std::fs::write(&missing, [0; 511]).unwrap();
    assert!(error(&missing).ends_with("smaller than a sector of 512 bytes"));
    assert!(error(Path::new("/dev/null")).ends_with("neither a file nor a block device"));
    assert!(error(dir.path()).contains("cannot open for writing: Is a directory"));
    let pipe = dir.path().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    assert!(error(&pipe).ends_with("neither a file nor a block device"), "and it did not wait");
    let read_only = BlockConfig { read_only: true, ..config(Path::new("/nowhere")) };
    assert!(RawDisk::open(&read_only).unwrap_err().to_string().contains("cannot open for reading"));
}

#[test]
fn one_writer_or_many_readers() {
    let file = image(&[0; 512]);
    let write = config(file.path());
    let read = BlockConfig { read_only: true, ..write.clone() };
    let writer = RawDisk::open(&write).unwrap();
    assert!(matches!(RawDisk::open(&write), Err(BlockError::Locked { .. })));
    let refused = RawDisk::open(&read).unwrap_err().to_string();
    assert!(refused.ends_with("in use by another program or machine, which writes it"), "{refused}");
    drop(writer);
    let readers = [RawDisk::open(&read).unwrap(), RawDisk::open(&read).unwrap()];
    assert!(matches!(RawDisk::open(&write), Err(BlockError::Locked { .. })));
    drop(readers);
    assert!(RawDisk::open(&write).is_ok());
}

type Memory = GuestMemoryMmap<()>;

fn pieces<'a>(memory: &'a Memory, pieces: &[(u64, usize)]) -> Pieces<'a> {
    let of = |(at, len): &(u64, usize)| {
        GuestMemory::get_slices(memory, GuestAddress(*at), *len, Permissions::ReadWrite)
            .unwrap()
            .map(Result::unwrap)
    };
    Pieces::from_slices(&pieces.iter().flat_map(of).collect::<Vec<_>>())
}

/// Pieces of all sizes, more than one system call takes, over the border of two regions.
#[test]
fn every_byte_goes_where_it_belongs() {
    let memory = Memory::from_ranges(&[(GuestAddress(0), 0x8000), (GuestAddress(0x8000), 0x8000)]).unwrap();
    let content: Vec<u8> = (0..0x8000u32).map(|i| (i * 7 + i / 256) as u8).collect();
    let file = image(&content);
    let disk = RawDisk::open(&config(file.path())).unwrap();

    let mut wanted: Vec<_> = (0..2100).map(|i| (0x2000 + i * 3, (i % 4) as usize)).collect();
    wanted.push((0x7ff0, 0x20));
    disk.read(100, &mut pieces(&memory, &wanted)).unwrap();
    let mut from = 100;
    for (at, len) in &wanted {
        let mut got = vec![0; *len];
        memory.read_slice(&mut got, GuestAddress(*at)).unwrap();
        assert_eq!(got, content[from..from + len], "piece at {at:#x}");
        from += len;
    }
    assert_eq!(from, 100 + wanted.iter().map(|p| p.1).sum::<usize>());

    memory.write_slice(&[0xaa; 0x20], GuestAddress(0x7ff0)).unwrap();
    disk.write(0x1001, &mut pieces(&memory, &[(0x7ff0, 0x20)])).unwrap();
    let now = std::fs::read(file.path()).unwrap();
    assert_eq!(now[0x1001..0x1021], [0xaa; 0x20]);
    assert_eq!((&now[..0x1001], &now[0x1021..]), (&content[..0x1001], &content[0x1021..]));
    disk.flush().unwrap();
}

#[test]
fn past_the_end_is_an_error() {
    let memory = Memory::from_ranges(&[(GuestAddress(0), 0x2000)]).unwrap();
    let file = image(&[7; 1024]);
    let disk = RawDisk::open(&config(file.path())).unwrap();
    let error = disk.read(512, &mut pieces(&memory, &[(0, 1024)])).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    assert!(disk.read(u64::MAX, &mut pieces(&memory, &[(0, 1)])).is_err());
}

#[test]
fn a_disk_that_was_closed_fails_and_its_file_is_free() {
    let memory = Memory::from_ranges(&[(GuestAddress(0), 0x2000)]).unwrap();
    let file = image(&[7; 1024]);
    let disk = RawDisk::open(&config(file.path())).unwrap();
    disk.close();
    disk.close();
    let sector = [(0, 512)];
    for failed in [
        disk.read(0, &mut pieces(&memory, &sector)),
        disk.write(0, &mut pieces(&memory, &sector)),
        disk.flush(),
        disk.discard(0, 512),
        disk.write_zeroes(0, 512, true),
        disk.size().map(drop),
    ] {
        assert_eq!(failed.unwrap_err().to_string(), "the disk was pulled");
    }
    assert_eq!(disk.grow(2048).unwrap_err().to_string(), "the disk was pulled");
    assert!(RawDisk::open(&config(file.path())).is_ok());
}

#[test]
fn a_flush_that_failed_stays_failed() {
    let file = image(&[0; 512]);
    let disk = RawDisk::open(&config(file.path())).unwrap();
    disk.flush().unwrap();
    disk.lost.store(true, Ordering::Release);
    assert!(disk.flush().unwrap_err().to_string().contains("may be lost"));
}

#[test]
fn a_file_grows_and_nothing_of_it_is_cut_off() {
    let file = image(&[7; 1024]);
    let disk = RawDisk::open(&config(file.path())).unwrap();
    let refused = |bytes| disk.grow(bytes).unwrap_err().to_string();
    assert_eq!(refused(512), "it has 1024 bytes, and 512 are less: a guest's data is not cut off here");
    assert_eq!(refused(1025), "1025 bytes are not a multiple of 512");
    assert!(matches!(disk.grow(1 << 63), Err(GrowError::Host(_))));
    disk.grow(1024).unwrap();
    disk.grow(4096).unwrap();
    let content = std::fs::read(file.path()).unwrap();
    assert_eq!((content.len(), &content[..1024], &content[1024..]), (4096, &[7; 1024][..], &[0; 3072][..]));
    drop(disk);
    let reader = RawDisk::open(&BlockConfig { read_only: true, ..config(file.path()) }).unwrap();
    assert!(matches!(reader.grow(8192), Err(GrowError::ReadOnly)));
}

/// In a directory whose file system has holes, or none is on this machine.
fn places() -> Vec<tempfile::NamedTempFile> {
    let new = |dir: &str| tempfile::NamedTempFile::new_in(dir).ok();
    ["/dev/shm", env!("CARGO_MANIFEST_DIR"), "/tmp"].into_iter().filter_map(new).collect()
}

const CHUNK: u64 = 1 << 20;

/// tmpfs has holes and cannot mark ranges as zeros; others can both.
#[test]
fn ranges_become_holes_or_zeros_and_nothing_else_changes() {
    for file in places() {
        let old = vec![7; 4 * CHUNK as usize];
        std::fs::write(file.path(), &old).unwrap();
        let disk = RawDisk::open(&config(file.path())).unwrap();
        disk.flush().unwrap();
        let room = || file.as_file().metadata().unwrap().blocks() * 512;
        let before = room();
        disk.discard(CHUNK, CHUNK).unwrap();
        let discarded = room();
        disk.write_zeroes(2 * CHUNK, CHUNK, false).unwrap();
        let kept = room();
        disk.write_zeroes(3 * CHUNK - 512, 1024, false).unwrap();
        disk.write_zeroes(2 * CHUNK, CHUNK, true).unwrap();
        let unmapped = room();
        let mut wanted = old;
        wanted[CHUNK as usize..3 * CHUNK as usize + 512].fill(0);
        assert!(std::fs::read(file.path()).unwrap() == wanted, "{}", file.path().display());
        if !disk.ranges.can(Means::Hole) {
            eprintln!("NOT RUN: {} is where files have no holes", file.path().display());
            continue;
        }
        // Of blocks as large as the host's, up to some for its own bookkeeping.
        let near = |a: u64, b: u64| a.abs_diff(b) <= 64 << 10;
        assert!(near(discarded, before - CHUNK), "{before} {discarded}");
        assert!(near(kept, discarded), "what is not unmapped keeps its room: {discarded} {kept}");
        assert!(near(unmapped, kept - CHUNK), "{kept} {unmapped}");
    }
}

/// Whatever a host refuses, zeros are zeros in the end.
#[test]
fn a_host_that_refuses_is_not_asked_again_and_has_zeros_written() {
    let file = image(&[7; 64 << 10]);
    let disk = RawDisk::open(&config(file.path())).unwrap();
    let refused = io::Error::from_raw_os_error(libc::EOPNOTSUPP);
    let ranges = &disk.ranges;
    assert_eq!((ranges.best(true), ranges.best(false)), (Means::Hole, Means::Mark));
    // This range, of a block device with larger blocks.
    assert_eq!(ranges.after(Means::Hole, &io::Error::from_raw_os_error(libc::EINVAL)), Some(Means::Mark));
    assert_eq!(ranges.best(true), Means::Hole);
    // An error, and not a refusal.
    assert_eq!(ranges.after(Means::Hole, &io::Error::from_raw_os_error(libc::EIO)), None);
    assert_eq!(ranges.after(Means::Hole, &refused), Some(Means::Mark));
    assert_eq!(ranges.best(true), Means::Mark);
    disk.discard(0, 4096).unwrap();
    assert_eq!(std::fs::read(file.path()).unwrap(), [7; 64 << 10], "a hint");
    assert_eq!(ranges.after(Means::Mark, &refused), Some(Means::Write));
    assert_eq!((ranges.best(true), ranges.best(false)), (Means::Write, Means::Write));
    disk.write_zeroes(512, 40 << 10, true).unwrap();
    let now = std::fs::read(file.path()).unwrap();
    assert!(now[512..][..40 << 10].iter().all(|b| *b == 0));
    assert_eq!((&now[..512], &now[512 + (40 << 10)..]), (&[7; 512][..], &[7; (24 << 10) - 512][..]));
    assert_eq!(now.len(), 64 << 10);
}

/// Aligned requests leave out the host's cache, others do not, and both see the same disk.
#[test]
fn direct_and_other_requests_see_one_disk() {
    let dir = tempfile::NamedTempFile::new_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    std::fs::write(dir.path(), [7; 64 << 10]).unwrap();
    let config = BlockConfig { direct: true, ..config(dir.path()) };
    let disk = match RawDisk::open(&config) {
        Ok(disk) => disk,
        Err(e) => return eprintln!("NOT RUN: this file system has no direct I/O: {e}"),
    };
    assert!(disk.direct() && matches!(RawDisk::open(&config), Err(BlockError::Locked { .. })));
    let memory = Memory::from_ranges(&[(GuestAddress(0), 0x2_0000)]).unwrap();
    let (aligned, odd) = ([(0x1000, 0x2000), (0x4000, 0x1000)], [(0x8001, 0x2fff), (0xc000, 1)]);
    assert!(
        disk.is_direct(0x3000, &pieces(&memory, &aligned)) && !disk.is_direct(0x3000, &pieces(&memory, &odd))
    );
    assert!(!disk.is_direct(0x3001, &pieces(&memory, &aligned)));
    for (n, (write, read)) in
        [(&aligned, &odd), (&odd, &aligned), (&aligned, &aligned)].into_iter().enumerate()
    {
        let content: Vec<u8> = (0..0x3000).map(|i| (i / 7 + n) as u8).collect();
        let mut rest = &content[..];
        for (at, len) in write {
            memory.write_slice(&rest[..*len], GuestAddress(*at)).unwrap();
            rest = &rest[*len..];
        }
        disk.write(0x3000, &mut pieces(&memory, write)).unwrap();
        disk.read(0x3000, &mut pieces(&memory, read)).unwrap();
        let mut got = Vec::new();
        for (at, len) in read {
            let mut piece = vec![0; *len];
            memory.read_slice(&mut piece, GuestAddress(*at)).unwrap();
            got.extend(piece);
        }
        assert!(got == content, "{n}");
    }
}
