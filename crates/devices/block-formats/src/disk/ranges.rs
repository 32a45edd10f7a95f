//! Giving room back, and zeros.
use super::{Inner, Open};
use imago::ShallowMapping;
use std::io;
use std::sync::RwLockWriteGuard;

/// Bytes of the disk at a time, in which nobody else has the image.
const STEP: u64 = 256 << 20;
/// What is written where a format has no zeros of its own.
const ZEROS_LEN: usize = 64 << 10;
static ZEROS: [u8; ZEROS_LEN] = [0; ZEROS_LEN];

/// A piece of the disk, as the image has it.
struct Piece {
    len: u64,
    /// Where in the file its content is, and nobody else refers to it.
    room: Option<u64>,
    what: What,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    /// It is in this image.
    Here,
    /// It is in what stands behind this image.
    Behind,
    Zeros,
}

impl Inner {
    fn piece(&self, offset: u64, len: u64) -> io::Result<Piece> {
        let (mapping, len) = self.access.get_shallow_mapping(offset, len)?;
        let (what, room) = match mapping {
            ShallowMapping::Raw { offset, writable, .. } => (What::Here, Some(offset).filter(|_| writable)),
            ShallowMapping::Indirect { .. } => (What::Behind, None),
            ShallowMapping::Zero { .. } => (What::Zeros, None),
            ShallowMapping::Special { .. } => (What::Here, None),
            // The end, and whatever a later imago has.
            _ => return Err(io::ErrorKind::UnexpectedEof.into()),
        };
        // An empty one would be looked at for ever.
        if len == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(Piece { len, room, what }) }
    }

    /// Whether it can say of a cluster that it is zeros, whatever stands behind.
    fn has_zeros(&self) -> bool {
        self.qcow2.as_ref().is_some_and(|qcow2| qcow2.header.version >= 3)
    }

    fn stands_alone(&self) -> bool {
        self.qcow2.as_ref().is_some_and(|qcow2| qcow2.header.backing.is_none())
    }

    fn cluster(&self) -> u64 {
        self.qcow2.as_ref().map_or(1, |qcow2| qcow2.header.cluster())
    }

    /// The whole clusters in a range: those that can be given up.
    fn whole(&self, offset: u64, len: u64) -> Option<(u64, u64)> {
        let (cluster, end) = (self.cluster(), offset + len);
        let end = if end == self.access.size() { end } else { end - end % cluster };
        let start = offset.next_multiple_of(cluster);
        end.checked_sub(start).filter(|len| *len > 0).map(|len| (start, len))
    }

    fn write_data(&self, offset: u64, len: u64) -> io::Result<()> {
        let mut done = 0;
        while done < len {
            let now = (len - done).min(ZEROS_LEN as u64);
            let piece = ZEROS.get(..now as usize).unwrap_or(&ZEROS);
            self.access.write(piece, offset + done)?;
            done += now;
        }
        Ok(())
    }

    /// Gives up the clusters of this piece, and notes what is free in the file then.
    fn give_up(&mut self, offset: u64, piece: &Piece, free: &mut Vec<(u64, u64)>) -> io::Result<()> {
        let Some((start, len)) = self.whole(offset, piece.len) else { return Ok(()) };
        if self.has_zeros() {
            self.access.discard_to_zero(start, len)?;
        } else if self.stands_alone() {
            self.access.discard_to_backing(start, len)?;
        } else {
            // Version 2 would show what stands behind.
            return Ok(());
        }
        if let Some(room) = piece.room {
            free.push((room + (start - offset), len - len % self.cluster()));
        }
        Ok(())
    }
}

/// What is done with each piece of a range, the image being nobody else's for some of it at a time.
fn by_steps(
    open: &Open,
    offset: u64,
    len: u64,
    mut act: impl FnMut(&mut Inner, u64, &Piece, &mut Vec<(u64, u64)>) -> io::Result<()>,
) -> io::Result<()> {
    let (mut offset, mut left) = (offset, len);
    open.beside().check_bounds(offset, len)?;
    while left > 0 {
        // Up to a border, so that no cluster is in two of them.
        let now = (STEP - offset % STEP).min(left);
        step(open, open.alone(), (offset, now), &mut act)?;
        (offset, left) = (offset + now, left - now);
    }
    Ok(())
}

fn step(
    open: &Open,
    mut inner: RwLockWriteGuard<'_, Inner>,
    (mut offset, mut left): (u64, u64),
    act: &mut impl FnMut(&mut Inner, u64, &Piece, &mut Vec<(u64, u64)>) -> io::Result<()>,
) -> io::Result<()> {
    let mut free = Vec::new();
    let mut done = Ok(());
    while left > 0 && done.is_ok() {
        done = inner.piece(offset, left).and_then(|piece| {
            inner.make_tables_safe(offset, piece.len)?;
            act(&mut inner, offset, &piece, &mut free)?;
            (offset, left) = (offset + piece.len, left.saturating_sub(piece.len));
            Ok(())
        });
    }
    // Nobody has taken them yet for something else. What is read there is zeros, whether or not what referred to them is still in
    // the file when this process ends.
    free.iter().for_each(|(offset, len)| open.shared.punch(*offset, *len));
    done
}

pub(super) fn discard(open: &Open, offset: u64, len: u64) -> io::Result<()> {
    by_steps(open, offset, len, |inner, offset, piece, free| match piece.what {
        What::Here => inner.give_up(offset, piece, free),
        What::Behind | What::Zeros => Ok(()),
    })
}

pub(super) fn write_zeroes(open: &Open, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
    by_steps(open, offset, len, |inner, offset, piece, free| match piece.what {
        What::Zeros => Ok(()),
        _ if !inner.has_zeros() => inner.write_data(offset, piece.len),
        _ if unmap => {
            inner.access.discard_to_zero(offset, piece.len)?;
            if let Some((room, (start, len))) = piece.room.zip(inner.whole(offset, piece.len)) {
                free.push((room + (start - offset), len - len % inner.cluster()));
            }
            Ok(())
        }
        _ => inner.access.write_zeroes(offset, piece.len),
    })
}
