//! What the operator wants: from a configuration file to the snapshot that workers
//! follow, and from workers' counters to what the command line shows.
//!
//! [`config`] reads and checks the file. [`control`] is the one thread that owns the
//! desired state; [`compile`] turns it into a snapshot, [`registry`] gives out stable
//! ids, [`neighbors`], [`arp`] and [`nd`] find stations, [`kernel`] is the host's part in it. [`admin`] serves the Unix socket,
//! [`view`] is what it says, [`cli`] is the command's side of it. [`journal`] is the log, [`files`] reads what may not answer,
//! [`steering`] says how replies find their workers.
//!
//! [`desired`] keeps changes by command beside the files' text, [`diff`] tells them, [`last_good`] is for bad files,
//! [`state`] for the next start.
//! [`health`] and [`passive`] find out about servers, [`discovery`] finds servers; [`standing`] knows what was found,
//! [`relief`] damps what their load takes away, [`balance`] makes weights of it all, and [`names`] answers for names.

pub mod admin;
pub mod arp;
pub mod balance;
pub mod cli;
pub mod compile;
pub mod config;
pub mod control;
pub mod desired;
pub mod diff;
pub mod discovery;
mod dns;
pub mod files;
pub mod health;
mod http;
pub mod journal;
pub mod kernel;
pub mod last_good;
pub mod names;
pub mod nd;
pub mod neighbors;
pub mod passive;
pub mod pci;
pub mod registry;
pub mod relief;
pub mod standing;
pub mod state;
pub mod steering;
mod tls;
pub mod view;
