//! A line as it is typed.

use core::fmt::Write;

const LEN: usize = 78;

/// What a byte did to it.
#[derive(Debug, PartialEq, Eq)]
pub enum Typed {
    /// Nothing to do yet.
    More,
    /// It is complete; [`Line::text`] has it.
    Done,
}

/// Up to 78 characters.
pub struct Line {
    bytes: [u8; LEN],
    len: usize,
    /// The last byte was a carriage return: a line feed that follows belongs to it.
    returned: bool,
}

impl Line {
    pub const fn new() -> Self {
        Self { bytes: [0; LEN], len: 0, returned: false }
    }

    /// What was typed, without space around it.
    pub fn text(&self) -> &str {
        let bytes = self.bytes.get(..self.len).unwrap_or_default();
        core::str::from_utf8(bytes).unwrap_or_default().trim()
    }

    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Takes a byte, and shows on `echo` what it does. Bytes that are no ASCII characters are dropped.
    pub fn take(&mut self, byte: u8, echo: &mut dyn Write) -> Typed {
        let after_return = core::mem::replace(&mut self.returned, byte == b'\r');
        match byte {
            b'\n' if after_return => return Typed::More,
            b'\r' | b'\n' => {
                say!(echo);
                return Typed::Done;
            }
            8 | 127 if self.len > 0 => self.erase(1, echo),
            // Ctrl-C and Ctrl-U.
            3 | 21 => self.erase(self.len, echo),
            b' '..=b'~' => {
                if let Some(place) = self.bytes.get_mut(self.len) {
                    *place = byte;
                    self.len += 1;
                    let _ = echo.write_char(char::from(byte));
                }
            }
            _ => (),
        }
        Typed::More
    }

    fn erase(&mut self, count: usize, echo: &mut dyn Write) {
        self.len = self.len.saturating_sub(count);
        for _ in 0..count {
            let _ = echo.write_str("\x08 \x08");
        }
    }
}
