#![doc = include_str!("../README.md")]
#![deny(unsafe_code)]

mod apt;
mod assets;
mod build;
mod cancel;
mod collect;
pub mod cpio;
mod error;
mod executor;
mod guest;
mod image;
pub mod initramfs;
mod job;
mod kernel;
mod lab;
mod machine;
mod modules;
mod progress;
mod pump;
mod reference;
mod rundir;
mod sink;
mod spawn;
mod store;
mod terminal;
mod tools;
mod watch;
mod wire;

pub use build::{build_binary, build_profile, build_visibly};
pub use cancel::Cancel;
pub use error::Error;
pub use guest::{agent, is_agent};
pub use job::{Job, Outcome};
pub use kernel::{KernelError, KernelImages, Version, extract_vmlinux};
pub use lab::{Lab, Mode, explain_choice};
pub use progress::Progress;
pub use reference::Reference;
pub use store::Store;
pub use terminal::terminal_size;
