//! PIO and MMIO address maps, interrupts, and write effects for virtual devices.
