//! The handshake, as one function: C0 and C1 in, S0, S1 and S2 out.
//!
//! What follows from the publisher is C2: [`C2_BYTES`] bytes to be skipped. They prove nothing that
//! TCP has not, and some publishers get them wrong. Both handshakes, the plain one and the one with
//! a digest, are answered by `rml_rtmp`, whose object is not needed afterwards.

use rml_rtmp::handshake::{Handshake, HandshakeProcessResult, PeerType};

/// C0 and C1.
pub const C0_C1_BYTES: usize = 1537;
/// C2, and S2 as well.
pub const C2_BYTES: usize = 1536;
/// S0, S1 and S2.
pub const ANSWER_BYTES: usize = 1 + 2 * C2_BYTES;

const VERSION_PLAIN: u8 = 3;

/// Why a connection cannot become an RTMP session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    #[error("a TLS client on the plain RTMP port (rtmps:// is not served here)")]
    Tls,
    #[error("an HTTP client on the RTMP port")]
    Http,
    #[error("encrypted RTMP (RTMPE) is not served")]
    Encrypted,
    #[error("unknown RTMP version {0}")]
    Version(u8),
    #[error("the handshake could not be answered")]
    Unanswerable,
}

/// Answers the first bytes of a connection. `None` while fewer than [`C0_C1_BYTES`] are here, yet a
/// peer that does not speak RTMP is refused by its first byte. Bytes beyond are not looked at.
pub fn answer(input: &[u8]) -> Result<Option<Vec<u8>>, HandshakeError> {
    let Some(first) = input.first() else { return Ok(None) };
    match *first {
        VERSION_PLAIN => {}
        6 | 8 | 9 => return Err(HandshakeError::Encrypted),
        0x16 | 0x80 => return Err(HandshakeError::Tls),
        b'A'..=b'Z' => return Err(HandshakeError::Http),
        version => return Err(HandshakeError::Version(version)),
    }
    let Some(hello) = input.get(..C0_C1_BYTES) else { return Ok(None) };
    match Handshake::new(PeerType::Server).process_bytes(hello) {
        Ok(HandshakeProcessResult::InProgress { response_bytes })
            if response_bytes.len() == ANSWER_BYTES =>
        {
            Ok(Some(response_bytes))
        }
        Ok(
            HandshakeProcessResult::InProgress { .. } | HandshakeProcessResult::Completed { .. },
        )
        | Err(_) => Err(HandshakeError::Unanswerable),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_handshake_is_answered_with_an_echo_of_c1() {
        let mut hello = vec![3];
        hello.extend((0..1536_u32).map(|at| at.to_le_bytes()[0]));
        hello[5..9].fill(0);
        for short in [0, 1, 1536] {
            assert_eq!(answer(&hello[..short]), Ok(None));
        }
        let reply = answer(&hello).unwrap().unwrap();
        assert_eq!(reply.len(), ANSWER_BYTES);
        assert_eq!(reply[0], 3);
        assert_eq!(reply[1537..], hello[1..]);
        let longer = [&hello[..], &[9; 100]].concat();
        assert_eq!(answer(&longer).unwrap().unwrap()[1537..], hello[1..]);
    }

    #[test]
    fn a_handshake_with_a_digest_satisfies_its_client() {
        let mut client = Handshake::new(PeerType::Client);
        let hello = client.generate_outbound_p0_and_p1().unwrap();
        let reply = answer(&hello).unwrap().unwrap();
        match client.process_bytes(&reply).unwrap() {
            HandshakeProcessResult::Completed { response_bytes, remaining_bytes } => {
                assert_eq!((response_bytes.len(), remaining_bytes.len()), (C2_BYTES, 0));
            }
            HandshakeProcessResult::InProgress { .. } => panic!("the client waits for more"),
        }
    }

    #[test]
    fn what_is_not_plain_rtmp_is_refused_by_name_at_its_first_byte() {
        assert_eq!(answer(&[0x16, 3, 1]), Err(HandshakeError::Tls));
        for method in ["GET / HTTP/1.1", "POST", "OPTIONS", "CONNECT"] {
            assert_eq!(answer(method.as_bytes()), Err(HandshakeError::Http));
        }
        assert_eq!(answer(&[6]), Err(HandshakeError::Encrypted));
        assert_eq!(answer(&[0]), Err(HandshakeError::Version(0)));
    }
}
