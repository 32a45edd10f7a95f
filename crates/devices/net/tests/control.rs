//! The control queue: what a driver can set, and what it cannot (virtio 1.3, 5.1.6.5).
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]
mod common;

use common::{ALL, MAC, OTHER, SIMPLE, config, frame, machine, offloads, with_header};
use drystone_net::{MAX_MACS, Mac, Offloads};
use drystone_testkit::net::{CTRL_VQ, MQ, NetMachine, RINGS};
use drystone_testkit::virtio::Transport;

const OK: u8 = 0;
const ERR: u8 = 1;
const GROUP: Mac = Mac([1, 0, 0x5e, 1, 2, 3]);

/// Which of these the guest gets.
fn gets<const N: usize>(m: &mut NetMachine, frames: [(Mac, Option<u16>); N]) -> [bool; N] {
    frames.map(|(to, vlan)| {
        let mut bytes = frame(to, OTHER, 64, 0);
        if let Some(vlan) = vlan {
            bytes[12..14].copy_from_slice(&[0x81, 0]);
            bytes[14..16].copy_from_slice(&vlan.to_be_bytes());
        }
        assert!(m.add(0, &[], &[100]));
        assert!(m.wire.send(0, &with_header(&bytes)));
        m.run();
        m.received(0).is_some()
    })
}

fn receives(m: &mut NetMachine) -> [bool; 4] {
    gets(m, [(MAC, None), (OTHER, None), (GROUP, None), (Mac::BROADCAST, None)])
}

fn table(macs: &[Mac]) -> Vec<u8> {
    let mut table = (macs.len() as u32).to_le_bytes().to_vec();
    macs.iter().for_each(|mac| table.extend(mac.0));
    table
}

#[test]
fn a_driver_chooses_what_it_receives() {
    let mut m = machine(ALL & !MQ);
    assert_eq!(receives(&mut m), [true; 4], "everything, before it says anything");
    assert_eq!(m.command(0, 0, &[0]), OK);
    assert_eq!(receives(&mut m), [true, false, false, true]);
    for (command, expected) in [
        (1, [true, false, true, true]),
        (2, [true, true, false, true]),
        (4, [false, false, false, true]),
        (5, [true, false, false, false]),
    ] {
        assert_eq!(m.command(0, command, &[1]), OK);
        assert_eq!(receives(&mut m), expected, "command {command}");
        assert_eq!(m.command(0, command, &[0]), OK);
    }
    let tables = [table(&[OTHER]), table(&[GROUP])].concat();
    assert_eq!(m.command(1, 0, &tables), OK);
    assert_eq!(receives(&mut m), [true; 4]);
    m.move_away();
    assert_eq!(receives(&mut m), [true; 4], "over a move too");
    assert_eq!(m.command(0, 3, &[1]), OK);
    assert_eq!(receives(&mut m), [true, true, false, true]);
    let many = vec![Mac([2, 2, 2, 2, 2, 2]); MAX_MACS + 1];
    assert_eq!(m.command(1, 0, &[table(&many), table(&[])].concat()), OK);
    assert_eq!(receives(&mut m), [true, true, false, true], "more than it can know: all");
    assert_eq!(m.command(1, 1, &OTHER.0), OK);
    assert_eq!((m.handle.mac(), m.command(1, 0, &[table(&[]), table(&[])].concat())), (OTHER, OK));
    assert_eq!(receives(&mut m), [false, true, false, true]);
    let mut mac = [0; 6];
    m.port.config_read(0, &mut mac);
    assert_eq!(Mac(mac), OTHER);
    assert!(m.handle.counters()[0].rx_filtered.get() > 3);
    // Another driver begins anew.
    m.bring_up(ALL & !MQ);
    assert_eq!((receives(&mut m), m.handle.mac()), ([true; 4], MAC));
}

#[test]
fn vlans_are_those_that_were_chosen() {
    let mut m = machine(ALL & !MQ);
    assert_eq!(m.command(0, 0, &[0]), OK);
    let frames = [(MAC, Some(5)), (MAC, Some(6)), (MAC, None)];
    assert_eq!(gets(&mut m, frames), [false, false, true]);
    assert_eq!(m.command(2, 0, &5u16.to_le_bytes()), OK);
    assert_eq!(gets(&mut m, frames), [true, false, true]);
    assert_eq!(m.command(2, 1, &5u16.to_le_bytes()), OK);
    assert_eq!(gets(&mut m, frames), [false, false, true]);
    assert_eq!(m.command(2, 0, &4096u16.to_le_bytes()), ERR);
}

#[test]
fn a_driver_without_filters_gets_everything() {
    let mut m = machine(SIMPLE);
    assert_eq!(m.command(0, 0, &[0]), ERR, "not negotiated");
    assert_eq!(receives(&mut m), [true; 4]);
    assert_eq!(gets(&mut m, [(MAC, Some(5))]), [true]);
}

#[test]
fn offloads_change_while_it_runs() {
    let mut m = machine(ALL & !MQ);
    assert_eq!(m.wire.offloads(), offloads(), "those that were negotiated");
    let (csum, tso4): (u64, u64) = (1 << 1, 1 << 7);
    assert_eq!(m.command(5, 0, &csum.to_le_bytes()), OK);
    assert_eq!(m.wire.offloads(), Offloads::CHECKSUM);
    assert_eq!(m.command(5, 0, &tso4.to_le_bytes()), ERR, "segments need checksums");
    assert_eq!(m.command(5, 0, &(csum | 1 << 0).to_le_bytes()), ERR, "not the guest's");
    m.port.0.core().pause().unwrap();
    m.port.0.core().resume();
    m.run();
    assert_eq!(m.wire.offloads(), Offloads::CHECKSUM, "over a pause too");
    m.move_away();
    assert_eq!(m.wire.offloads(), Offloads::CHECKSUM, "over a move too");
    m.bring_up(SIMPLE);
    assert_eq!(m.wire.offloads(), Offloads::NONE);
    assert_eq!(m.command(5, 0, &0u64.to_le_bytes()), ERR, "not negotiated");
}

fn four() -> NetMachine {
    let mut config = config();
    config.pairs = 4;
    NetMachine::new(config, offloads(), ALL)
}

#[test]
fn pairs_of_queues_are_used_when_the_driver_says_so() {
    let mut m = four();
    assert_eq!((m.rings.len(), m.wire.pairs()), (9, 1));
    let mut pairs = [0; 2];
    m.port.config_read(8, &mut pairs);
    assert_eq!(u16::from_le_bytes(pairs), 4);
    let buffer = |m: &mut NetMachine, pair: u16| assert!(m.add(2 * pair, &[], &[100]));
    buffer(&mut m, 3);
    m.wire.send(3, &with_header(&frame(MAC, OTHER, 60, 3)));
    m.run();
    assert!(m.received(3).is_none(), "the driver does not look there yet");
    for (pairs, answer) in [(0u16, ERR), (5, ERR), (4, OK)] {
        assert_eq!(m.command(4, 0, &pairs.to_le_bytes()), answer);
    }
    assert_eq!((m.wire.pairs(), m.handle.pairs()), (4, 4));
    for pair in 0..4 {
        buffer(&mut m, pair);
        m.send(pair, &frame(OTHER, MAC, 60, pair as u8));
        m.wire.send(pair, &with_header(&frame(MAC, OTHER, 60, pair as u8)));
    }
    m.run();
    for pair in 0..4 {
        assert!(m.received(pair).is_some());
        assert_eq!(m.wire.receive(pair), Some(with_header(&frame(OTHER, MAC, 60, pair as u8))));
    }
    assert!(m.received(3).is_some(), "what came earlier");
    m.move_away();
    assert_eq!(m.wire.pairs(), 4);
    m.bring_up(ALL);
    assert_eq!(m.wire.pairs(), 1, "another driver begins anew");
}

#[test]
fn a_driver_of_one_pair_has_its_commands_where_the_second_pair_would_be() {
    let mut m = four();
    m.bring_up(ALL & !MQ);
    assert_eq!(m.rings.len(), 3);
    assert_eq!(m.command(0, 0, &[0]), OK);
    assert_eq!(m.command(4, 0, &1u16.to_le_bytes()), ERR, "not negotiated");
    assert_eq!(receives(&mut m), [true, false, false, true]);
    // What comes for that pair is no command, and nobody's.
    m.wire.send(1, &with_header(&frame(MAC, OTHER, 60, 3)));
    m.run();
    assert_eq!(m.command(0, 0, &[1]), OK);
    assert_eq!(m.port.status(), 0x0f);
}

#[test]
fn commands_that_make_no_sense_are_refused() {
    let mut m = machine(ALL & !MQ);
    let tables = |unicast: u32, more: usize| [unicast.to_le_bytes().to_vec(), vec![0; more]].concat();
    let bad: [(u8, u8, Vec<u8>); 14] = [
        (0, 6, vec![0]),
        (0, 0, vec![]),
        (0, 0, vec![0, 0]),
        (1, 0, vec![]),
        (1, 0, tables(0, 3)),
        (1, 0, tables(0, 5)),
        (1, 0, tables(1, 5)),
        (1, 0, tables(u32::MAX, 100)),
        (1, 1, vec![1, 0, 0, 0, 0, 1]),
        (1, 1, vec![0; 5]),
        (3, 0, vec![0]),
        (5, 0, vec![0; 7]),
        (6, 0, vec![]),
        (255, 255, vec![0; 300]),
    ];
    for (class, command, data) in bad {
        assert_eq!(m.command(class, command, &data), ERR, "{class} {command} {data:?}");
    }
    // Neither class nor command, no room for an answer.
    let queue = m.rings.len() as u16 - 1;
    assert!(m.add(queue, &[&[0]], &[1]) && m.add(queue, &[], &[4]) && m.add(queue, &[&[0, 0, 0]], &[]));
    m.run();
    assert_eq!(
        (m.take(queue), m.take(queue), m.take(queue)),
        (Some(vec![ERR]), Some(vec![ERR]), Some(vec![]))
    );
    assert_eq!((m.port.status(), receives(&mut m)), (0x0f, [true, false, false, true]), "the last was one");
}

#[test]
fn features_that_need_others_are_not_accepted_alone() {
    let m = machine(ALL);
    for features in [1u64 << 7, 1 << 22, 1 << 11, CTRL_VQ | 1 << 21] {
        m.port.set_status(0);
        m.port.set_status(1);
        m.port.set_status(3);
        m.port.accept(features | 1 << 32 | RINGS & m.port.offered());
        m.port.set_status(0xb);
        assert_eq!(m.port.status() & 8, 0, "{features:#x}");
    }
}
