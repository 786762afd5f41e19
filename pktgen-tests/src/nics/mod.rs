//! Real PCI drivers, run against NICs that QEMU emulates (a guest with sluiced between a client and servers of this
//! machine), or against two of this machine's own. Everything in the guest is emulated, so nothing here measures how
//! fast anything is.

pub mod cpio;
pub mod guest;
pub mod host;
pub mod image;
pub mod lab;
pub mod load;
pub mod machine;
pub mod obstacles;
pub mod report;
pub mod steps;
