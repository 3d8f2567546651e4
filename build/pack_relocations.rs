// Included by the build scripts of the binaries.

/// Has relocations packed (DT_RELR) where the machine's C library can read them:
/// a start then reads 30 KB of them instead of over 1 MB, which stayed in memory.
/// Only glibc 2.36 and later loads such a binary: `NOBAT_PORTABLE=1` builds one
/// that older systems load too.
fn pack_relocations() {
    println!("cargo::rerun-if-env-changed=NOBAT_PORTABLE");
    if std::env::var_os("NOBAT_PORTABLE").is_some_and(|value| !value.is_empty()) {
        return;
    }
    let is = |name: &str, value: &str| std::env::var(name).is_ok_and(|found| found == value);
    let native = std::env::var("HOST").is_ok_and(|host| is("TARGET", &host));
    if native && is("CARGO_CFG_TARGET_OS", "linux") && is("CARGO_CFG_TARGET_ENV", "gnu") && glibc() >= Some((2, 36)) {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

/// Version of the C library, such as `(2, 36)`; `None` where nothing tells.
fn glibc() -> Option<(u32, u32)> {
    let told = std::process::Command::new("getconf").arg("GNU_LIBC_VERSION").output().ok()?;
    let told = String::from_utf8(told.stdout).ok()?;
    let (major, minor) = told.trim().strip_prefix("glibc ")?.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}
