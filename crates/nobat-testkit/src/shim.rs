//! A library put before a child process's own (`LD_PRELOAD`): what a test cannot
//! ask of a machine, a slow disk or a wrong clock, it gets here.

use std::path::PathBuf;
use std::process::Command;

/// Only background threads are slowed: a server's own start is not.
const SOURCE: &str = r#"
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int fdatasync(int fd) {
    const char *ms = getenv("SHIM_FSYNC_MS");
    if (ms && syscall(SYS_gettid) != getpid()) usleep(1000 * atoi(ms));
    return syscall(SYS_fdatasync, fd);
}

int clock_gettime(clockid_t clock, struct timespec *at) {
    int failed = syscall(SYS_clock_gettime, clock, at);
    const char *ahead = getenv("SHIM_CLOCK_S");
    if (!failed && ahead && clock == CLOCK_REALTIME) at->tv_sec += atoi(ahead);
    return failed;
}
"#;

/// The library, built with the C compiler that Rust links with.
pub struct Shim {
    folder: tempfile::TempDir,
}

impl Shim {
    /// Builds it.
    pub fn build() -> Shim {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let source = folder.path().join("shim.c");
        std::fs::write(&source, SOURCE).expect("written");
        let shim = Shim { folder };
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-w", "-o"])
            .arg(shim.path())
            .arg(&source)
            .status()
            .expect("the linker that built this test");
        assert!(built.success(), "cc failed");
        shim
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("shim.so")
    }

    /// The environment that loads it with one of its settings.
    pub fn env(&self, name: &str, value: &str) -> Vec<(String, String)> {
        vec![("LD_PRELOAD".to_owned(), self.path().display().to_string()), (name.to_owned(), value.to_owned())]
    }
}
