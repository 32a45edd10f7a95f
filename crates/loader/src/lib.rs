//! Puts Linux into guest memory: bzImage, ELF, initrd, command line, boot parameters, ACPI.
