//! Overload protection: how much of its weight a server's load leaves it, damped and bounded.

/// The least that overload leaves a server of its weight.
const LEAST: f64 = 0.1;
/// The most by which one load changes it: a spike moves little, a lasting load all.
const STEP: f64 = 0.2;
/// Smaller changes are not told, so that the schedulers' tables rest.
const GRAIN: f64 = 0.05;

/// One server's relief, up to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Relief {
    /// What the loads so far leave, step by step.
    smooth: f64,
    /// The same, as it was told.
    told: f64,
}

impl Default for Relief {
    fn default() -> Self {
        Self { smooth: 1.0, told: 1.0 }
    }
}

impl Relief {
    /// What is left of the weight.
    pub fn share(self) -> f64 {
        self.told
    }

    /// Takes in a load, of which `limit` is still good. Returns whether the share is another now.
    pub fn note(&mut self, load: f64, limit: f64) -> bool {
        if !load.is_finite() || load < 0.0 {
            return false;
        }
        let wanted = if load > limit { (limit / load).max(LEAST) } else { 1.0 };
        self.smooth += (wanted - self.smooth).clamp(-STEP, STEP);
        let told = (self.smooth / GRAIN).round() * GRAIN;
        let changed = (told - self.told).abs() >= GRAIN / 2.0;
        if changed {
            self.told = told;
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_takes_weight_away_slowly_and_never_all() {
        let mut relief = Relief::default();
        let shares: Vec<_> = [0.5, 1.6, 1.6, 1.6, 1.6, 80.0, 80.0, 80.0, 0.8, 0.8]
            .into_iter()
            .map(|load| {
                relief.note(load, 0.8);
                (relief.share() * 100.0).round()
            })
            .collect();
        assert_eq!(shares, [100.0, 80.0, 60.0, 50.0, 50.0, 30.0, 10.0, 10.0, 30.0, 50.0]);
        assert!(!relief.note(f64::NAN, 0.8), "nonsense changes nothing");
    }
}
