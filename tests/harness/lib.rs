//! The harness of the whole-system tests: real publishers, a real origin, real server
//! processes, and checks that read what arrived from the picture and the sound themselves.
//!
//! Everything started here is ended by its process id when its value is dropped, lives in a run
//! directory of its own, and is waited for on a condition with a bound, never by sleeping.

pub mod anchorless;
pub mod browser;
pub mod chance;
pub mod child;
pub mod clients;
pub mod duties;
pub mod dying;
pub mod filler;
pub mod fixture;
pub mod flv;
pub mod flv_viewer;
pub mod frames;
pub mod handoff_faults;
pub mod hits;
pub mod kill_controls;
pub mod kills;
pub mod lanes;
pub mod leaking;
pub mod ledger;
pub mod lives;
pub mod move_controls;
pub mod moves;
pub mod named;
pub mod natural;
pub mod obs;
pub mod obs_passage;
pub mod operator;
pub mod origin;
pub mod ownership;
pub mod pages;
pub mod passage;
pub mod picture;
pub mod place;
pub mod playback;
pub mod plot;
pub mod ports;
pub mod proc;
pub mod publisher;
pub mod raw_publisher;
pub mod rotations;
pub mod scene;
pub mod seam_quality;
pub mod seam_sound;
pub mod seams;
pub mod server;
pub mod shown;
pub mod skew;
pub mod sound;
pub mod stuck_disk;
pub mod viewer;
pub mod wait;
pub mod watching;
