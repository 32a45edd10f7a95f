use std::fs::File;
use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;
use vm_memory::bitmap::BitmapSlice;
use vm_memory::{ReadVolatile, VolatileMemoryError, VolatileSlice};

/// No more room is made before it is known how much there is to read.
const READ_AT_ONCE: usize = 4096;

/// Where an image's bytes come from. A closed set, because `ReadVolatile` cannot be a trait object and a type
/// parameter would travel through everything that holds a kernel.
#[derive(Debug)]
pub(crate) enum Source {
    File(File),
    Bytes(Cursor<Arc<[u8]>>),
}

impl Source {
    /// Opens a regular file. Anything else is refused before it is opened: opening a FIFO would block.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let meta = std::fs::metadata(path)?;
        if meta.is_dir() {
            return Err(io::Error::new(io::ErrorKind::IsADirectory, "it is a directory"));
        }
        if !meta.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
        }
        File::open(path).map(Self::File)
    }

    pub(crate) fn bytes(bytes: Arc<[u8]>) -> Self {
        Self::Bytes(Cursor::new(bytes))
    }

    /// The length of this moment: a file may grow or shrink between two loads.
    pub(crate) fn len(&mut self) -> io::Result<u64> {
        self.seek(SeekFrom::End(0))
    }

    /// Up to `max` bytes from `offset`; fewer only at the end.
    pub(crate) fn read_at(&mut self, offset: u64, max: usize) -> io::Result<Vec<u8>> {
        self.seek(SeekFrom::Start(offset))?;
        let mut out = Vec::with_capacity(max.min(READ_AT_ONCE));
        self.by_ref().take(max as u64).read_to_end(&mut out)?;
        Ok(out)
    }
}

impl Read for Source {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::File(file) => file.read(buf),
            Self::Bytes(bytes) => bytes.read(buf),
        }
    }
}

impl Seek for Source {
    fn seek(&mut self, pos: SeekFrom) -> io::Result<u64> {
        match self {
            Self::File(file) => file.seek(pos),
            Self::Bytes(bytes) => bytes.seek(pos),
        }
    }
}

impl ReadVolatile for Source {
    fn read_volatile<B: BitmapSlice>(
        &mut self,
        buf: &mut VolatileSlice<'_, B>,
    ) -> Result<usize, VolatileMemoryError> {
        match self {
            Self::File(file) => file.read_volatile(buf),
            Self::Bytes(bytes) => bytes.read_volatile(buf),
        }
    }
}
