//! Model-specific registers that the hypervisor does not answer by itself: which ones, what they answer, and how often
//! a guest asked.
//!
//! An [`MsrPolicy`] is data. Its [`filter`](MsrPolicy::filter) is what the VM is made with; an [`MsrBank`] answers by the
//! same policy, and holds the values of registers that are emulated.

mod bank;
mod policy;
mod range;

pub use bank::{MsrBank, MsrBankState, MsrCount};
pub use policy::{MsrPolicy, MsrPolicyError, MsrRule};
pub use range::{MsrRange, MsrRangeError};

#[cfg(test)]
mod tests;
