//! Which way of steering a port gets: the highest rung that its device can stand on.

use super::{BY_LOCAL_PORT, Clients, KEY_LEN_MIN, Plan, PortSteering, Spread, TABLE_MAX, Toeplitz};
use crate::ids::WorkerId;
use std::sync::Arc;

/// How replies come to the worker that owns their session, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rung {
    /// Flow rules in the device send each local port's replies to its worker.
    FlowRules,
    /// Local ports are chosen so that the device's own hash brings replies home.
    PredictedRss,
    /// Whoever gets a reply hands it to its owner.
    HandOver,
    /// There is only one worker.
    SingleWorker,
}

impl Rung {
    /// The words in lists and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::FlowRules => "flow rules",
            Self::PredictedRss => "predicted RSS",
            Self::HandOver => "hand-over",
            Self::SingleWorker => "single worker",
        }
    }
}

/// What of a packet a device hashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fields {
    /// Addresses and layer-4 ports.
    Ports,
    /// The addresses alone.
    Addresses,
    /// Nothing.
    Nothing,
}

/// How a device spreads packets over its queues, as it says itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rss {
    /// The key in use.
    pub key: Vec<u8>,
    /// The queue for each value of the hash's low bits.
    pub table: Vec<u16>,
    /// By family, what it hashes of TCP and of UDP.
    pub fields: [[Fields; 2]; 2],
}

/// What is known of a device when a rung is chosen.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Whether it took rules for local ports; why not.
    pub rules: Result<(), String>,
    /// How it spreads packets; why that is not known.
    pub rss: Result<Rss, String>,
    /// Whether it spreads flows over its queues and each stays on its own, whatever decides about it.
    /// The kernel's packet fanout does not: from a full queue it turns to another.
    pub keeps_flows: bool,
}

/// The choice for one port, and why.
#[derive(Clone, Debug)]
pub struct Choice {
    /// The rung.
    pub rung: Rung,
    /// Why each higher rung was not taken.
    pub refused: Vec<(Rung, String)>,
    /// Who makes clients' sessions.
    pub clients: Clients,
}

/// Chooses for one port and `workers` workers; queue n is worker n's.
pub fn choose(facts: &Facts, workers: u16) -> (Choice, PortSteering) {
    if workers == 1 {
        let choice = Choice { rung: Rung::SingleWorker, refused: Vec::new(), clients: Clients::Receiver };
        return (choice, PortSteering { plan: Plan::alone(), clients: Clients::Receiver });
    }
    let mut refused = Vec::new();
    let predicted = match &facts.rss {
        Ok(rss) => predict(rss, workers),
        Err(reason) => Err(reason.clone()),
    };
    let unknown = if facts.keeps_flows { Clients::Receiver } else { Clients::Hashed };
    let clients = if predicted.is_ok() { Clients::Planned } else { unknown };
    let by_port = || Plan::new(port_table(workers), BY_LOCAL_PORT, workers.into());
    let (rung, plan, clients) = match (&facts.rules, predicted) {
        // The plan for replies says nothing of clients, so a client's session is its receiver's.
        (Ok(()), _) if facts.keeps_flows => (Rung::FlowRules, by_port(), Clients::Receiver),
        (rules, predicted) => {
            let reason = match rules {
                Ok(()) => "nothing keeps a client's flow on one queue".to_owned(),
                Err(reason) => reason.clone(),
            };
            refused.push((Rung::FlowRules, reason));
            match predicted {
                Ok(plan) => (Rung::PredictedRss, plan, clients),
                Err(reason) => {
                    refused.push((Rung::PredictedRss, reason));
                    (Rung::HandOver, by_port(), clients)
                }
            }
        }
    };
    (Choice { rung, refused, clients }, PortSteering { plan, clients })
}

/// Local ports in turn, so that each worker has as many as any other, but for a port or so in four
/// thousand.
pub fn port_table(workers: u16) -> Box<[WorkerId]> {
    let entries = if workers.is_power_of_two() { usize::from(workers) } else { TABLE_MAX };
    (0..entries).map(|entry| WorkerId((entry % usize::from(workers)) as u16)).collect()
}

/// The plan that follows from a device's hash.
fn predict(rss: &Rss, workers: u16) -> Result<Plan, String> {
    if !rss.table.len().is_power_of_two() || rss.table.len() > TABLE_MAX {
        return Err(format!(
            "its indirection table has {} entries; a power of two up to {TABLE_MAX} is understood",
            rss.table.len()
        ));
    }
    if let Some(queue) = rss.table.iter().find(|queue| **queue >= workers) {
        return Err(format!("its indirection table names queue {queue}, and there are {workers} workers"));
    }
    if let Some(idle) = (0..workers).find(|queue| !rss.table.contains(queue)) {
        return Err(format!("its indirection table never names queue {idle}"));
    }
    let Some(toeplitz) = Toeplitz::new(&rss.key) else {
        return Err(format!("its key has {} bytes, {KEY_LEN_MIN} are needed", rss.key.len()));
    };
    let toeplitz = Arc::new(toeplitz);
    let spread = |fields: Fields, name: &str| match fields {
        Fields::Ports => Ok(Spread::Ports(Arc::clone(&toeplitz))),
        Fields::Addresses => Ok(Spread::Addresses(Arc::clone(&toeplitz))),
        Fields::Nothing => Err(format!("it does not hash {name}")),
    };
    let [v4, v6] = rss.fields;
    // A device that does not know IPv6 is no worse a device for IPv4.
    let lenient = |fields, name| spread(fields, name).unwrap_or(Spread::LocalPort);
    let spreads = [
        [spread(v4[0], "TCP")?, spread(v4[1], "UDP")?],
        [lenient(v6[0], "TCP over IPv6"), lenient(v6[1], "UDP over IPv6")],
    ];
    let table = rss.table.iter().map(|queue| WorkerId(*queue)).collect();
    Ok(Plan::new(table, spreads, workers.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rss() -> Rss {
        let key = (0..40u8).map(|byte| byte.wrapping_mul(0x9d).wrapping_add(0x4b)).collect();
        Rss { key, table: (0..128).map(|entry| entry % 4).collect(), fields: [[Fields::Ports; 2]; 2] }
    }

    fn facts(rss: Result<Rss, String>) -> Facts {
        Facts { rules: Err("it takes no rules".into()), rss, keeps_flows: true }
    }

    #[test]
    fn the_highest_rung_that_holds_is_taken_and_the_others_say_why_not() {
        let (single, _) = choose(&facts(Ok(rss())), 1);
        assert_eq!((single.rung, single.refused.len()), (Rung::SingleWorker, 0));

        let with_rules = Facts { rules: Ok(()), ..facts(Ok(rss())) };
        assert_eq!(choose(&with_rules, 4).0.rung, Rung::FlowRules);

        let (predicted, _) = choose(&facts(Ok(rss())), 4);
        assert_eq!((predicted.rung, predicted.clients), (Rung::PredictedRss, Clients::Planned));
        assert_eq!(predicted.refused, [(Rung::FlowRules, "it takes no rules".to_owned())]);

        let (handed, _) = choose(&facts(Err("it tells no key".into())), 4);
        assert_eq!((handed.rung, handed.clients), (Rung::HandOver, Clients::Receiver));
        assert_eq!(handed.refused[1], (Rung::PredictedRss, "it tells no key".to_owned()));

        let one_queue = Facts { keeps_flows: false, ..facts(Err("it has one queue".into())) };
        assert_eq!(choose(&one_queue, 4).0.clients, Clients::Hashed);
    }

    #[test]
    fn a_device_that_cannot_be_followed_says_why() {
        type Case = (&'static str, fn(&mut Rss));
        let cases: [Case; 5] = [
            ("100 entries", |rss| rss.table.truncate(100)),
            ("names queue 4", |rss| rss.table[7] = 4),
            ("never names queue 3", |rss| rss.table.iter_mut().for_each(|queue| *queue %= 3)),
            ("key has 16 bytes", |rss| rss.key.truncate(16)),
            ("does not hash UDP", |rss| rss.fields[0][1] = Fields::Nothing),
        ];
        for (words, change) in cases {
            let mut rss = rss();
            change(&mut rss);
            let reason = choose(&facts(Ok(rss)), 4).0.refused[1].1.clone();
            assert!(reason.contains(words), "{reason}");
        }
    }

    #[test]
    fn local_ports_are_shared_evenly() {
        for workers in 1..=32 {
            let table = port_table(workers);
            let owned = |worker| table.iter().filter(|owner| owner.0 == worker).count();
            let (least, most) = (0..workers)
                .map(owned)
                .fold((usize::MAX, 0), |(least, most), count| (least.min(count), most.max(count)));
            assert!(most - least <= 1 && least > 0, "{workers} workers own {least} to {most} entries");
        }
    }
}
