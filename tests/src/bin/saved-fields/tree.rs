//! The copy of the workspace, and the switches in it.

use crate::fields::{Field, Source};
use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Names the number of the field that is left out.
pub const SWITCH: &str = "SAVED_FIELD";
const SKIP: &str = "skip_serializing_if = \"";
/// In every library of the copy.
const MODULE: &str = r#"
#[doc(hidden)]
pub mod saved_fields {
    pub fn gone<const N: usize, T: ?Sized>(_: &T) -> bool {
        std::env::var("SAVED_FIELD").is_ok_and(|n| n.parse() == Ok(N))
    }
}
"#;

pub struct Tree {
    workspace: PathBuf,
    /// Where the copy is.
    root: PathBuf,
    /// What git knows of, from there.
    files: Vec<PathBuf>,
}

impl Tree {
    pub fn of_workspace() -> Result<Self, Box<dyn Error>> {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize()?;
        let mut git = Command::new("git");
        let list = git.current_dir(&workspace).args(["ls-files", "-coz", "--exclude-standard"]).output()?;
        if !list.status.success() {
            return Err(String::from_utf8_lossy(&list.stderr).into());
        }
        let names = String::from_utf8(list.stdout)?;
        let files = names.split_terminator('\0').map(PathBuf::from);
        let files = files.filter(|name| workspace.join(name).is_file()).collect();
        Ok(Self { root: workspace.join("target/saved-fields/tree"), workspace, files })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The sources of the workspace's libraries, without their tests.
    pub fn sources(&self) -> Result<Vec<Source>, Box<dyn Error>> {
        let mut sources = Vec::new();
        for library in self.libraries() {
            let (src, package) = (library.with_file_name(""), library.with_file_name("../Cargo.toml"));
            let manifest = fs::read_to_string(self.workspace.join(&package))?;
            let name = manifest.lines().find_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"'));
            let name = name.ok_or_else(|| format!("{}: no name", package.display()))?;
            for path in self.files.iter().filter(|path| path.starts_with(&src) && is_source(path)) {
                let text = fs::read_to_string(self.workspace.join(path))?;
                sources.push(Source { package: name.into(), path: path.clone(), text });
            }
        }
        Ok(sources)
    }

    fn libraries(&self) -> Vec<&PathBuf> {
        let ours = |path: &&PathBuf| path.starts_with("crates") || path.starts_with("vmm");
        self.files.iter().filter(ours).filter(|path| path.ends_with("src/lib.rs")).collect()
    }

    /// Writes the copy, with a switch at each field: the one with number n is gone while [`SWITCH`] says n. A file that is there and the
    /// same keeps its time, so that what was built stays built.
    pub fn write(&self, fields: &[Field]) -> Result<(), Box<dyn Error>> {
        let mut switches: BTreeMap<&Path, Vec<(&Field, String)>> = BTreeMap::new();
        for (number, field) in fields.iter().enumerate() {
            let switch = format!("crate::saved_fields::gone::<{number}, _>");
            switches.entry(&field.path).or_default().push((field, switch));
        }
        let libraries = self.libraries();
        for path in &self.files {
            let mut bytes = fs::read(self.workspace.join(path))?;
            if let Some(switches) = switches.get(path.as_path()) {
                bytes = switched(String::from_utf8(bytes)?, switches)?.into();
            }
            if libraries.contains(&path) {
                bytes.extend(MODULE.bytes());
            }
            let to = self.root.join(path);
            if !fs::read(&to).is_ok_and(|there| there == bytes) {
                fs::create_dir_all(to.with_file_name(""))?;
                fs::write(to, bytes)?;
            }
        }
        Ok(())
    }
}

fn is_source(path: &Path) -> bool {
    let tests = path.iter().any(|part| part == "tests" || part == "tests.rs");
    path.extension().is_some_and(|e| e == "rs") && !tests
}

fn switched(text: String, switches: &[(&Field, String)]) -> Result<String, &'static str> {
    let (mut lines, mut more): (Vec<_>, Vec<_>) = (text.lines().map(str::to_owned).collect(), Vec::new());
    for (field, switch) in switches {
        // A field that is left out under a condition has the switch beside that.
        let conditional = lines.iter().take(field.line).rposition(|line| line.contains(SKIP));
        if let Some(line) = conditional.filter(|line| *line + field.attributes >= field.line) {
            let of_type = lines.get(field.line).and_then(|line| line.split_once(": ")).ok_or("no type")?.1;
            let of_type = of_type.trim_end_matches(',').to_owned();
            let line = lines.get_mut(line).ok_or("a field is on no line")?;
            let (before, condition) = line.split_once(SKIP).ok_or("no condition")?;
            let (condition, after) = condition.split_once('"').ok_or("a condition without an end")?;
            let name = format!("{}_is_gone", field.name);
            more.push(format!(
                "fn {name}(value: &{of_type}) -> bool {{ {condition}(value) || {switch}(value) }}"
            ));
            *line = format!("{before}{SKIP}{name}\"{after}");
            continue;
        }
        let default = if field.has_default { "default, " } else { "" };
        let line = lines.get_mut(field.line).ok_or("a field is on no line")?;
        line.insert_str(0, &format!("#[serde({default}{SKIP}{switch}\")] "));
    }
    lines.extend(more);
    Ok(lines.join("\n") + "\n")
}
