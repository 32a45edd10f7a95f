/// A formatted line to a `core::fmt::Write` that cannot fail.
macro_rules! say {
    ($out:expr) => { say!($out, "") };
    ($out:expr, $($args:tt)*) => {{
        let _ = core::fmt::Write::write_fmt($out, format_args!($($args)*));
        let _ = core::fmt::Write::write_str($out, "\n");
    }};
}
