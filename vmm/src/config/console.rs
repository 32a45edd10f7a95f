use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use std::path::PathBuf;
use std::str::FromStr;

/// Where the guest's serial console is. In a file: `console = "stdio"`, `"none"`, or `{ file = "boot.log" }`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConsoleConfig {
    /// Standard input and output of this process, in raw mode if that is a terminal.
    #[default]
    Stdio,
    /// Nowhere: output is dropped, there is no input.
    None,
    /// Output goes to a file, which is emptied first; there is no input.
    File(PathBuf),
}

impl FromStr for ConsoleConfig {
    type Err = Infallible;

    /// The flag's form: `stdio`, `none`, `file:PATH`, or just a PATH.
    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text {
            "stdio" => Self::Stdio,
            "none" => Self::None,
            path => Self::File(path.strip_prefix("file:").unwrap_or(path).into()),
        })
    }
}
