//! PVH's start info (Xen's public/arch-x86/hvm/start_info.h).

use crate::memory::Range;
use crate::physical::Physical;

const MAGIC: u32 = 0x336e_c578;
/// No honest machine has more ranges.
const MAX_RANGES: u32 = 512;

/// What the VMM tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StartInfo {
    pub cmdline: u64,
    pub rsdp: u64,
    pub modules: u32,
    pub module_list: u64,
    pub map: u64,
    pub map_len: u32,
}

impl StartInfo {
    /// Reads what lies at `at`; nothing if that is no start info. Version 0 has no memory map.
    pub fn read(memory: &dyn Physical, at: u64) -> Option<Self> {
        let field = |offset| memory.u32(at + offset);
        let wide = |offset| memory.u64(at + offset);
        let has_map = field(4) >= 1;
        (field(0) == MAGIC).then(|| Self {
            cmdline: wide(24),
            rsdp: wide(32),
            modules: field(12),
            module_list: wide(16),
            map: if has_map { wide(40) } else { 0 },
            map_len: if has_map { field(48).min(MAX_RANGES) } else { 0 },
        })
    }

    /// The memory map, in its order.
    pub fn ranges<'a>(&self, memory: &'a dyn Physical) -> impl Iterator<Item = Range> + Clone + use<'a> {
        let map = self.map;
        (0..u64::from(self.map_len)).map(move |i| {
            let at = map + i * 24;
            Range { start: memory.u64(at), len: memory.u64(at + 8), kind: memory.u32(at + 16) }
        })
    }

    /// Where the initrd lies, and its length, if there is one.
    pub fn initrd(&self, memory: &dyn Physical) -> Option<(u64, u64)> {
        (self.modules > 0).then(|| (memory.u64(self.module_list), memory.u64(self.module_list + 8)))
    }
}
