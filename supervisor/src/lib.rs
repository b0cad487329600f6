//! Tasuki supervisor.
