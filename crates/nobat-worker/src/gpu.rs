//! Free memory of the GPU that CUDA numbers `device_id`, from the driver.
//!
//! NVML is opened at run time where the driver brings it and never linked; a
//! machine without one has no figures, which is not an error.

use nvml_wrapper::{Device, Nvml};

/// Memory that may still be taken on a GPU, in bytes; `None` where the driver
/// does not say.
pub(crate) fn free_bytes(device_id: i32) -> Option<u64> {
    let nvml = Nvml::init().ok()?;
    let visible = std::env::var("CUDA_VISIBLE_DEVICES").ok();
    let device = match driver_name(visible.as_deref(), device_id)? {
        DriverName::Index(index) => nvml.device_by_index(index),
        DriverName::Uuid(uuid) => by_uuid(&nvml, uuid),
    };
    Some(device.ok()?.memory_info().ok()?.free)
}

/// What the driver calls a GPU that CUDA numbers.
#[derive(Debug, PartialEq)]
enum DriverName<'a> {
    Index(u32),
    Uuid(&'a str),
}

/// CUDA numbers only the GPUs that `CUDA_VISIBLE_DEVICES` lists, in its order; `None` for
/// a number beyond the list.
/// Source: CUDA C++ Programming Guide, "CUDA Environment Variables".
fn driver_name(visible: Option<&str>, device_id: i32) -> Option<DriverName<'_>> {
    let number = u32::try_from(device_id).ok()?;
    let Some(visible) = visible else { return Some(DriverName::Index(number)) };
    let entry = visible.split(',').map(str::trim).nth(number as usize)?;
    match entry.parse() {
        Ok(index) => Some(DriverName::Index(index)),
        Err(_) if entry.starts_with("GPU-") => Some(DriverName::Uuid(entry)),
        Err(_) => None,
    }
}

/// The variable may hold only the beginning of an id.
fn by_uuid<'nvml>(nvml: &'nvml Nvml, start: &str) -> Result<Device<'nvml>, nvml_wrapper::error::NvmlError> {
    for index in 0..nvml.device_count()? {
        let device = nvml.device_by_index(index)?;
        if device.uuid()?.starts_with(start) {
            return Ok(device);
        }
    }
    nvml.device_by_uuid(start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_counts_the_visible_devices() {
        assert_eq!(driver_name(None, 1), Some(DriverName::Index(1)));
        assert_eq!(driver_name(Some("3, 0"), 0), Some(DriverName::Index(3)));
        assert_eq!(driver_name(Some("3, 0"), 1), Some(DriverName::Index(0)));
        assert_eq!(driver_name(Some("3,0"), 2), None);
        assert_eq!(driver_name(Some("GPU-8932f937"), 0), Some(DriverName::Uuid("GPU-8932f937")));
        assert_eq!(driver_name(Some(""), 0), None);
        assert_eq!(driver_name(None, -1), None);
    }
}
