//! Steering: the kernel gives each packet to the worker that owns its connection.
//!
//! The sockets of an address form a group (SO_REUSEPORT). By itself the kernel picks one by a hash of
//! the addresses, so a client that changes its port reaches a stranger. The program here reads the
//! home byte of the packet's destination connection id ([`super::cid`]) instead. It returns a socket's
//! index, which is the order of binding, or [`ANYONE`]: then the kernel hashes, as it does for every
//! index that no socket has. That is right for Initial and 0-RTT packets, whose id the client made up.
//!
//! Classic BPF, because attaching it needs no privilege. What a hostile packet can do is choose the
//! worker that drops it. A load past the end of a packet ends the program with index 0.

use std::{io, net::UdpSocket};

use super::{cid::WORKER_MASK, sockopt};

/// Whether this system can steer.
pub(super) const AVAILABLE: bool = cfg!(target_os = "linux");

/// One instruction of classic BPF.
#[derive(Clone, Copy, Debug)]
pub(super) struct Instruction {
    pub(super) code: u16,
    pub(super) jump_true: u8,
    pub(super) jump_false: u8,
    pub(super) operand: u32,
}

/// An index that no socket has.
const ANYONE: u32 = u32::MAX;

// Instructions (linux/bpf_common.h): what the code does with A, the only register used.
const LOAD_BYTE: u16 = 0x30;
const AND: u16 = 0x54;
const JUMP_IF_EQUAL: u16 = 0x15;
const JUMP_IF_ANY_BIT: u16 = 0x45;
const RETURN: u16 = 0x06;
const RETURN_A: u16 = 0x16;

// The first byte of a packet (RFC 9000 section 17).
const LONG_HEADER: u32 = 0x80;
const PACKET_TYPE: u32 = 0x30;
const HANDSHAKE: u32 = 0x20;

/// Where the destination connection id begins: after the first byte in a short header; in a long one
/// also after the version and the id's length.
const SHORT_ID_AT: u32 = 1;
const LONG_ID_AT: u32 = 6;

/// Programs the group that `member` belongs to. `home_offset` is where in an id the home byte is.
pub(super) fn attach(member: &UdpSocket, home_offset: usize) -> io::Result<()> {
    let home_offset = u32::try_from(home_offset).expect("an id has at most 20 bytes");
    sockopt::attach_reuseport_program(member, &program(home_offset))
}

fn program(home_offset: u32) -> [Instruction; 11] {
    let worker = u32::from(WORKER_MASK);
    [
        /*  0 */ run(LOAD_BYTE, 0),
        /*  1 */ jump(JUMP_IF_ANY_BIT, LONG_HEADER, 3, 0),
        // Short header: 1-RTT.
        /*  2 */ run(LOAD_BYTE, SHORT_ID_AT + home_offset),
        /*  3 */ run(AND, worker),
        /*  4 */ run(RETURN_A, 0),
        // Long header: only Handshake packets carry an id that we made.
        /*  5 */
        run(AND, PACKET_TYPE),
        /*  6 */ jump(JUMP_IF_EQUAL, HANDSHAKE, 0, 3),
        /*  7 */ run(LOAD_BYTE, LONG_ID_AT + home_offset),
        /*  8 */ run(AND, worker),
        /*  9 */ run(RETURN_A, 0),
        /* 10 */ run(RETURN, ANYONE),
    ]
}

const fn run(code: u16, operand: u32) -> Instruction {
    Instruction { code, jump_true: 0, jump_false: 0, operand }
}

/// Jumps count from the instruction that follows.
const fn jump(code: u16, operand: u32, jump_true: u8, jump_false: u8) -> Instruction {
    Instruction { code, jump_true, jump_false, operand }
}

#[cfg(test)]
mod tests {
    use quinn::ConnectionIdGenerator;

    use super::*;
    use crate::edge::cid::{HomeIds, Layout};

    /// The kernel's interpreter, as far as the program needs it.
    fn interpret(program: &[Instruction], packet: &[u8]) -> u32 {
        let (mut a, mut at) = (0, 0);
        loop {
            let Instruction { code, jump_true, jump_false, operand } = program[at];
            at += 1;
            let take = |taken: bool| usize::from(if taken { jump_true } else { jump_false });
            match code {
                LOAD_BYTE => match packet.get(operand as usize) {
                    Some(byte) => a = u32::from(*byte),
                    None => return 0,
                },
                AND => a &= operand,
                JUMP_IF_EQUAL => at += take(a == operand),
                JUMP_IF_ANY_BIT => at += take(a & operand != 0),
                RETURN => return operand,
                RETURN_A => return a,
                other => panic!("unknown instruction {other:#x}"),
            }
        }
    }

    #[test]
    fn packets_go_to_the_worker_that_their_id_names() {
        for server_id in [&b""[..], b"server-1", b"fifteen bytes!!"] {
            let layout = Layout::new(0, server_id, 64);
            let program = program(u32::try_from(layout.home_offset()).unwrap());
            for worker in [0, 1, 3, 63] {
                let id = HomeIds::new(layout.clone(), worker).generate_cid();
                let long = |first: u8| {
                    let length = u8::try_from(id.len()).unwrap();
                    [&[first, 0, 0, 0, 1, length], &id[..], &[0; 8]].concat()
                };
                let short = |first: u8| [&[first], &id[..], &[0; 8]].concat();
                let home = u32::from(worker);
                let table = [
                    ("1-RTT", short(0x40), home),
                    ("1-RTT, every other bit", short(0x7f), home),
                    ("1-RTT, greased fixed bit", short(0x00), home),
                    ("Handshake", long(0xe0), home),
                    ("Handshake, every other bit", long(0xef), home),
                    ("Initial", long(0xc0), ANYONE),
                    ("0-RTT", long(0xd0), ANYONE),
                    ("Retry", long(0xf0), ANYONE),
                ];
                for (case, packet, index) in table {
                    assert_eq!(interpret(&program, &packet), index, "{case} of worker {worker}");
                }
            }
        }
    }

    #[test]
    fn bits_of_the_generation_do_not_count() {
        let packet = [0x40, 0x07, 0xc0 | 5, 0, 0, 0, 0, 0, 0];
        assert_eq!(interpret(&program(1), &packet), 5);
    }

    #[test]
    fn a_tiny_packet_goes_to_worker_0() {
        assert_eq!(interpret(&program(1), &[]), 0);
        assert_eq!(interpret(&program(1), &[0x40, 0x07]), 0);
        assert_eq!(interpret(&program(1), &[0xe0, 0, 0, 0, 1]), 0);
    }
}
