use super::inbox::{Event, Post};
use crate::console::Terminal;
use crate::log::Log;
use std::panic::{PanicHookInfo, set_hook, take_hook};
use std::sync::Arc;

type Hook = Arc<dyn Fn(&PanicHookInfo<'_>) + Send + Sync>;

/// While it lives, a panic on any thread gives the terminal back, is reported in one line, and ends the machine.
pub(super) struct PanicGuard {
    previous: Hook,
}

impl PanicGuard {
    pub fn install(terminal: Option<Terminal>, log: Log, post: Post) -> Self {
        let previous: Hook = take_hook().into();
        let (traced, wanted) = (previous.clone(), std::env::var_os("RUST_BACKTRACE").is_some());
        set_hook(Box::new(move |info| {
            terminal.iter().for_each(Terminal::restore);
            let at = info.location().map(|l| format!(" at {}:{}", l.file(), l.line())).unwrap_or_default();
            let payload = info.payload();
            let text = payload.downcast_ref::<&str>().copied();
            let what = text.or(payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("panic");
            let line = format!("internal error: {what}{at}");
            log.error(&line);
            eprintln!("drystone: {line}");
            if wanted {
                traced(info);
            }
            post.send(Event::Panic);
        }));
        Self { previous }
    }
}

impl Drop for PanicGuard {
    fn drop(&mut self) {
        // The hook cannot be changed from a thread that unwinds; then the process is about to end anyway.
        if !std::thread::panicking() {
            let previous = self.previous.clone();
            set_hook(Box::new(move |info| previous(info)));
        }
    }
}
