//! Does the appliance work: labs in network namespaces, and what black-box tests need.
//!
//! Nothing here looks inside: a test sees frames, sockets, and what the `sluice` command
//! prints. [`frames`] builds and reads frames, [`conformance`] holds a forwarder against what
//! the Linux kernel answers. [`netns`] makes and removes namespaces, [`process`] runs programs and ends them,
//! [`lab`] puts a client, the appliance and real servers together, [`demo`] shows it, [`tour`] lets a newcomer try it,
//! [`wire`] speaks raw frames on an interface, [`nics`] runs all of it on PCI NICs that QEMU emulates.

pub mod browser;
pub mod conformance;
pub mod demo;
pub mod frames;
pub mod lab;
pub mod netns;
pub mod nginx;
pub mod nics;
pub mod process;
pub mod raw_lab;
pub mod softnic;
pub mod sshd;
pub mod tag_switch;
pub mod tour;
pub mod wire;
