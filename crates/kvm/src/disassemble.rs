/// The first instruction in `bytes` in assembler notation, and its length; `None` if they do not hold a whole one.
#[cfg(feature = "disassemble")]
pub(crate) fn first_instruction(bytes: &[u8], rip: u64, bits: u32) -> Option<(String, usize)> {
    use iced_x86::{Decoder, DecoderOptions, Formatter, Instruction, NasmFormatter};
    let mut decoder = Decoder::with_ip(bits, bytes, rip, DecoderOptions::NONE);
    let mut instruction = Instruction::default();
    decoder.decode_out(&mut instruction);
    if instruction.is_invalid() {
        return None;
    }
    let mut text = String::new();
    NasmFormatter::new().format(&instruction, &mut text);
    Some((text, instruction.len()))
}

#[cfg(not(feature = "disassemble"))]
pub(crate) fn first_instruction(_bytes: &[u8], _rip: u64, _bits: u32) -> Option<(String, usize)> {
    None
}

#[cfg(all(test, feature = "disassemble"))]
mod tests {
    use super::first_instruction;

    #[test]
    fn the_mode_decides_what_bytes_mean() {
        let bytes = [0xf0, 0x48, 0x0f, 0xc7, 0x0e, 0x90];
        assert_eq!(first_instruction(&bytes, 0, 64), Some(("lock cmpxchg16b [rsi]".into(), 5)));
        assert_eq!(first_instruction(&bytes[1..], 0, 32), Some(("dec eax".into(), 1)));
        assert_eq!(first_instruction(&bytes[..3], 0, 64), None);
        assert_eq!(first_instruction(&[], 0, 16), None);
    }
}
