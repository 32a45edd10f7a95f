//! How wide addresses are (leaf 0x8000_0008 EAX): physical in 7:0, linear in 15:8, a guest's physical ones in 23:16.

use super::bit::Bit;
use super::error::ModelError;
use super::feature::bit;
use super::table::has;
use drystone_hypervisor::Cpuid;

const LEAF: u32 = 0x8000_0008;
const FIVE_LEVELS: Bit = bit("la57");
/// Of a linear address in a page table of four levels.
const FOUR_LEVEL_BITS: u8 = 48;
/// Of a physical address on the first processors with PAE, and where the leaf is absent.
const LEAST: u8 = 36;

/// Makes physical addresses `physical` bits wide, if given, and linear ones as wide as paging reaches.
pub(super) fn limit(cpuid: &mut Cpuid, physical: Option<u8>) -> Result<(), ModelError> {
    let host = cpuid.physical_address_bits();
    let five_levels = has(cpuid, &FIVE_LEVELS);
    if let Some(asked) = physical.filter(|asked| !(LEAST..=host).contains(asked)) {
        return Err(ModelError::PhysicalBits { asked, least: LEAST, host });
    }
    let Some(leaf) = cpuid.get_mut(LEAF, 0) else { return Ok(()) };
    let [mut host, mut linear, mut guest, more] = leaf.eax.to_le_bytes();
    if let Some(bits) = physical {
        host = bits;
        guest = guest.min(bits);
    }
    if !five_levels {
        linear = linear.min(FOUR_LEVEL_BITS);
    }
    leaf.eax = u32::from_le_bytes([host, linear, guest, more]);
    Ok(())
}
