//! What a GPU is and what its memory holds, as its driver says (NVML). Where there is no driver, nothing is known, and
//! nothing complains.

use std::sync::OnceLock;

use nvml_wrapper::{Device, Nvml};

/// Bytes of a GPU's memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    /// Taken, by this process and others.
    pub used: u64,
    /// That there are.
    pub total: u64,
}

impl Memory {
    /// Taken by nobody.
    #[must_use]
    pub(crate) const fn free(self) -> u64 {
        self.total.saturating_sub(self.used)
    }
}

/// The memory of a device by the name a model has for it, such as `cuda:0`; `None` where it is no GPU, or none that can be
/// asked.
#[must_use]
pub(crate) fn memory(device: &str) -> Option<Memory> {
    let memory = find(device)?.memory_info().ok()?;
    Some(Memory { used: memory.used, total: memory.total })
}

/// The share of the last moments, 0..=1, in which something ran on it.
#[must_use]
pub(crate) fn utilization(device: &str) -> Option<f64> {
    Some(f64::from(find(device)?.utilization_rates().ok()?.gpu) / 100.0)
}

/// What its maker calls it, such as `NVIDIA H200`.
#[must_use]
pub(crate) fn model(device: &str) -> Option<String> {
    find(device)?.name().ok()
}

/// GPUs that CUDA can show to this process; `None` where there is no driver to ask.
#[must_use]
pub(crate) fn count() -> Option<usize> {
    let all = driver()?.device_count().ok()? as usize;
    Some(match visible() {
        // The first name that is none ends the list.
        Some(names) => names.split(',').take_while(|name| !matches!(name.trim(), "" | "-1")).count().min(all),
        None => all,
    })
}

/// The driver's version, such as `580.95.05`.
#[must_use]
pub(crate) fn driver_version() -> Option<String> {
    driver()?.sys_driver_version().ok()
}

fn driver() -> Option<&'static Nvml> {
    static DRIVER: OnceLock<Option<Nvml>> = OnceLock::new();
    DRIVER.get_or_init(|| Nvml::init().ok()).as_ref()
}

fn visible() -> Option<String> {
    std::env::var("CUDA_VISIBLE_DEVICES").ok()
}

fn find(device: &str) -> Option<Device<'static>> {
    let (_, number) = device.split_once(':')?;
    numbered(driver()?, number.parse().ok()?, visible().as_deref())
}

/// The GPU that CUDA numbers so. Both CUDA and NVML count in the order of the bus, because `main` sets `CUDA_DEVICE_ORDER`
/// unless the operator has; CUDA counts only those that `CUDA_VISIBLE_DEVICES` lists.
fn numbered<'a>(driver: &'a Nvml, number: usize, visible: Option<&str>) -> Option<Device<'a>> {
    let Some(visible) = visible.filter(|visible| !visible.is_empty()) else {
        return driver.device_by_index(u32::try_from(number).ok()?).ok();
    };
    let name = visible.split(',').nth(number)?.trim();
    match name.parse() {
        Ok(index) => driver.device_by_index(index).ok(),
        Err(_) => driver.device_by_uuid(name).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_has_no_memory_of_its_own() {
        assert!(memory("cpu").is_none() && memory("cuda:x").is_none() && utilization("cpu").is_none());
    }
}
