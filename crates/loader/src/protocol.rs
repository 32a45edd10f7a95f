use std::fmt;

/// How a kernel is entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// The Linux 64-bit boot protocol: long mode, paging on, RSI points to the boot parameters, the "zero page"
    /// (kernel document arch/x86/boot).
    Linux,
    /// PVH: 32-bit protected mode, paging off, EBX points to `hvm_start_info` (Xen's documents misc/pvh and
    /// public/arch-x86/hvm/start_info.h). For any kernel with an ELF note that says where.
    Pvh,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Linux => "linux",
            Self::Pvh => "pvh",
        })
    }
}

/// Where a kernel can be entered. Made from untrusted headers, and checked: at least one is there, and what is there lies in
/// a part of the image that is in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entries {
    /// The 64-bit entry point, if the image is a Linux kernel or nothing speaks against it.
    pub linux: Option<u64>,
    /// The 32-bit entry point that the PVH note names.
    pub pvh: Option<u64>,
    /// The image says that it is Linux: it is a bzImage, or has one of Linux's ELF notes.
    pub says_linux: bool,
}

impl Entries {
    /// The protocol and the entry point for what the user wants, or for what suits the image best.
    ///
    /// A Linux kernel that takes both is entered in 64-bit mode: its PVH entry does the same after it has built page
    /// tables and translated `hvm_start_info` into boot parameters. An image with a PVH note that does not say it is
    /// Linux promises nothing about 64-bit mode.
    pub(crate) fn choose(&self, wanted: Option<Protocol>) -> Result<(Protocol, u64), &'static str> {
        let linux = self.linux.map(|entry| (Protocol::Linux, entry));
        let pvh = self.pvh.map(|entry| (Protocol::Pvh, entry));
        match wanted {
            Some(Protocol::Linux) => linux.ok_or("its entry point is in none of its segments"),
            Some(Protocol::Pvh) if self.says_linux && pvh.is_none() => {
                Err("it has no PVH entry: a bzImage never has one, a vmlinux if it was built with CONFIG_PVH")
            }
            Some(Protocol::Pvh) => {
                pvh.ok_or("it has no ELF note with a PVH entry (XEN_ELFNOTE_PHYS32_ENTRY)")
            }
            None if self.says_linux => linux.or(pvh).ok_or("it has no entry point"),
            None => pvh.or(linux).ok_or("it has no entry point"),
        }
    }
}
