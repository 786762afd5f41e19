//! PCI drivers with sluiced between real stacks: NICs that QEMU emulates, with two workers.

use pktgen_tests::nics::image::Image;
use pktgen_tests::nics::report::walk;
use pktgen_tests::nics::steps::{NICS, SHORT};
use pktgen_tests::process::Folder;

#[test]
fn pci_nics_forward_for_two_workers_and_come_back_after_link_loss_and_restart() {
    let folder = Folder::new("image").unwrap();
    let image = Image::build(folder.path(), &[]).unwrap();
    for name in ["igb", "virtio, rss=on"] {
        let (nic, workers) = NICS.iter().find(|(nic, _)| nic.name == name).unwrap();
        let walk = walk(&image, nic, *workers, SHORT).unwrap();
        assert_eq!(walk.failures(), 0, "{walk:#?}");
        let said = |at: usize| walk.outcomes[at].seen.clone().unwrap();
        assert!(said(0).starts_with("predicted RSS"), "{walk:#?}");
        // The device's own hash is the one that local ports were chosen by.
        assert!(said(2).ends_with(", 0/0"), "packets were handed over: {walk:#?}");
        // Each worker has a fair share of the sessions.
        let sessions: Vec<u32> =
            said(2).split(',').next().unwrap().split('/').map(|count| count.parse().unwrap()).collect();
        assert_eq!(sessions.len(), 2);
        assert!(sessions.iter().all(|count| *count > 50), "{walk:#?}");
    }
}
