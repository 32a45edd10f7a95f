/// What the user asks of `drystone` itself with the escape key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Escape {
    /// `Ctrl-A x`: stop the machine and leave.
    Leave,
    /// `Ctrl-A p`: press the guest's power button.
    PowerButton,
    /// `Ctrl-A h`: say which keys there are.
    Help,
}

/// What a key turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// The beginning of an escape: what follows decides.
    Pending,
    /// A byte for the guest.
    Byte(u8),
    /// Two bytes for the guest: the escape key and one that means nothing after it.
    Bytes([u8; 2]),
    /// A wish.
    Escape(Escape),
}

/// Finds the escape key in what the user types.
#[derive(Debug, Default)]
pub struct EscapeParser {
    pending: bool,
}

impl EscapeParser {
    /// The escape key: Ctrl-A.
    pub const KEY: u8 = 0x01;
    /// The keys, for a person at a terminal in raw mode.
    pub const HELP: &str = "\r\n\
        Ctrl-A x   stop the machine and leave\r\n\
        Ctrl-A p   press the guest's power button\r\n\
        Ctrl-A a   send Ctrl-A to the guest (so does Ctrl-A Ctrl-A)\r\n\
        Ctrl-A h   this help (so does Ctrl-A ?)\r\n";

    /// Takes the next byte.
    pub fn feed(&mut self, byte: u8) -> Key {
        if !self.pending {
            self.pending = byte == Self::KEY;
            return if self.pending { Key::Pending } else { Key::Byte(byte) };
        }
        self.pending = false;
        match byte {
            b'x' | b'X' => Key::Escape(Escape::Leave),
            b'p' => Key::Escape(Escape::PowerButton),
            b'h' | b'?' => Key::Escape(Escape::Help),
            b'a' | Self::KEY => Key::Byte(Self::KEY),
            other => Key::Bytes([Self::KEY, other]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(bytes: &[u8]) -> Vec<Key> {
        let mut parser = EscapeParser::default();
        bytes.iter().map(|b| parser.feed(*b)).filter(|k| *k != Key::Pending).collect()
    }

    #[test]
    fn what_is_typed_passes_through() {
        assert_eq!(keys(b"ls\r\x03\xff"), b"ls\r\x03\xff".map(Key::Byte));
        assert_eq!(keys(b"xaph?"), b"xaph?".map(Key::Byte), "letters alone mean nothing");
    }

    #[test]
    fn wishes_follow_the_escape_key() {
        use Escape::*;
        for (typed, wish) in [
            (b"\x01x", Leave),
            (b"\x01X", Leave),
            (b"\x01p", PowerButton),
            (b"\x01h", Help),
            (b"\x01?", Help),
        ] {
            assert_eq!(keys(typed), [Key::Escape(wish)]);
        }
        assert_eq!(keys(b"a\x01xb"), [Key::Byte(b'a'), Key::Escape(Leave), Key::Byte(b'b')]);
    }

    #[test]
    fn the_escape_key_itself_can_be_sent() {
        assert_eq!(keys(b"\x01a"), [Key::Byte(1)]);
        assert_eq!(keys(b"\x01\x01x"), [Key::Byte(1), Key::Byte(b'x')], "the second one is no escape");
        assert_eq!(keys(b"\x01q"), [Key::Bytes([1, b'q'])]);
        assert_eq!(keys(b"\x01"), []);
    }
}
