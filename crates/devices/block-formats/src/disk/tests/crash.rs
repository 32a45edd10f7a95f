use super::watch::Event;
use super::{Dice, have_qemu, qemu, watched, write};
use crate::{Backing, Format, FormatDisk};
use drystone_block::Image;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

const SECTOR: usize = 512;

/// What a sector may hold: the byte that it is full of.
type Sector = u8;

/// A disk that was used, with all that its file was asked for.
struct Story {
    /// The file as it was at the beginning.
    begin: Vec<u8>,
    events: Vec<Event>,
    /// What the disk held, or may have held, by the number of events that there were: before each request, and what it did.
    steps: Vec<Step>,
}

struct Step {
    /// Events when it began, and when it had ended.
    from: usize,
    to: usize,
    what: What,
}

enum What {
    /// These sectors are full of that.
    Write(usize, usize, Sector),
    /// Or of zeros, or as they were.
    Discard(usize, usize),
    Flush,
}

impl Story {
    fn tell(path: &Path, sectors: usize, seed: u64, requests: usize) -> Self {
        let begin = std::fs::read(path).unwrap();
        let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
        let disk = FormatDisk::on_file(file, path, Format::Qcow2, false, Backing::Allow).unwrap();
        let mut dice = Dice(seed);
        let mut steps = Vec::new();
        for n in 0..requests {
            let from = watched(&disk, |watch| watch.len());
            // Near each other, so that they meet; and now and then far away, where there is no table yet.
            let reach = if dice.below(6) == 0 { sectors } else { sectors.min(100) } as u64;
            let first = dice.below(reach) as usize;
            let count = 1 + dice.below((sectors - first).min(40) as u64) as usize;
            let (at, len) = ((first * SECTOR) as u64, (count * SECTOR) as u64);
            let what = match dice.below(10) {
                0..=4 => {
                    let byte = 1 + (n % 255) as u8;
                    write(&disk, at, &mut vec![byte; count * SECTOR]).unwrap();
                    What::Write(first, count, byte)
                }
                5 => {
                    disk.write_zeroes(at, len, n.is_multiple_of(2)).unwrap();
                    What::Write(first, count, 0)
                }
                6..=7 => {
                    disk.discard(at, len).unwrap();
                    What::Discard(first, count)
                }
                8 => {
                    disk.flush().unwrap();
                    What::Flush
                }
                _ => {
                    disk.settle().unwrap();
                    continue;
                }
            };
            steps.push(Step { from, to: watched(&disk, |watch| watch.len()), what });
        }
        let events = watched(&disk, |watch| watch.events());
        Self { begin, events, steps }
    }

    /// A moment: any, or by turns one right after an entry of a table was written.
    fn moment(&self, n: u64, dice: &mut Dice) -> usize {
        let entry = |(at, event): (usize, &Event)| match event {
            Event::Write(_, bytes) if bytes.len() <= 8 => Some(at + 1),
            _ => None,
        };
        let entries: Vec<_> = self.events.iter().enumerate().filter_map(entry).collect();
        if n.is_multiple_of(2) && !entries.is_empty() {
            return entries[dice.below(entries.len() as u64) as usize];
        }
        dice.below(self.events.len() as u64 + 1) as usize
    }

    /// What each sector may hold when only what was asked for before event `end` has happened; the second says which were written to
    /// since they were flushed.
    fn may_hold(&self, sectors: &[Sector], end: usize) -> Vec<(BTreeSet<Sector>, bool)> {
        let mut may: Vec<_> = sectors.iter().map(|s| (BTreeSet::from([*s]), false)).collect();
        let mut now: Vec<BTreeSet<Sector>> = may.iter().map(|(values, _)| values.clone()).collect();
        for Step { to, what, .. } in self.steps.iter().take_while(|step| step.from < end) {
            match *what {
                What::Flush if *to <= end => {
                    may.iter_mut().zip(&now).for_each(|(may, now)| *may = (now.clone(), false));
                }
                What::Flush => {}
                What::Write(first, count, byte) => {
                    for at in first..first + count {
                        now[at] = BTreeSet::from([byte]);
                        may[at].0.insert(byte);
                        may[at].1 = true;
                    }
                }
                What::Discard(first, count) => {
                    for at in first..first + count {
                        now[at].insert(0);
                        may[at].0.insert(0);
                        may[at].1 = true;
                    }
                }
            }
        }
        may
    }

    /// The file as it is when of `events` these have happened.
    fn file<'a>(&'a self, events: impl Iterator<Item = &'a Event>) -> Vec<u8> {
        let mut file = self.begin.clone();
        for event in events {
            match event {
                Event::Write(at, bytes) => {
                    let end = *at as usize + bytes.len();
                    file.resize(file.len().max(end), 0);
                    file[*at as usize..end].copy_from_slice(bytes);
                }
                Event::Punch(at, len) => {
                    let end = file.len().min((at + len) as usize);
                    if let Some(hole) = file.get_mut(*at as usize..end) {
                        hole.fill(0);
                    }
                }
                Event::Sync => {}
            }
        }
        file
    }
}

/// What is in an image, and that nothing in it is damaged.
fn content(file: &[u8], path: &Path, context: &str) -> Vec<Sector> {
    std::fs::write(path, file).unwrap();
    let (code, said) = qemu(&format!("check -f qcow2 {}", path.display()));
    // 3: clusters that nobody uses, which is no damage.
    assert!(code == 0 || code == 3, "{context}: {said}");
    let raw = path.with_extension("raw");
    let (code, said) = qemu(&format!("convert -f qcow2 -O raw {} {}", path.display(), raw.display()));
    assert_eq!(code, 0, "{context}: {said}");
    let bytes = std::fs::read(raw).unwrap();
    bytes.chunks(SECTOR).map(|s| if s.iter().all(|b| *b == s[0]) { s[0] } else { 0xff }).collect()
}

struct Place {
    dir: tempfile::TempDir,
    disk: PathBuf,
    sectors: usize,
}

impl Place {
    /// An image of 3 MiB with something in its first 400 KiB.
    fn new(options: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (raw, disk) = (dir.path().join("from"), dir.path().join("disk.qcow2"));
        let sectors = (3 << 20) / SECTOR;
        let full: Vec<u8> = (0..800).flat_map(|n| vec![(n % 200) as u8 + 1; SECTOR]).collect();
        std::fs::write(&raw, full).unwrap();
        std::fs::OpenOptions::new().write(true).open(&raw).unwrap().set_len(3 << 20).unwrap();
        let (code, said) =
            qemu(&format!("convert -f raw -O qcow2 {options} {} {}", raw.display(), disk.display()));
        assert_eq!(code, 0, "{said}");
        if options.contains("refcount_bits=4") {
            let (code, said) = qemu(&format!("snapshot -c one {}", disk.display()));
            assert_eq!(code, 0, "{said}");
        }
        Self { dir, disk, sectors }
    }

    fn scratch(&self) -> PathBuf {
        self.dir.path().join("scratch.qcow2")
    }
}

const KINDS: [&str; 6] = [
    "-o cluster_size=512",
    "-o cluster_size=4096,refcount_bits=1",
    "-c -o cluster_size=4096",
    "-o cluster_size=4096,compat=0.10",
    "-o cluster_size=65536",
    // With a snapshot of its own, so that what is written is copied first.
    "-o cluster_size=16384,refcount_bits=4",
];

/// How many moments are looked at of each story.
fn moments() -> u64 {
    if std::env::var_os("DRYSTONE_FULL").is_some() {
        return 500;
    }
    eprintln!("NOT RUN: 500 moments each, instead of 12; DRYSTONE_FULL=1 runs it");
    12
}

#[test]
fn a_process_that_is_killed_leaves_what_was_flushed_and_no_damage() {
    if !have_qemu() {
        return;
    }
    for (seed, options) in (1..).zip(KINDS) {
        let place = Place::new(options);
        let before = content(&std::fs::read(&place.disk).unwrap(), &place.scratch(), options);
        let story = Story::tell(&place.disk, place.sectors, seed, 150);
        let mut dice = Dice(seed);
        for n in 0..moments() {
            let end = story.moment(n, &mut dice);
            let context = format!("{options}, after {end} of {} calls", story.events.len());
            let found = content(&story.file(story.events[..end].iter()), &place.scratch(), &context);
            let may = story.may_hold(&before, end);
            for (at, (found, (may, _))) in found.iter().zip(&may).enumerate() {
                assert!(may.contains(found), "{context}: sector {at} is {found}, and not of {may:?}");
            }
        }
    }
}

/// Of what was not synced each call may have come to the medium, or not.
#[test]
fn a_host_that_loses_its_power_leaves_what_was_flushed_and_no_damage() {
    if !have_qemu() {
        return;
    }
    for (seed, options) in (1..).zip(KINDS) {
        let place = Place::new(options);
        let before = content(&std::fs::read(&place.disk).unwrap(), &place.scratch(), options);
        let story = Story::tell(&place.disk, place.sectors, seed, 150);
        let mut dice = Dice(seed);
        for n in 0..moments() {
            let end = story.moment(n, &mut dice);
            let done = &story.events[..end];
            let synced = done.iter().rposition(|e| matches!(e, Event::Sync)).map_or(0, |at| at + 1);
            let (safe, open) = done.split_at(synced);
            let lucky: Vec<_> = open.iter().filter(|_| dice.below(2) == 0).collect();
            let context = format!("{options}, after {end} of {} calls, {synced} safe", story.events.len());
            let file = story.file(safe.iter().chain(lucky));
            let found = content(&file, &place.scratch(), &context);
            let may = story.may_hold(&before, end);
            for (at, (found, (may, touched))) in found.iter().zip(&may).enumerate() {
                assert!(
                    *touched || may.contains(found),
                    "{context}: sector {at} is {found}, and not of {may:?}"
                );
            }
        }
    }
}
