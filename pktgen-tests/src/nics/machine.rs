//! Where sluiced runs with its NICs: a virtual machine, or this one.

use std::fmt;

/// A machine with two NICs for sluiced.
pub trait Machine: fmt::Debug {
    /// Runs a shell command of one line there, and gives what it printed.
    ///
    /// # Errors
    /// With what it printed when it fails, or is not over in time.
    fn run(&self, command: &str) -> Result<String, String>;

    /// Takes a NIC's link away at its other end, or brings it back.
    ///
    /// # Errors
    /// When that cannot be done.
    fn set_link(&self, nic: usize, is_up: bool) -> Result<(), String>;

    /// The folder for files.
    fn home(&self) -> &str;

    /// The PCI addresses of the NICs.
    fn pci(&self) -> [&str; 2];

    /// Whether it is there for the lab alone, which may then take its hugepages away.
    fn is_own(&self) -> bool;

    /// Writes a file there.
    ///
    /// # Errors
    /// When it cannot be written.
    fn write(&self, path: &str, text: &str) -> Result<(), String> {
        const LINES: usize = 50;
        self.run(&format!(": > {path}"))?;
        for lines in text.lines().collect::<Vec<_>>().chunks(LINES) {
            let quoted: String = lines.iter().map(|line| format!(" '{line}'")).collect();
            self.run(&format!("printf '%s\\n'{quoted} >> {path}"))?;
        }
        Ok(())
    }

    /// Binds NICs to a driver of the machine's kernel, away from what they were bound to.
    ///
    /// # Errors
    /// With what the kernel said.
    fn bind(&self, driver: &str, nics: &[&str]) -> Result<(), String> {
        self.run(&format!("modprobe {driver}"))?;
        for nic in nics {
            let device = format!("/sys/bus/pci/devices/{nic}");
            self.run(&format!(
                "if [ -e {device}/driver ]; then echo {nic} > {device}/driver/unbind; fi; echo {driver} > {device}/driver_override; echo {nic} > /sys/bus/pci/drivers_probe; [ \"$(basename $(readlink {device}/driver))\" = {driver} ]"
            ))?;
        }
        Ok(())
    }
}
