use crate::bytes;

/// Physical memory.
pub trait Physical {
    /// Reads bytes, as of RAM.
    fn read(&self, at: u64, out: &mut [u8]);
    /// Reads one register of 32 bits, aligned.
    fn register(&self, at: u64) -> u32;

    /// A field of 32 bits.
    fn u32(&self, at: u64) -> u32 {
        let mut bytes = [0; 4];
        self.read(at, &mut bytes);
        bytes::u32_at(&bytes, 0)
    }
    /// A field of 64 bits.
    fn u64(&self, at: u64) -> u64 {
        let mut bytes = [0; 8];
        self.read(at, &mut bytes);
        bytes::u64_at(&bytes, 0)
    }
}
