//! A stream that ends its worker, for tests alone: packets with one of these marks anywhere in them
//! do to the process what a codec's bug would.

/// The process faults.
pub const FAULTS: &[u8] = b"tasuki-poison:fault";
/// The media thread never comes back.
pub const HANGS: &[u8] = b"tasuki-poison:hang";

/// Does what the packet asks for, before it is decoded.
pub fn obey(packet: &[u8]) {
    let has = |mark: &[u8]| packet.windows(mark.len()).any(|window| window == mark);
    if has(FAULTS) {
        std::process::abort();
    }
    if has(HANGS) {
        loop {
            tasuki_shared::clock::pause(std::time::Duration::from_secs(60));
        }
    }
}
