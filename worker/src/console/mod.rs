//! The console role: the operators' page, metrics, health and profiles over HTTP.
//!
//! | file | is |
//! |---|---|
//! | [`ask`] | the client of the status socket |
//! | [`state`] | what all requests share: a status of a moment ago, the history of footprints |
//! | [`history`] | footprints of the last hour. Pure |
//! | [`guard`] | who may ask. Pure |
//! | [`health`] | whether the node is up, ready and how much of it is free. Pure |
//! | [`metrics`] | a status as Prometheus reads it. Pure |
//! | [`routes`] | addresses and their answers |
//! | [`assets`] | the page, built by npm and embedded |
//! | [`threads`] | threads as a profile. Pure |
//! | [`files`] | evidence of recycles, thumbnails |
//! | [`listen`] | connections, bounded |
//!
//! All it knows comes from the status socket, as what `tasuki status` shows does, and all it does goes
//! through it. It may die at any moment: listeners are the supervisor's, and what is lost is the
//! history of footprints.

pub mod ask;
pub mod assets;
pub mod files;
pub mod guard;
pub mod health;
pub mod history;
pub mod listen;
pub mod metrics;
mod role;
pub mod routes;
pub mod state;
pub mod threads;

pub use role::run;
