/// Assembles 64-bit x86 code of the few instructions that tiny guests need (Intel SDM volume 2). Addresses are
/// always in RDI, ports in DX.
#[derive(Debug, Clone, Default)]
pub struct Asm(Vec<u8>);

macro_rules! instructions {
    ($($(#[$doc:meta])* $name:ident = $bytes:expr;)*) => {
        $($(#[$doc])* #[must_use] pub fn $name(self) -> Self { self.raw(&$bytes) })*
    };
}

impl Asm {
    /// No code yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Any bytes.
    #[must_use]
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// The code so far.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Where the next instruction goes, counted from the first; a target for [`jmp`](Self::jmp).
    pub fn here(&self) -> usize {
        self.0.len()
    }

    fn with_imm(self, opcode: &[u8], value: &[u8]) -> Self {
        self.raw(opcode).raw(value)
    }

    /// MOV RAX, imm64
    #[must_use]
    pub fn mov_rax(self, value: u64) -> Self {
        self.with_imm(&[0x48, 0xb8], &value.to_le_bytes())
    }
    /// MOV RDI, imm64
    #[must_use]
    pub fn mov_rdi(self, value: u64) -> Self {
        self.with_imm(&[0x48, 0xbf], &value.to_le_bytes())
    }
    /// MOV RSI, imm64
    #[must_use]
    pub fn mov_rsi(self, value: u64) -> Self {
        self.with_imm(&[0x48, 0xbe], &value.to_le_bytes())
    }
    /// MOV ECX, imm32
    #[must_use]
    pub fn mov_ecx(self, value: u32) -> Self {
        self.with_imm(&[0xb9], &value.to_le_bytes())
    }
    /// MOV EDX, imm32
    #[must_use]
    pub fn mov_edx(self, value: u32) -> Self {
        self.with_imm(&[0xba], &value.to_le_bytes())
    }
    /// MOV AL, `value`; OUT `port`, AL
    #[must_use]
    pub fn out_imm(self, port: u8, value: u8) -> Self {
        self.raw(&[0xb0, value, 0xe6, port])
    }
    /// JMP to what [`here`](Self::here) said.
    #[must_use]
    pub fn jmp(self, target: usize) -> Self {
        let relative = target as i32 - (self.here() as i32 + 5);
        self.with_imm(&[0xe9], &relative.to_le_bytes())
    }
    /// JNZ to what [`here`](Self::here) said.
    #[must_use]
    pub fn jnz(self, target: usize) -> Self {
        let relative = target as i32 - (self.here() as i32 + 6);
        self.with_imm(&[0x0f, 0x85], &relative.to_le_bytes())
    }
    /// JNZ to where [`land`](Self::land) will say, and what that needs to know.
    #[must_use]
    pub fn jnz_forward(self) -> (Self, usize) {
        let code = self.with_imm(&[0x0f, 0x85], &[0; 4]);
        let hole = code.here();
        (code, hole)
    }
    /// The jump of `hole` leads here.
    #[must_use]
    pub fn land(mut self, hole: usize) -> Self {
        let relative = (self.here() - hole) as i32;
        self.0[hole - 4..hole].copy_from_slice(&relative.to_le_bytes());
        self
    }
    /// ADD RDI, imm32
    #[must_use]
    pub fn add_rdi(self, value: u32) -> Self {
        self.with_imm(&[0x48, 0x81, 0xc7], &value.to_le_bytes())
    }
    /// IN AL/AX/EAX, DX
    #[must_use]
    pub fn input(self, width: usize) -> Self {
        self.sized(width, 0xec, 0xed)
    }
    /// OUT DX, AL/AX/EAX
    #[must_use]
    pub fn output(self, width: usize) -> Self {
        self.sized(width, 0xee, 0xef)
    }
    /// REP INS: ECX items of `width` bytes from port DX to \[RDI\].
    #[must_use]
    pub fn rep_ins(self, width: usize) -> Self {
        self.raw(&[0xf3]).sized(width, 0x6c, 0x6d)
    }
    /// REP OUTS: ECX items of `width` bytes from \[RSI\] to port DX.
    #[must_use]
    pub fn rep_outs(self, width: usize) -> Self {
        self.raw(&[0xf3]).sized(width, 0x6e, 0x6f)
    }
    /// MOV AL/AX/EAX/RAX, \[RDI\]
    #[must_use]
    pub fn load(self, width: usize) -> Self {
        self.sized(width, 0x8a, 0x8b).raw(&[0x07])
    }
    /// MOV \[RDI\], AL/AX/EAX/RAX
    #[must_use]
    pub fn store(self, width: usize) -> Self {
        self.sized(width, 0x88, 0x89).raw(&[0x07])
    }
    fn sized(self, width: usize, byte: u8, wider: u8) -> Self {
        match width {
            1 => self.raw(&[byte]),
            2 => self.raw(&[0x66, wider]),
            4 => self.raw(&[wider]),
            8 => self.raw(&[0x48, wider]),
            _ => panic!("no operand has {width} bytes"),
        }
    }

    instructions! {
        /// HLT
        hlt = [0xf4];
        /// STI
        sti = [0xfb];
        /// CLI
        cli = [0xfa];
        /// IRETQ
        iretq = [0x48, 0xcf];
        /// RDMSR
        rdmsr = [0x0f, 0x32];
        /// WRMSR
        wrmsr = [0x0f, 0x30];
        /// PUSH RAX
        push_rax = [0x50];
        /// POP RAX
        pop_rax = [0x58];
        /// PUSH RDI
        push_rdi = [0x57];
        /// POP RDI
        pop_rdi = [0x5f];
        /// INC QWORD \[RDI\]
        inc_at_rdi = [0x48, 0xff, 0x07];
        /// MOV EAX, EBX
        mov_eax_ebx = [0x89, 0xd8];
        /// INC EBX
        inc_ebx = [0xff, 0xc3];
        /// DEC ECX
        dec_ecx = [0xff, 0xc9];
        /// MOV \[RDI\], RBX
        store_rbx = [0x48, 0x89, 0x1f];
        /// MOV \[RDI\], BL
        store_bl = [0x88, 0x1f];
        /// MOVDQA XMM0, \[RDI\]; RDI is a multiple of 16.
        load_xmm0 = [0x66, 0x0f, 0x6f, 0x07];
        /// MOVDQA \[RDI\], XMM0
        store_xmm0 = [0x66, 0x0f, 0x7f, 0x07];
    }
}
