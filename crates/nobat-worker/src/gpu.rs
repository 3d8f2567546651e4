//! Free memory of the GPU that CUDA numbers `device_id`, from the driver.
//!
//! `nvidia-smi`, which comes with the driver, is asked; a machine without one has
//! no figures, which is not an error.

use std::process::Command;

/// Memory that may still be taken on a GPU, in bytes; `None` where the driver
/// does not say. Takes tens of milliseconds.
pub(crate) fn free_bytes(device_id: i32) -> Option<u64> {
    let asked = Command::new("nvidia-smi")
        .args(["--query-gpu=index,uuid,memory.free", "--format=csv,noheader,nounits"])
        .output();
    let told = asked.ok().filter(|output| output.status.success())?;
    let visible = std::env::var("CUDA_VISIBLE_DEVICES").ok();
    free_in(&String::from_utf8_lossy(&told.stdout), visible.as_deref(), device_id)
}

/// Reads the driver's table, a line `index, uuid, MiB` a GPU.
///
/// CUDA numbers only the GPUs that `CUDA_VISIBLE_DEVICES` lists, by index or by the
/// beginning of a uuid, in its order.
/// Source: CUDA C++ Programming Guide, "CUDA Environment Variables".
fn free_in(table: &str, visible: Option<&str>, device_id: i32) -> Option<u64> {
    let number = usize::try_from(device_id).ok()?;
    let wanted = match visible {
        Some(visible) => visible.split(',').map(str::trim).nth(number)?.to_owned(),
        None => number.to_string(),
    };
    let mebibytes = table.lines().find_map(|line| {
        let mut fields = line.split(',').map(str::trim);
        let (index, uuid, free) = (fields.next()?, fields.next()?, fields.next()?);
        let is_wanted = index == wanted || wanted.starts_with("GPU-") && uuid.starts_with(&wanted);
        is_wanted.then(|| free.parse::<u64>().ok()).flatten()
    });
    mebibytes.map(|mebibytes| mebibytes << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "0, GPU-aa11, 100\n1, GPU-bb22, 200\n3, GPU-8932f937, 300\n";

    #[test]
    fn a_number_counts_the_visible_devices() {
        let free = |visible, device| free_in(TABLE, visible, device).map(|bytes| bytes >> 20);
        assert_eq!(free(None, 1), Some(200));
        assert_eq!(free(Some("3, 0"), 0), Some(300));
        assert_eq!(free(Some("3, 0"), 1), Some(100));
        assert_eq!(free(Some("3,0"), 2), None);
        assert_eq!(free(Some("GPU-8932"), 0), Some(300));
        assert_eq!(free(Some("GPU-77"), 0), None);
        assert_eq!(free(Some(""), 0), None);
        assert_eq!(free(None, -1), None);
    }

    #[test]
    fn a_table_that_cannot_be_read_has_no_figure() {
        assert_eq!(free_in("0, GPU-aa11, [N/A]\nNo devices were found", None, 0), None);
    }
}
