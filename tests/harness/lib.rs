//! The harness of the whole-system tests: real publishers, a real origin, real server
//! processes, and checks that read what arrived from the picture and the sound themselves.
//!
//! Everything started here is ended by its process id when its value is dropped, lives in a run
//! directory of its own, and is waited for on a condition with a bound, never by sleeping.

pub mod chance;
pub mod child;
pub mod dying;
pub mod fixture;
pub mod flv;
pub mod frames;
pub mod moves;
pub mod named;
pub mod obs;
pub mod obs_passage;
pub mod origin;
pub mod passage;
pub mod picture;
pub mod place;
pub mod proc;
pub mod publisher;
pub mod raw_publisher;
pub mod scene;
pub mod seams;
pub mod server;
pub mod skew;
pub mod stuck_disk;
pub mod wait;
