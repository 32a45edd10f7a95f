use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// An Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

/// Not an address that a network device can have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MacError {
    /// Not six bytes.
    #[error("`{0}` is no Ethernet address: six bytes in hexadecimal are, as in 52:54:00:12:34:56")]
    Form(String),
    /// No device can have it.
    #[error("{0} is not the address of one device: {what}", what = if .0.is_zero() { "it is zero" } else { "it is a group's" })]
    NotOne(Mac),
}

impl Mac {
    /// To everybody.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// One that nobody was given by a manufacturer, out of six bytes that should differ from device to device.
    pub fn local(mut bytes: [u8; 6]) -> Self {
        let [first, ..] = &mut bytes;
        // Locally administered, of one device (IEEE 802, 8.4).
        *first = *first & !1 | 2;
        Self(bytes)
    }

    /// Of a group: multicast or broadcast.
    pub fn is_group(&self) -> bool {
        let [first, ..] = self.0;
        first & 1 != 0
    }

    fn is_zero(&self) -> bool {
        self.0 == [0; 6]
    }

    /// Checks that a device can have it.
    ///
    /// # Errors
    /// [`MacError::NotOne`].
    pub fn of_one(self) -> Result<Self, MacError> {
        if self.is_group() || self.is_zero() { Err(MacError::NotOne(self)) } else { Ok(self) }
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for Mac {
    type Err = MacError;

    /// Six bytes of two hexadecimal digits each, with colons or dashes between them.
    fn from_str(text: &str) -> Result<Self, MacError> {
        let form = || MacError::Form(text.to_owned());
        let mut bytes = [0; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut bytes {
            let part = parts.next().filter(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit()));
            *byte = part.and_then(|p| u8::from_str_radix(p, 16).ok()).ok_or_else(form)?;
        }
        if parts.next().is_some() {
            return Err(form());
        }
        Ok(Self(bytes))
    }
}

impl Serialize for Mac {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Mac {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(from)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written() {
        let mac: Mac = "52:54:00:aB-0c:ff".parse().unwrap();
        assert_eq!(mac, Mac([0x52, 0x54, 0, 0xab, 0x0c, 0xff]));
        assert_eq!(mac.to_string(), "52:54:00:ab:0c:ff");
        assert_eq!(serde_json::to_string(&mac).unwrap(), r#""52:54:00:ab:0c:ff""#);
        assert_eq!(serde_json::from_str::<Mac>(r#""52:54:00:ab:0c:ff""#).unwrap(), mac);
        for bad in ["", "52:54:00:ab:0c", "52:54:00:ab:0c:ff:00", "+1:54:00:ab:0c:ff", "5:54:00:ab:0c:ff0"] {
            assert_eq!(bad.parse::<Mac>(), Err(MacError::Form(bad.into())));
        }
        let group = "53:54:00:ab:0c:ff".parse::<Mac>().unwrap().of_one().unwrap_err().to_string();
        assert!(group.ends_with("it is a group's"), "{group}");
        assert!(
            "00:00:00:00:00:00".parse::<Mac>().unwrap().of_one().unwrap_err().to_string().ends_with("zero")
        );
        assert_eq!(Mac::local([0xff; 6]), Mac([0xfe, 0xff, 0xff, 0xff, 0xff, 0xff]));
        assert_eq!(Mac::local([0; 6]), Mac([2, 0, 0, 0, 0, 0]));
    }
}
