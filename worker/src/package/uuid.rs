//! `uuid` boxes (ISO/IEC 14496-12, 4.2), which players pass over: where notes are kept.

/// Size, kind and id.
pub const PREFIX_BYTES: usize = 4 + 4 + 16;

/// Appends a box.
pub fn put(id: [u8; 16], body: &[u8], into: &mut Vec<u8>) {
    let length = u32::try_from(PREFIX_BYTES + body.len()).unwrap_or(u32::MAX);
    into.extend_from_slice(&length.to_be_bytes());
    into.extend_from_slice(b"uuid");
    into.extend_from_slice(&id);
    into.extend_from_slice(body);
}
