//! Model and memory of GPUs, as their driver (NVML) reports them. Without a driver, everything is `None` and nothing is
//! logged.

use std::sync::OnceLock;

use nvml_wrapper::{Device, Nvml};

/// Memory of a GPU in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    /// Bytes in use, by this process and others.
    pub used: u64,
    /// Bytes in all.
    pub total: u64,
}

impl Memory {
    /// Bytes not in use.
    #[must_use]
    pub(crate) const fn free(self) -> u64 {
        self.total.saturating_sub(self.used)
    }
}

/// Memory of a device by its name in tagmill, such as `cuda:0`; `None` if it is no GPU or its driver does not answer.
#[must_use]
pub(crate) fn memory(device: &str) -> Option<Memory> {
    let memory = find(device)?.memory_info().ok()?;
    Some(Memory { used: memory.used, total: memory.total })
}

/// Share of the last moments, 0..=1, in which the GPU was busy.
#[must_use]
pub(crate) fn utilization(device: &str) -> Option<f64> {
    Some(f64::from(find(device)?.utilization_rates().ok()?.gpu) / 100.0)
}

/// Product name, such as `NVIDIA H200`.
#[must_use]
pub(crate) fn model(device: &str) -> Option<String> {
    find(device)?.name().ok()
}

/// Number of GPUs visible to CUDA in this process; `None` without a driver.
#[must_use]
pub(crate) fn count() -> Option<usize> {
    let all = driver()?.device_count().ok()? as usize;
    Some(match visible() {
        // The first invalid name ends the list.
        Some(names) => names.split(',').take_while(|name| !matches!(name.trim(), "" | "-1")).count().min(all),
        None => all,
    })
}

/// Version of the driver, such as `580.95.05`.
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

/// GPU with this CUDA number. CUDA and NVML both count in bus order, because `main` sets `CUDA_DEVICE_ORDER` unless the
/// operator has; CUDA counts only the GPUs in `CUDA_VISIBLE_DEVICES`.
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
