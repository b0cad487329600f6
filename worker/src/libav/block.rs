//! Memory of libav's own allocator, for a leak on purpose.

use super::{LibavError, ffi, no_memory};
use std::ptr::NonNull;

/// A block of `av_malloc`, every page of it touched.
#[derive(Debug)]
pub struct Block(NonNull<u8>);

// SAFETY: the block is plain memory that this value alone owns.
unsafe impl Send for Block {}

impl Block {
    pub fn touched(bytes: usize) -> Result<Self, LibavError> {
        // SAFETY: any size may be asked for; failure is a null pointer.
        let memory = unsafe { ffi::av_malloc(bytes) }.cast::<u8>();
        let memory = NonNull::new(memory).ok_or_else(no_memory)?;
        // SAFETY: the block has that many bytes and nobody else has it.
        unsafe { memory.write_bytes(0xA5, bytes) };
        Ok(Self(memory))
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: it came from av_malloc and is freed once.
        unsafe { ffi::av_free(self.0.as_ptr().cast()) };
    }
}
