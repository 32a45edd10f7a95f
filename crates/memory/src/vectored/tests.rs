use super::*;
use std::io::Write;
use std::os::fd::AsFd;
use vm_memory::{MmapRegion, VolatileMemory};

fn region(content: &[u8]) -> MmapRegion<()> {
    let region = MmapRegion::<()>::new(4096).unwrap();
    region.get_slice(0, content.len()).unwrap().copy_from(content);
    region
}

#[test]
fn pieces_are_put_together_in_order_from_any_byte_on() {
    let region = region(b"abcdefgh");
    let mut gather = Gather::default();
    gather.push_host(b"01");
    gather.push(&region.get_slice(2, 3).unwrap());
    gather.push(&region.get_slice(0, 0).unwrap());
    gather.push_host(b"9");
    assert_eq!((gather.bytes(), gather.pieces()), (6, 3));
    let all = b"01cde9";
    for skip in 0..8 {
        for len in 0..8 {
            let mut out = vec![0; len];
            let done = gather.copy_to(skip, &mut out);
            let expected: Vec<u8> = all.iter().copied().skip(skip).take(len).collect();
            assert_eq!(out.get(..done).unwrap(), expected, "{skip} {len}");
        }
    }
    let mut rest = Gather::default();
    rest.push_rest(&gather, 3);
    let (reader, writer) = std::io::pipe().unwrap();
    assert_eq!(rest.write_to(writer.as_fd()).unwrap(), 3);
    let mut out = [0; 3];
    let mut scatter = Scatter::default();
    scatter.push_host(&mut out);
    assert_eq!(scatter.read_from(reader.as_fd()).unwrap(), 3);
    assert_eq!(&out, b"de9");
    assert_eq!((rest.recycle().bytes(), gather.recycle().pieces()), (0, 0));
}

#[test]
fn what_comes_is_spread_over_the_pieces() {
    let (region, mut spill) = (region(b""), [0; 4]);
    let (reader, mut writer) = std::io::pipe().unwrap();
    let mut scatter = Scatter::default();
    scatter.push(&region.get_slice(1, 2).unwrap());
    scatter.set_spill(&mut spill);
    scatter.push(&region.get_slice(8, 3).unwrap());
    assert_eq!((scatter.bytes(), scatter.pieces()), (5, 2));
    writer.write_all(b"abcdefg").unwrap();
    assert_eq!(scatter.read_from(reader.as_fd()).unwrap(), 7);
    let mut all = [0; 9];
    assert_eq!(scatter.copy_to(0, &mut all), 9);
    assert_eq!(&all, b"abcdefg\0\0");
    assert_eq!(scatter.copy_from(4, b"XYZ+++"), 5);
    scatter.remove_front(1);
    assert_eq!((scatter.bytes(), scatter.pieces()), (3, 1));
    assert_eq!(scatter.copy_to(0, &mut all), 7);
    assert_eq!(all.get(..7), Some(&b"cdXYZ++"[..]));
    scatter.remove_front(5);
    assert_eq!((scatter.bytes(), scatter.copy_to(0, &mut all)), (0, 4), "the spill stays");
    let mut memory = [0; 11];
    region.get_slice(0, 11).unwrap().copy_to(&mut memory);
    assert_eq!(&memory, b"\0ab\0\0\0\0\0cdX");
    assert_eq!(&spill, b"YZ++");
}

#[test]
fn the_host_is_given_no_more_pieces_than_it_takes() {
    let region = region(&[7; 4]);
    let mut gather = Gather::default();
    (0..MAX_PIECES + 10).for_each(|_| gather.push(&region.get_slice(0, 1).unwrap()));
    let (_reader, writer) = std::io::pipe().unwrap();
    assert_eq!(gather.write_to(writer.as_fd()).unwrap(), MAX_PIECES);
    drop(_reader);
    let mut nothing = Scatter::default();
    assert!(nothing.read_from(writer.as_fd()).is_err(), "not for reading");
}

#[test]
fn a_socket_takes_what_it_has_room_for_and_a_peer_that_left_is_an_error() {
    let (here, there) = std::os::unix::net::UnixStream::pair().unwrap();
    let region = region(&[7; 4096]);
    let mut gather = Gather::default();
    gather.push_host(b"head");
    gather.push(&region.get_slice(0, 4096).unwrap());
    let mut sent = 0;
    let error = loop {
        match gather.send_to(here.as_fd()) {
            Ok(now) => sent += now,
            Err(e) => break e,
        }
    };
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "it does not wait");
    assert!(sent >= 4100, "{sent}");
    drop(there);
    assert_eq!(gather.send_to(here.as_fd()).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
}
