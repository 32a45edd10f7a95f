use super::{Header, OFFSET, Place, tables};
use crate::Cause;
use crate::bytes::{be32, be64, read, table};
use std::collections::BTreeSet;
use std::fs::File;
use std::ops::Range;

/// What part of the metadata is at a place of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Header,
    FirstLevel,
    RefcountTable,
    Refcounts,
    /// Second-level tables, and what nothing refers to yet.
    Other,
}

/// Where the metadata is that is found without reading all of it, kept up to date by looking at what is written.
#[derive(Debug)]
pub(crate) struct Layout {
    header: Header,
    /// Where each block of reference counts is, or zero.
    table: Vec<u64>,
    blocks: BTreeSet<u64>,
}

impl Layout {
    /// As it is in the file.
    pub fn read(file: &File, header: &Header) -> Result<Self, Cause> {
        let mut layout = Self { header: header.clone(), table: Vec::new(), blocks: BTreeSet::new() };
        layout.set_table(tables::refcount_table(file, header)?);
        Ok(layout)
    }

    /// That all metadata is counted: an allocation would hand it out otherwise. `l1` is the first-level table.
    pub fn check_counted(&self, file: &File, l1: &[u64]) -> Result<(), Cause> {
        let step = self.header.cluster() as usize;
        let ranges = [0..1, self.first_level(), self.refcount_table()];
        let mut places: Vec<u64> = ranges.into_iter().flat_map(|range| range.step_by(step)).collect();
        places.extend(l1.iter().map(|entry| entry & OFFSET).filter(|place| *place != 0));
        places.extend(&self.blocks);
        places.sort_unstable();
        let (mut block, mut counts) = (0, Vec::new());
        for at in places {
            let bad = || {
                Cause::damaged(format!(
                    "what is at {at:#x} is not counted as used: qemu-img check -r all repairs that"
                ))
            };
            let (from, place) = self.count_of(at).ok_or_else(bad)?;
            if block != from - place.at {
                block = from - place.at;
                counts = read(file, block, step).map_err(Cause::host("read reference counts"))?;
            }
            let first = usize::try_from(place.at).unwrap_or(usize::MAX);
            let mut count = counts.get(first..).and_then(|c| c.get(..place.len)).ok_or_else(bad)?.to_vec();
            if place.raise(&mut count) {
                return Err(bad());
            }
        }
        Ok(())
    }

    fn set_table(&mut self, table: Vec<u64>) {
        self.blocks = table.iter().copied().filter(|entry| *entry != 0).collect();
        self.table = table;
    }

    /// Places that metadata of this kind, written at `offset`, makes something refer to that nothing referred to before.
    pub fn referred(&self, kind: Kind, offset: u64, bytes: &[u8]) -> Vec<u64> {
        match kind {
            Kind::FirstLevel | Kind::RefcountTable => {
                table(bytes).map(|entry| entry & OFFSET).filter(|place| *place != 0).collect()
            }
            Kind::Header if offset == 0 && be64(bytes, 40) != self.header.l1_offset => {
                let (start, len) = (be64(bytes, 40), u64::from(be32(bytes, 36)) * 8);
                (start..start.saturating_add(len)).step_by(self.header.cluster() as usize).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Where in the file the count is of the cluster at `place`, if it has one.
    pub fn count_of(&self, place: u64) -> Option<(u64, Place)> {
        let cluster = place / self.header.cluster();
        let reach = self.header.refcount_reach();
        let block = self.table.get(usize::try_from(cluster / reach).ok()?).filter(|block| **block != 0)?;
        let place = Place::of(cluster % reach, self.header.refcount_order);
        Some((block + place.at, place))
    }

    fn first_level(&self) -> Range<u64> {
        self.header.l1_offset..self.header.l1_offset.saturating_add(u64::from(self.header.l1_entries) * 8)
    }

    fn refcount_table(&self) -> Range<u64> {
        let start = self.header.refcount_offset;
        start..start.saturating_add(self.header.refcount_table_len())
    }

    /// What the first of these bytes that is known belongs to.
    pub fn kind(&self, offset: u64, len: u64) -> Kind {
        let (cluster, end) = (self.header.cluster(), offset.saturating_add(len));
        let meets = |range: Range<u64>| offset < range.end && range.start < end;
        // A block that begins before may reach into it.
        let from = offset.saturating_sub(cluster - 1);
        if offset < cluster {
            Kind::Header
        } else if meets(self.first_level()) {
            Kind::FirstLevel
        } else if meets(self.refcount_table()) {
            Kind::RefcountTable
        } else if from < end && self.blocks.range(from..end).next().is_some() {
            Kind::Refcounts
        } else {
            Kind::Other
        }
    }

    /// `bytes` are at `offset` now.
    pub fn written(&mut self, file: &File, offset: u64, bytes: &[u8]) {
        match self.kind(offset, bytes.len() as u64) {
            Kind::Header if offset == 0 && bytes.len() >= 64 => self.header_written(file, bytes),
            Kind::RefcountTable => self.table_written(offset, bytes),
            _ => {}
        }
    }

    fn table_written(&mut self, offset: u64, bytes: &[u8]) {
        let first = offset.saturating_sub(self.header.refcount_offset) / 8;
        let first = usize::try_from(first).unwrap_or(usize::MAX);
        for (entry, new) in self.table.iter_mut().skip(first).zip(table(bytes)) {
            *entry = new;
            if new != 0 {
                self.blocks.insert(new);
            }
        }
    }

    fn header_written(&mut self, file: &File, bytes: &[u8]) {
        let before = self.refcount_table();
        let header = &mut self.header;
        (header.size, header.l1_entries, header.l1_offset) =
            (be64(bytes, 24), be32(bytes, 36), be64(bytes, 40));
        (header.refcount_offset, header.refcount_clusters) = (be64(bytes, 48), be32(bytes, 56));
        if self.refcount_table() != before
            && let Ok(table) = tables::refcount_table(file, &self.header)
        {
            self.set_table(table);
        }
    }
}
