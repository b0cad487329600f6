//! Why a stream cannot run, and when that is for want of memory.

use crate::pipeline::PipelineError;
use crate::session::record::BadSection;
use tasuki_shared::memory::MemoryError;

/// Why a stream cannot run.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    #[error("{found} fds came with the plan, {expected} are needed")]
    Fds { found: usize, expected: usize },
    #[error(transparent)]
    Memory(#[from] MemoryError),
    #[error(transparent)]
    Section(#[from] BadSection),
    #[error("the pipeline cannot start: {0}")]
    Pipeline(#[from] PipelineError),
}

impl StreamError {
    /// Ends this worker where the stream cannot run for want of memory: another may have it.
    pub fn leave_if_out_of_memory(self) -> Self {
        match &self {
            Self::Memory(MemoryError::Io { source, .. })
            | Self::Pipeline(PipelineError::Thread(source))
                if is_want_of_memory(source) =>
            {
                crate::allocator::out_of_memory()
            }
            Self::Fds { .. } | Self::Memory(_) | Self::Section(_) | Self::Pipeline(_) => self,
        }
    }
}

/// A thread that gets no stack fails with EAGAIN.
fn is_want_of_memory(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOMEM | libc::EAGAIN))
}
