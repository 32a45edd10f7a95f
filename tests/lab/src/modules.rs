//! Which kernel modules to load, and in which order: read from the modules themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use elf::ElfBytes;
use elf::endian::LittleEndian;

use crate::kernel::{KernelError, read_module};

/// A module in load order: its name, with underscores, and its bytes, unpacked.
pub(crate) type Loaded = (String, Vec<u8>);

/// Finds `wanted` and everything they depend on below a modules directory; dependencies come first.
///
/// What is built into the kernel is left out in silence. A name that is neither is an error.
pub(crate) fn in_load_order(directory: &Path, wanted: &[&str]) -> Result<Vec<Loaded>, KernelError> {
    let mut search = Search {
        files: BTreeMap::new(),
        builtin: builtin(directory),
        done: BTreeSet::new(),
        order: Vec::new(),
        directory,
    };
    collect(directory, &mut search.files, 0);
    for name in wanted {
        search.add(&normal(name), Need::Required)?;
    }
    Ok(search.order)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    Required,
    /// A hint that may name a module that this kernel does not have.
    Optional,
}

struct Search<'a> {
    files: BTreeMap<String, PathBuf>,
    builtin: BTreeSet<String>,
    done: BTreeSet<String>,
    order: Vec<Loaded>,
    directory: &'a Path,
}

impl Search<'_> {
    fn add(&mut self, name: &str, need: Need) -> Result<(), KernelError> {
        // Marking before descending also ends a cycle, which no sound set of modules has.
        if self.builtin.contains(name) || !self.done.insert(name.to_string()) {
            return Ok(());
        }
        let Some(path) = self.files.get(name).cloned() else {
            if need == Need::Optional {
                return Ok(());
            }
            let what = format!("no module {name} there, and it is not built into the kernel");
            return Err(KernelError::Format { path: self.directory.into(), what });
        };
        let bytes = read_module(&path)?;
        let info = modinfo(&bytes).ok_or(KernelError::Format { path, what: "not a kernel module".into() })?;
        for soft in info.soft {
            self.add(&soft, Need::Optional)?;
        }
        for dependency in info.depends {
            self.add(&dependency, Need::Required)?;
        }
        self.order.push((name.to_string(), bytes));
        Ok(())
    }
}

/// Module names are compared with underscores, as the kernel does.
fn normal(name: &str) -> String {
    name.replace('-', "_")
}

fn stem(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let name = name.strip_suffix(".xz").unwrap_or(name);
    name.strip_suffix(".ko").map(normal)
}

fn collect(directory: &Path, files: &mut BTreeMap<String, PathBuf>, depth: u32) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            if depth < 16 {
                collect(&path, files, depth + 1);
            }
        } else if let Some(name) = stem(&path) {
            files.insert(name, path);
        }
    }
}

fn builtin(directory: &Path) -> BTreeSet<String> {
    let list = fs::read_to_string(directory.join("modules.builtin")).unwrap_or_default();
    list.lines().filter_map(|line| stem(Path::new(line))).collect()
}

/// What a module says about others in its `.modinfo` section.
#[derive(Debug, Default, PartialEq, Eq)]
struct Info {
    depends: Vec<String>,
    soft: Vec<String>,
}

/// Reads `depends=a,b` and `softdep=pre: a b post: c`; `None` when the bytes are not an ELF with such a section.
fn modinfo(module: &[u8]) -> Option<Info> {
    let file = ElfBytes::<LittleEndian>::minimal_parse(module).ok()?;
    let header = file.section_header_by_name(".modinfo").ok()??;
    let (section, _) = file.section_data(&header).ok()?;
    let mut info = Info::default();
    for field in section.split(|byte| *byte == 0).filter_map(|field| std::str::from_utf8(field).ok()) {
        if let Some(list) = field.strip_prefix("depends=") {
            info.depends.extend(list.split(',').filter(|name| !name.is_empty()).map(normal));
        } else if let Some(list) = field.strip_prefix("softdep=") {
            let before = list.split_once("pre:").map_or("", |(_, rest)| rest);
            let before = before.split("post:").next().unwrap_or("");
            info.soft.extend(before.split_whitespace().map(normal));
        }
    }
    Some(info)
}

#[cfg(test)]
mod tests;
