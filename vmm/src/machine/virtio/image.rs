//! What a disk is kept in.
use super::Memory;
use crate::config::{DiskConfig, DiskFormat};
use crate::machine::MachineError;
use drystone_block::{Block, BlockConfig, BlockHandle, Host};
use drystone_observe::Log;
use drystone_state::{Component, ComponentError, NoState, Persist, PersistDyn, RestoreError, SaveError};
use std::sync::Arc;

/// Opens it in the format that it is said to have.
pub(super) fn open(
    disk: &DiskConfig,
    block: &BlockConfig,
    host: Host,
    log: &Log,
) -> Result<(Block<Memory>, BlockHandle), MachineError> {
    match disk.format {
        DiskFormat::Raw => {
            warn_of_content(block, log);
            Ok(Block::open(block, host)?)
        }
        DiskFormat::Qcow2 | DiskFormat::Vmdk => open_format(disk, block, host),
    }
}

#[cfg(feature = "formats")]
fn open_format(
    disk: &DiskConfig,
    block: &BlockConfig,
    host: Host,
) -> Result<(Block<Memory>, BlockHandle), MachineError> {
    use crate::config::DiskBacking;
    use drystone_block_formats::{Backing, Format, FormatDisk, FormatError};
    let format = if disk.format == DiskFormat::Vmdk { Format::Vmdk } else { Format::Qcow2 };
    let backing = match disk.backing {
        DiskBacking::Refuse => Backing::Refuse,
        DiskBacking::Allow => Backing::Allow,
    };
    let image = FormatDisk::open(block, format, backing).map_err(|error| match error {
        FormatError::File(error) => MachineError::Block(error),
        error => MachineError::Disk { name: block.id.clone(), what: error.to_string() },
    })?;
    Ok(Block::on_image(block, Arc::new(image), host)?)
}

/// The configuration has none, without.
#[cfg(not(feature = "formats"))]
fn open_format(
    disk: &DiskConfig,
    block: &BlockConfig,
    _: Host,
) -> Result<(Block<Memory>, BlockHandle), MachineError> {
    let what = disk.block(0).err().unwrap_or_default();
    Err(MachineError::Disk { name: block.id.clone(), what })
}

/// A raw image that looks like another: whoever forgot to say so finds no file system in it. It stays raw, as a guest may have written it.
#[cfg(feature = "formats")]
fn warn_of_content(block: &BlockConfig, log: &Log) {
    use crate::machine::DeviceId;
    if let Some(format) = drystone_block_formats::looks_like(&block.path) {
        log.named(&DeviceId::Disk(block.id.clone()).part()).warn(format_args!(
            "{} begins like {name}, and is used as raw, as no format= says otherwise: format={name}, if you made it so",
            block.path.display(),
            name = format.name()
        ));
    }
}

#[cfg(not(feature = "formats"))]
fn warn_of_content(_: &BlockConfig, _: &Log) {}

/// Sees to it that the files of a disk are whole when the machine stands still, if its format keeps something in memory.
pub(super) fn kept(disk: &DiskConfig, handle: &BlockHandle, log: &Log) -> Option<Arc<dyn Component>> {
    match disk.format {
        DiskFormat::Qcow2 if !disk.readonly => {
            Some(Arc::new(Kept { handle: handle.clone(), log: log.named("disk") }))
        }
        _ => None,
    }
}

/// Paused after the devices: nobody asks anything of the image then.
struct Kept {
    handle: BlockHandle,
    log: Log,
}

impl Component for Kept {
    /// A full disk, because of which a machine is often paused, does not keep it from that.
    fn pause(&self) -> Result<(), ComponentError> {
        if let Err(cause) = self.handle.settle() {
            self.log
                .warn(format_args!("an image's file is not whole while the machine stands still: {cause}"));
        }
        Ok(())
    }
    fn resume(&self) -> Result<(), ComponentError> {
        Ok(())
    }
    fn reset(&self) -> Result<(), ComponentError> {
        Ok(())
    }
    fn persist(&self) -> Option<&dyn PersistDyn> {
        Some(self)
    }
}

/// It is all in the file.
impl Persist for Kept {
    type State = NoState;

    fn save(&self) -> Result<NoState, SaveError> {
        let settled = self.handle.settle();
        settled.map_err(|cause| SaveError::Component(format!("its image: {cause}")))?;
        Ok(NoState {})
    }
    fn restore(&self, _: NoState) -> Result<(), RestoreError> {
        Ok(())
    }
}
