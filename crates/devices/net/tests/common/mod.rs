//! What the tests of the device share.
#![allow(dead_code)]
use drystone_net::{FRAME_HEADER, Mac, NetConfig, Offloads};
use drystone_testkit::net::{CTRL_VQ, MRG_RXBUF, NetMachine, RINGS, STATUS};

pub const MAC: Mac = Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56]);
pub const OTHER: Mac = Mac([0x52, 0x54, 0, 0, 0, 1]);
pub const ALL: u64 = !0;
/// What a simple driver takes.
pub const SIMPLE: u64 = MRG_RXBUF | STATUS | CTRL_VQ;

pub fn config() -> NetConfig {
    NetConfig::new("net0", MAC)
}

/// Everything that a back end may do.
pub fn offloads() -> Offloads {
    Offloads::ALL
}

pub fn machine(features: u64) -> NetMachine {
    NetMachine::new(config(), offloads(), features | RINGS)
}

/// An Ethernet frame of `len` bytes, without header, whose content tells which it is.
pub fn frame(to: Mac, from: Mac, len: usize, seed: u8) -> Vec<u8> {
    let mut frame: Vec<u8> = (0..len).map(|i| (i as u8).wrapping_mul(7).wrapping_add(seed)).collect();
    frame[..6].copy_from_slice(&to.0);
    frame[6..12].copy_from_slice(&from.0);
    frame[12..14].copy_from_slice(&[0x08, 0]);
    frame
}

/// With a header of zeros, as it is on a cable.
pub fn with_header(frame: &[u8]) -> Vec<u8> {
    let mut all = vec![0; FRAME_HEADER];
    all.extend(frame);
    all
}
