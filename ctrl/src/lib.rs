//! What the operator wants: from a configuration file to the snapshot that workers
//! follow, and from workers' counters to what the command line shows.
//!
//! The modules stand on floors, and each uses only what is below it (`dataplane/tests/layering.rs` holds them to it):
//!
//! 1. the ground: [`attacks`] (when one begins and ends), [`devices`], [`files`] (reads what may not answer), [`journal`] (the log), [`pci`], [`last_second`] (a worker's last second), [`lists`] (files of prefixes), [`registry`]
//!    (stable ids), [`remedies`] (of drop reasons), [`state`] (for the next start), [`users`], DNS messages, HTTP and TLS;
//! 2. [`config`] reads and checks the file;
//! 3. [`topology`] and [`steering`] say which way leads where, [`desired`] keeps changes by command, [`discovery`] finds
//!    servers, [`admin`] serves the Unix socket, `exposure` lets others look, [`links`] has the stations on the links;
//! 4. [`kernel`] is the host's part, [`cli`] the command;
//! 5. [`health`] asks servers;
//! 6. [`servers`] knows what was found out about them, and makes weights of it;
//! 7. [`compile`] makes the snapshot, [`names`] answers for names, [`metrics`] are for Prometheus, [`view`] is what the admin socket says;
//! 8. [`web`] is the page for browsers;
//! 9. [`control`] is the one thread that owns the desired state.

pub mod admin;
pub mod attacks;
pub mod cli;
pub mod compile;
pub mod config;
pub mod control;
pub mod desired;
pub mod devices;
pub mod discovery;
mod dns;
mod exposure;
pub mod files;
pub mod health;
mod http;
pub mod journal;
pub mod kernel;
pub mod last_second;
pub mod links;
pub mod lists;
pub mod metrics;
pub mod names;
pub mod pci;
pub mod registry;
pub mod remedies;
pub mod servers;
pub mod state;
pub mod steering;
mod tls;
pub mod topology;
pub mod users;
pub mod view;
pub mod web;
