//! Whether devices send what they are given. A driver that claims a queue which its chip does not have takes packets and
//! loses them without a word; its own count of what it sent is the only trace.

/// Packets that a worker gives to a device, at least, before what the device says is judged: its rings hold so few of them
/// that what still waits there does not matter.
const ENOUGH: u64 = 10_000;
/// The share of them that may be missing: one in so many.
const SHARE: u64 = 10;

/// A port's packets on their way out, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// What workers gave to the device.
    pub given: u64,
    /// What the device says that it sent.
    pub sent: u64,
    /// What it says that it could not send.
    pub failed: u64,
}

/// What is known of one device.
#[derive(Clone, Debug, Default)]
pub struct Account {
    from: Sent,
    /// What is wrong, if anything is.
    pub trouble: Option<String>,
}

impl Account {
    /// Looks at a device that `workers` workers send by. Returns whether `trouble` begins, ends or says something else.
    pub fn look(&mut self, now: Sent, workers: usize) -> bool {
        let more = |of: fn(&Sent) -> u64| of(&now).checked_sub(of(&self.from));
        let (Some(given), Some(sent), Some(failed)) =
            (more(|at| at.given), more(|at| at.sent), more(|at| at.failed))
        else {
            // A device that was reset begins anew.
            self.from = now;
            return false;
        };
        if given < ENOUGH * workers as u64 {
            return false;
        }
        self.from = now;
        let missing = given.saturating_sub(sent + failed);
        let trouble = (missing > given / SHARE).then(|| {
            format!(
                "of the last {given} packets the device was given it says that it sent {sent}; a queue of it may not work, so try fewer workers"
            )
        });
        let is_news = trouble.is_some() != self.trouble.is_some();
        self.trouble = trouble;
        is_news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(account: &mut Account, given: u64, sent: u64, failed: u64) -> bool {
        let from = account.from;
        let now = Sent { given: from.given + given, sent: from.sent + sent, failed: from.failed + failed };
        account.look(now, 2)
    }

    #[test]
    fn a_device_that_sends_half_of_what_it_is_given_is_told_and_so_is_the_end_of_it() {
        let mut account = Account::default();
        assert!(!after(&mut account, 25_000, 24_000, 0), "what waits in its rings is no loss");
        assert!(after(&mut account, 20_000, 10_000, 0));
        assert!(account.trouble.as_ref().unwrap().contains("last 20000 packets the device was given"));
        assert!(!after(&mut account, 20_000, 9_000, 0), "that is told once");
        assert!(account.trouble.as_ref().unwrap().contains("it sent 9000;"));
        assert!(after(&mut account, 20_000, 20_500, 0));
        assert_eq!(account.trouble, None);
    }

    #[test]
    fn what_has_a_counter_is_not_missing_and_few_packets_say_nothing() {
        let mut account = Account::default();
        assert!(!after(&mut account, 20_000, 1_000, 19_000));
        assert!(!after(&mut account, 19_999, 0, 0));
        assert_eq!(account.trouble, None);
        let from = account.from;
        assert!(account.look(Sent { given: from.given + 20_001, ..from }, 2));
    }

    #[test]
    fn a_device_that_counts_from_the_beginning_again_is_believed() {
        let mut account = Account::default();
        assert!(!after(&mut account, 30_000, 30_000, 0));
        assert!(!account.look(Sent { given: 60_000, sent: 10, failed: 0 }, 2));
        assert!(!account.look(Sent { given: 90_000, sent: 30_010, failed: 0 }, 2));
    }
}
