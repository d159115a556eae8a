//! What a GPU's memory holds, as its driver says.

use std::sync::OnceLock;

use nvml_wrapper::{Device, Nvml};

/// Bytes of a GPU's memory.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// Taken, by this process and others.
    pub used: u64,
    /// That there are.
    pub total: u64,
}

/// The memory of a device by the name a model has for it, such as `cuda:0`; `None` where it is no GPU, or none that can be
/// asked.
#[must_use]
pub fn memory(device: &str) -> Option<Memory> {
    static DRIVER: OnceLock<Option<Nvml>> = OnceLock::new();
    let (_, number) = device.split_once(':')?;
    let driver = DRIVER.get_or_init(|| Nvml::init().ok()).as_ref()?;
    let visible = std::env::var("CUDA_VISIBLE_DEVICES").ok();
    let memory = find(driver, number.parse().ok()?, visible.as_deref())?.memory_info().ok()?;
    Some(Memory { used: memory.used, total: memory.total })
}

/// CUDA counts the devices it is shown, the driver all there are.
fn find<'a>(driver: &'a Nvml, number: usize, visible: Option<&str>) -> Option<Device<'a>> {
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
        assert!(memory("cpu").is_none() && memory("cuda:x").is_none());
    }
}
