use super::{AcpiConfig, AcpiError, HEADER_LEN, OEM_ID, OEM_REVISION, OEM_TABLE_ID, dsdt, fadt, madt};
use crate::bytes::u32_at;
use crate::map;
use acpi_tables::Aml;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::xsdt::XSDT;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

/// Every table begins on such a boundary; the RSDP has to.
const ALIGN: usize = 16;

/// Finished tables, at the addresses of [`map::ACPI`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcpiTables {
    image: Vec<u8>,
    tables: Vec<(u64, usize)>,
    rsdp: u64,
}

impl AcpiTables {
    /// Makes RSDP, XSDT, FADT, MADT and DSDT.
    ///
    /// # Errors
    /// [`AcpiError`] for a machine that cannot be described, or whose description is larger than 124 KiB.
    pub fn build(config: &AcpiConfig<'_>) -> Result<Self, AcpiError> {
        let mut tables = Self { image: vec![0; Rsdp::len()], tables: Vec::new(), rsdp: map::ACPI.start };
        let dsdt = tables.append(&dsdt::dsdt(config.aml))?;
        let mut listed =
            vec![tables.append(&fadt::fadt(config, dsdt))?, tables.append(&madt::madt(config)?)?];
        for (index, further) in config.tables.iter().enumerate() {
            let mut bytes = Vec::new();
            further.to_aml_bytes(&mut bytes);
            check(&bytes).map_err(|cause| AcpiError::Table { index: index + 1, cause })?;
            listed.push(tables.append(&bytes)?);
        }
        let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
        listed.into_iter().for_each(|address| xsdt.add_entry(address));
        let mut bytes = Vec::new();
        xsdt.to_aml_bytes(&mut bytes);
        let xsdt = tables.append(&bytes)?;
        bytes.clear();
        Rsdp::new(OEM_ID, xsdt).to_aml_bytes(&mut bytes);
        tables.image.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
        Ok(tables)
    }

    /// Adds a table and returns its guest-physical address.
    fn append(&mut self, table: &[u8]) -> Result<u64, AcpiError> {
        let area = map::ACPI;
        let offset = self.image.len().next_multiple_of(ALIGN);
        let len = offset + table.len();
        if len as u64 > area.end - area.start {
            return Err(AcpiError::TooLarge { len, area });
        }
        self.image.resize(offset, 0);
        self.image.extend_from_slice(table);
        let address = area.start + offset as u64;
        self.tables.push((address, table.len()));
        Ok(address)
    }

    /// The guest-physical address of the RSDP.
    pub fn rsdp(&self) -> u64 {
        self.rsdp
    }

    /// All bytes, from the start of [`map::ACPI`] on.
    pub fn image(&self) -> &[u8] {
        &self.image
    }

    /// Every table but the RSDP, with its guest-physical address.
    pub fn tables(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.tables.iter().filter_map(|(address, len)| {
            let offset = usize::try_from(address - map::ACPI.start).ok()?;
            Some((*address, self.image.get(offset..offset + len)?))
        })
    }

    /// Writes them to guest memory and returns the address of the RSDP.
    ///
    /// # Errors
    /// [`AcpiError::Write`] when there is no RAM at [`map::ACPI`].
    pub fn write<M: GuestMemoryBackend>(&self, memory: &M) -> Result<u64, AcpiError> {
        memory
            .write_slice(&self.image, GuestAddress(map::ACPI.start))
            .map_err(|e| AcpiError::Write(e.to_string()))?;
        Ok(self.rsdp)
    }
}

/// Finds what is wrong with a table that the caller brought.
fn check(table: &[u8]) -> Result<(), &'static str> {
    if table.len() < HEADER_LEN as usize {
        return Err("it is shorter than a header");
    }
    if u32_at(table, 4).map(|len| len as usize) != Some(table.len()) {
        return Err("its length field is wrong");
    }
    if table.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)) != 0 {
        return Err("its checksum is wrong");
    }
    Ok(())
}
