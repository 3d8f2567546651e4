//! Waking at a moment, to some ten microseconds.
//!
//! tokio's timers tick once a millisecond, which is as long as a small model takes. A timer
//! of the kernel wakes when it should.

use std::time::Instant;

#[cfg(target_os = "linux")]
mod kernel {
    use super::Instant;
    use rustix::fd::OwnedFd;
    use rustix::time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
    };
    use std::io;
    use tokio::io::unix::AsyncFd;

    /// One timer; it belongs to the runtime in which it was made.
    pub(in super::super) struct Alarm {
        timer: AsyncFd<OwnedFd>,
    }

    impl Alarm {
        #[expect(
            deprecated,
            reason = "for types that may replace their descriptor; an `OwnedFd` cannot, and what came instead is unsafe"
        )]
        pub(in super::super) fn new() -> io::Result<Alarm> {
            let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
            Ok(Alarm { timer: AsyncFd::new(timer)? })
        }

        /// Waits until `moment`; at once where it is past.
        pub(in super::super) async fn wait_until(&self, moment: Instant) -> io::Result<()> {
            let left = moment.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
            let value = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
            timerfd_settime(
                &self.timer,
                TimerfdTimerFlags::empty(),
                &Itimerspec { it_interval: zero, it_value: value },
            )?;
            loop {
                let mut ready = self.timer.readable().await?;
                let rang = ready.try_io(|timer| Ok(rustix::io::read(timer, &mut [0u8; 8])?));
                if let Ok(rang) = rang {
                    return rang.map(drop);
                }
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod kernel {
    use super::Instant;
    use std::io;

    /// A timer of tokio's: to the millisecond.
    pub(in super::super) struct Alarm;

    impl Alarm {
        pub(in super::super) fn new() -> io::Result<Alarm> {
            Ok(Alarm)
        }

        pub(in super::super) async fn wait_until(&self, moment: Instant) -> io::Result<()> {
            tokio::time::sleep_until(moment.into()).await;
            Ok(())
        }
    }
}

pub(super) use kernel::Alarm;
