use super::{Config, ConfigError, ConsoleConfig};
use serde::de::DeserializeOwned;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Nobody writes a larger one; a device or an endless pipe given by mistake must not fill memory.
const MAX_FILE: u64 = 1 << 20;

impl Config {
    /// Reads a TOML file. Paths in it are relative to the file. Nothing is checked beyond types and names: see
    /// [`Config::validate`].
    ///
    /// # Errors
    /// [`ConfigError::Read`] when it cannot be read, [`ConfigError::Parse`] with line, field and cause when it is not
    /// such a configuration.
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        let mut config: Self = read_toml(path)?;
        config.resolve(path.parent().unwrap_or(Path::new("")));
        Ok(config)
    }

    /// Reads TOML. An error is its line, counted from 1, and field and cause in one line.
    #[cfg(test)]
    pub(super) fn from_toml(text: &str) -> Result<Self, (usize, String)> {
        parse_toml(text)
    }

    /// This configuration as TOML, complete, as [`Config::from_file`] reads it.
    pub fn to_toml(&self) -> String {
        // Every value is a string, a number or a table of them, which TOML can hold; a path that is not UTF-8 is the
        // one thing that it cannot.
        toml::to_string(self).unwrap_or_else(|e| format!("# cannot be written as TOML: {e}\n"))
    }

    /// The same, with all paths absolute, so that another process in another directory understands it.
    ///
    /// # Errors
    /// When the current directory is gone.
    pub fn absolute(&self) -> std::io::Result<Self> {
        let mut config = self.clone();
        config.resolve(&std::env::current_dir()?);
        Ok(config)
    }

    fn resolve(&mut self, base: &Path) {
        let relative = |path: &mut PathBuf| {
            if !path.as_os_str().is_empty() {
                *path = base.join(&*path);
            }
        };
        self.kernel.as_mut().map(relative);
        self.initrd.as_mut().map(relative);
        self.log_file.as_mut().map(relative);
        self.cpu.resolve_paths(base);
        self.disk.iter_mut().for_each(|disk| relative(&mut disk.path));
        self.net.iter_mut().filter_map(|net| net.passt.as_mut()).for_each(relative);
        if let ConsoleConfig::File(path) = &mut self.console {
            relative(path);
        }
    }
}

/// Reads a TOML file.
pub(super) fn read_toml<T: DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    let text = read(path).map_err(|cause| ConfigError::Read { path: path.into(), cause })?;
    parse_toml(&text).map_err(|(line, what)| ConfigError::Parse { path: path.into(), line, what })
}

fn parse_toml<T: DeserializeOwned>(text: &str) -> Result<T, (usize, String)> {
    let parser = toml::Deserializer::parse(text).map_err(|e| located(text, &e, None))?;
    serde_path_to_error::deserialize(parser).map_err(|e| {
        let field = e.path().to_string();
        located(text, e.inner(), Some(field).filter(|f| f != "."))
    })
}

fn read(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    let read = std::fs::File::open(path)?.take(MAX_FILE + 1).read_to_string(&mut text)?;
    if read as u64 > MAX_FILE {
        return Err(std::io::Error::other("larger than 1 MiB: not a configuration"));
    }
    Ok(text)
}

fn located(text: &str, error: &toml::de::Error, field: Option<String>) -> (usize, String) {
    let start = error.span().map_or(0, |s| s.start);
    let line = 1 + text.bytes().take(start).filter(|b| *b == b'\n').count();
    // The message may go over several lines; the user gets one.
    let message = error.message().lines().map(str::trim).collect::<Vec<_>>().join("; ");
    // Which field is unknown is said already.
    let named = message.starts_with("unknown field");
    let field = field.map(|f| if named { parent(&f).to_owned() } else { f }).filter(|f| !f.is_empty());
    (line, field.map_or(message.clone(), |f| format!("{f}: {message}")))
}

fn parent(field: &str) -> &str {
    field.rsplit_once('.').map_or("", |(parent, _)| parent)
}
