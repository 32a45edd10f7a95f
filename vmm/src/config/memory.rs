use super::size::{ByteSize, SizeVisitor};
use clap::ValueEnum;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use std::fmt;

/// Guest RAM. In a file either a table, or the size alone: `memory = "512M"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct MemoryConfig {
    /// How much; a multiple of 4096 bytes. 512 MiB unless given.
    pub size: ByteSize,
    /// What it is made of.
    pub backing: MemoryBacking,
    /// Advice to the host on huge pages.
    pub huge_pages: HugePages,
}

/// What host memory guest RAM is made of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum MemoryBacking {
    /// Private anonymous memory.
    #[default]
    Anonymous,
    /// A sealed memory file, which other processes can map.
    Memfd,
}

/// Advice to the host on transparent huge pages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum HugePages {
    /// As the host is set.
    #[default]
    Host,
    /// Use them where possible.
    Always,
    /// Do not use them.
    Never,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self::of(ByteSize(512 << 20))
    }
}

impl MemoryConfig {
    /// `size` of RAM, everything else as it is unless said otherwise.
    pub fn of(size: ByteSize) -> Self {
        Self { size, backing: MemoryBacking::default(), huge_pages: HugePages::default() }
    }

    /// How `drystone-memory` is told to make it.
    pub fn ram(&self) -> drystone_memory::RamConfig {
        drystone_memory::RamConfig {
            backing: match self.backing {
                MemoryBacking::Anonymous => drystone_memory::Backing::Anonymous,
                MemoryBacking::Memfd => drystone_memory::Backing::Memfd,
            },
            huge_pages: match self.huge_pages {
                HugePages::Host => drystone_memory::HugePages::Host,
                HugePages::Always => drystone_memory::HugePages::Always,
                HugePages::Never => drystone_memory::HugePages::Never,
            },
        }
    }
}

/// The table form.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Table {
    size: ByteSize,
    backing: MemoryBacking,
    huge_pages: HugePages,
}

impl Default for Table {
    fn default() -> Self {
        let MemoryConfig { size, backing, huge_pages } = MemoryConfig::default();
        Self { size, backing, huge_pages }
    }
}

struct SizeOrTable;

impl<'de> Visitor<'de> for SizeOrTable {
    type Value = MemoryConfig;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a size such as \"512M\", or a table with size, backing and huge_pages")
    }
    fn visit_str<E: Error>(self, text: &str) -> Result<MemoryConfig, E> {
        SizeVisitor.visit_str(text).map(MemoryConfig::of)
    }
    fn visit_u64<E: Error>(self, bytes: u64) -> Result<MemoryConfig, E> {
        SizeVisitor.visit_u64(bytes).map(MemoryConfig::of)
    }
    fn visit_i64<E: Error>(self, bytes: i64) -> Result<MemoryConfig, E> {
        SizeVisitor.visit_i64(bytes).map(MemoryConfig::of)
    }
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<MemoryConfig, A::Error> {
        let Table { size, backing, huge_pages } = Table::deserialize(MapAccessDeserializer::new(map))?;
        Ok(MemoryConfig { size, backing, huge_pages })
    }
}

impl<'de> Deserialize<'de> for MemoryConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SizeOrTable)
    }
}
