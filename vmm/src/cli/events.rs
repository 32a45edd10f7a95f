//! `drystone events`.

use super::machines::{CommandError, LOOK, choose, patiently};
use crate::client::{Client, ClientError};
use crate::events::Record;
use crate::registry::{Registry, VmId};
use std::io::{self, Write};

/// Prints what has happened to a machine and, if asked to, what happens from then on, until it ends.
pub(super) fn events(
    registry: &Registry,
    id: Option<&VmId>,
    follow: bool,
    json: bool,
    out: &mut impl Write,
) -> Result<(), CommandError> {
    let entry = choose(registry, id)?;
    let client = Client::new(&entry.socket, LOOK);
    let known = patiently(&entry, || client.events(0))?;
    let last = known.last().map_or(0, |record| record.seq);
    known.iter().try_for_each(|record| print(record, json, out))?;
    if !follow {
        return Ok(());
    }
    out.flush()?;
    let mut failed = None;
    let followed = client.follow(last, |record| {
        let printed = print(&record, json, out).and_then(|()| out.flush());
        failed = printed.err();
        failed.is_none()
    });
    match (followed, failed) {
        (_, Some(e)) => Err(e.into()),
        // It ended between the two looks, or its end cut off the last line.
        (Err(e), None) if e.is_absent() || matches!(e, ClientError::Protocol { .. }) => Ok(()),
        (done, None) => done.map_err(|cause| CommandError::Client { id: entry.id, cause }),
    }
}

/// One line: the time in seconds since 1970, the number, what, why; or the record as JSON.
fn print(record: &Record, json: bool, out: &mut impl Write) -> io::Result<()> {
    if json {
        serde_json::to_writer(&mut *out, record)?;
        return writeln!(out);
    }
    let (seconds, ms) = (record.unix_ms / 1000, record.unix_ms % 1000);
    // A terminal must not obey what a detail quotes.
    let line: String = record
        .to_string()
        .chars()
        .flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] })
        .collect();
    writeln!(out, "{seconds}.{ms:03} {line}")
}
