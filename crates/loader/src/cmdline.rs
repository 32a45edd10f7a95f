/// Why a command line cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CmdlineError {
    /// A character that would end the line or garble the guest's log.
    #[error("kernel command line: {what} at byte {at} of {part:?}")]
    Character {
        /// What is there, with an article.
        what: &'static str,
        /// Where it is in the part, in bytes from 0.
        at: usize,
        /// The part that was added.
        part: String,
    },
    /// Longer than the kernel takes.
    #[error(
        "kernel command line: {len} bytes are {} too many, this kernel takes {limit}", len.saturating_sub(*limit)
    )]
    TooLong {
        /// Its length in bytes.
        len: usize,
        /// The kernel's limit in bytes.
        limit: usize,
    },
}

/// A kernel command line, built from parts. What the user gives comes last, whenever it is added, so that it wins over
/// the VMM's defaults: for most parameters the kernel keeps the last value.
///
/// ```
/// # use drystone_loader::CommandLine;
/// let mut line = CommandLine::new();
/// line.push_user("quiet init=/bin/sh")?.push_default("console=ttyS0")?;
/// assert_eq!(line.render(2047)?, "console=ttyS0 quiet init=/bin/sh");
/// # Ok::<(), drystone_loader::CmdlineError>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CommandLine {
    defaults: Vec<String>,
    user: Vec<String>,
}

impl CommandLine {
    /// An empty line.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one or more of the VMM's own parameters, behind those already added. Space around them is dropped.
    ///
    /// # Errors
    /// [`CmdlineError::Character`] for a zero byte, a line break or another control character (a tab is allowed).
    pub fn push_default(&mut self, part: &str) -> Result<&mut Self, CmdlineError> {
        push(&mut self.defaults, part)?;
        Ok(self)
    }

    /// Adds what the user asks for, behind everything else.
    ///
    /// # Errors
    /// As [`push_default`](Self::push_default).
    pub fn push_user(&mut self, part: &str) -> Result<&mut Self, CmdlineError> {
        push(&mut self.user, part)?;
        Ok(self)
    }

    /// The line, its parts separated by one space.
    ///
    /// # Errors
    /// [`CmdlineError::TooLong`] for more than `limit` bytes: what [`KernelImage::cmdline_max`] says.
    ///
    /// [`KernelImage::cmdline_max`]: crate::KernelImage::cmdline_max
    pub fn render(&self, limit: usize) -> Result<String, CmdlineError> {
        let parts: Vec<_> = self.defaults.iter().chain(&self.user).map(String::as_str).collect();
        let line = parts.join(" ");
        if line.len() > limit {
            return Err(CmdlineError::TooLong { len: line.len(), limit });
        }
        Ok(line)
    }
}

fn push(parts: &mut Vec<String>, part: &str) -> Result<(), CmdlineError> {
    // Trimmed first, so that the line break at the end of a file does no harm.
    let part = part.trim();
    if let Some((at, c)) = part.char_indices().find(|(_, c)| c.is_control() && *c != '\t') {
        let what = match c {
            '\0' => "a zero byte",
            '\n' | '\r' => "a line break",
            _ => "a control character",
        };
        return Err(CmdlineError::Character { what, at, part: part.into() });
    }
    if !part.is_empty() {
        parts.push(part.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_users_part_comes_last_whenever_it_is_added() {
        let mut line = CommandLine::new();
        line.push_default("console=ttyS0").unwrap().push_user(" console=tty0  quiet\n").unwrap();
        line.push_default("panic=-1").unwrap().push_user("").unwrap().push_user("single").unwrap();
        assert_eq!(line.render(2047).unwrap(), "console=ttyS0 panic=-1 console=tty0  quiet single");
        assert_eq!(CommandLine::new().render(0).unwrap(), "");
    }

    #[test]
    fn the_limit_is_exact_and_the_error_says_by_how_much() {
        let mut line = CommandLine::new();
        line.push_default("abc").unwrap().push_user("defg").unwrap();
        assert_eq!(line.render(8).unwrap(), "abc defg");
        let error = line.render(5).unwrap_err();
        assert_eq!(error, CmdlineError::TooLong { len: 8, limit: 5 });
        assert_eq!(error.to_string(), "kernel command line: 8 bytes are 3 too many, this kernel takes 5");
    }

    #[test]
    fn what_would_end_the_line_is_refused() {
        for (part, what) in [
            ("a\0b", "a zero byte at byte 1"),
            ("ab\nc", "a line break at byte 2"),
            ("a\u{1b}[2J", "a control character at byte 1"),
        ] {
            let error = CommandLine::new().push_user(part).unwrap_err().to_string();
            assert!(error.starts_with(&format!("kernel command line: {what} of ")), "{error}");
            assert!(!error.contains(['\0', '\n', '\u{1b}']), "{error:?}");
        }
        assert_eq!(CommandLine::new().push_user("a\tb=ü").unwrap().render(9).unwrap(), "a\tb=ü");
    }
}
