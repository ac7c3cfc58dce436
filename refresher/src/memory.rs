//! How much memory this process has.

/// The resident memory in bytes; nothing where the system does not tell it as Linux does
/// (proc_pid_status(5)).
pub fn resident_bytes() -> Option<u64> {
    resident(&std::fs::read_to_string("/proc/self/status").ok()?)
}

fn resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_resident_memory_is_read() {
        assert_eq!(resident("Name:\tx\nVmRSS:\t    8404 kB\nVmData: 1 kB\n"), Some(8_605_696));
        assert_eq!(resident("Name:\tx\n"), None);
    }
}
